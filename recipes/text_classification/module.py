"""Text classification: any Hugging Face encoder with a classification head, its loss and its metrics."""

import time
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MetricCollection
from tqdm import tqdm

from lightning_adafactor import Adafactor
from recipes.messages import RecipeError, tell
from recipes.models.positions import positions_of
from recipes.models.pretrained import check_vocabulary, tell_initialized
from recipes.ranges import FractionBelow1
from recipes.recipe import Recipe
from recipes.sharding.weights import is_sharded
from recipes.text_classification.data import TextClassificationData
from recipes.text_classification.head import fit, initialize_head, inputs_of, output_layers
from recipes.text_classification.labels import trained_labels
from recipes.text_classification.loss import ClassWeights, class_weights, training_loss
from recipes.text_classification.metrics import classification_metrics
from recipes.text_classification.pooling import Pooling, is_wrapped, with_mean_pooling
from recipes.text_classification.predictions import PredictionWriter

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"),
    *("hidden_dropout", "dropout_rate", "embedding_dropout", "mlp_dropout"),  # Funnel, T5, ModernBERT
    *("resid_pdrop", "embd_pdrop", "attn_pdrop"),  # GPT-2
    *("resid_dropout", "embed_dropout", "residual_dropout"),  # GPT-Neo, StarCoder2
    *("lsh_attention_probs_dropout_prob", "local_attention_probs_dropout_prob"),  # Reformer
    *("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout"),
    *("summary_first_dropout", "summary_last_dropout"),  # XLM, XLNet
)
"""Names of dropout within the encoder and before the head in transformers' configurations."""

MOST_TEXTS = 20_000
"""The most texts that ``head_first`` fits the head to; more take time and hardly change it."""


class TextClassifier(Recipe[TextClassificationData]):
    """Fine-tunes a pre-trained encoder to label texts, or pairs of texts.

    Validation and test report the mean cross-entropy (``val/loss``), accuracy over all examples
    (``val/accuracy``, micro) and F1 averaged over labels (``val/f1``, macro). The
    label names come from the data and are saved in the model.

    Args:
        pretrained: Hub name (``org/model``, or ``org/model@v1`` for a commit, tag or branch) or folder
            of the encoder to start from (safetensors). A missing head is randomly initialized; the folder
            ``model/`` of an earlier run has its own.
        optimizer: The optimizer: class and arguments, without the parameters. Biases and norms get no weight
            decay.
        label_smoothing: Fraction of the target that is distributed evenly over all labels; 0.1 is common. Of the
            training loss only.
        class_weights: Weights for the rows of rare labels in the training loss, with a mean of 1 over an epoch's rows.
            ``balanced``: all labels count the same together, however many rows they have. ``sqrt``: proportional to
            1 / sqrt(rows), in between. Null: all rows count the same. ``val/loss`` and ``test/loss`` have no weights
            and no smoothing, and stay comparable.
        head_first: Whether the output layer is fitted to the pre-trained encoder's outputs before the training (a
            logistic regression, as in LP-FT, arXiv 2202.10054), instead of starting at random. Takes the time of one
            forward pass over the training texts, and saves many steps where the encoder's outputs are good already,
            as those of a sentence encoder with ``pooling: mean`` are. Decoders need ``pooling: mean`` for it.
        dropout: Dropout within the encoder and before the head. Null: the encoder's own.
        pooling: How the head gets one vector of a text. ``mean``: the average over its tokens, with which sentence
            encoders such as MiniLM were trained. Null: as transformers' classifier of the architecture does, most
            by the first token and a pre-trained layer after it, decoders by the last token. With ``mean``,
            transformers loads ``model/`` of most architectures (not of ModernBERT, which has this setting) only
            after ``import recipes.models.mean_pooling``.
        predictions: Where ``predict`` writes: a .csv or .jsonl file, within the run's folder unless absolute.
        kwargs: The arguments of every recipe.
    """

    monitor = "val/f1"
    monitor_mode = "max"
    data_class = TextClassificationData
    auto_class = "AutoModelForSequenceClassification"

    def __init__(
        self,
        pretrained: str,
        optimizer: OptimizerCallable = lambda params: Adafactor(
            params, lr=3e-4, scale_parameter=False, relative_step=False
        ),
        *,
        label_smoothing: FractionBelow1 = 0.0,
        class_weights: ClassWeights | None = None,
        head_first: bool = False,
        dropout: FractionBelow1 | None = None,
        pooling: Pooling | None = None,
        predictions: str = "predictions.csv",
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, pretrained=pretrained, **kwargs)
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self._weights: Tensor | None = None
        self.head_first = head_first
        self.head_fit: dict[str, Any] = {}
        self.dropout = dropout
        self.pooling = pooling
        self.run_callbacks.append(PredictionWriter(predictions))

    def configure_model(self) -> None:
        """Loads the encoder with a head for the labels of the data, and creates the metrics for them."""
        if self.model is not None:
            return
        super().configure_model()
        self.val_metrics = classification_metrics(len(self.data.labels), "val")
        self.test_metrics = classification_metrics(len(self.data.labels), "test")

    def model_config(self, data: TextClassificationData) -> "PretrainedConfig":
        """The encoder's configuration with a head for the labels of the data and this module's dropout."""
        config = self.load_config(
            num_labels=len(data.labels),
            id2label=dict(enumerate(data.labels)),
            label2id={label: i for i, label in enumerate(data.labels)},
        )
        config.problem_type = "single_label_classification"  # the base model's own may be another
        if self.pooling == "mean":
            config = with_mean_pooling(config, str(self.pretrained))
        check_vocabulary(data.tokenizer, config, self.pretrained, "data.tokenizer")
        positions = positions_of(config)
        if positions is not None and data.max_length > positions:
            raise RecipeError(
                f"data.max_length is {data.max_length}, but '{self.pretrained}' reads {positions} tokens at most"
            )
        # A decoder classifies by the last token that is not padding, for which it needs the id of the padding token.
        parts = list({id(part): part for part in (config, config.get_text_config())}.values())
        for part in parts:
            part.pad_token_id = data.tokenizer.pad_token_id
        if self.dropout is not None:
            named = [(part, name) for part in parts for name in DROPOUTS if hasattr(part, name)]
            if not named:
                raise RecipeError(
                    f"model.dropout is {self.dropout}, but the configuration of '{self.pretrained}' "
                    f"({config.model_type}) has no dropout that is known here: set model.dropout to null"
                )
            for part, name in named:
                setattr(part, name, self.dropout)
        return config

    def load_weights(self, auto_class: Any, config: "PretrainedConfig", **kwargs: Any) -> "PreTrainedModel":
        """The encoder with its head; with ``pooling`` of a model that has another head, a new one is initialized."""
        before = self.load_config()
        if not is_wrapped(config) or is_wrapped(before):
            return super().load_weights(auto_class, config, **kwargs)
        from transformers import AutoModel

        from recipes.models.mean_pooling import MeanPoolingForSequenceClassification, without_pooler

        text_config: Any = config.get_text_config()
        encoder: Any = super().load_weights(AutoModel, text_config, **without_pooler(text_config))
        model = MeanPoolingForSequenceClassification(config, encoder)  # type: ignore[arg-type]
        tell_initialized(str(self.pretrained), ("classifier.bias", "classifier.weight"))
        return model.to(encoder.dtype).train()

    def make_model(self, data: TextClassificationData, weights: bool) -> nn.Module:
        """The encoder with its head; the head of a model that was trained on other labels is initialized again."""
        before = self.load_config()
        trained, trainer = trained_labels(before), data.trainer
        replaced = trained and self.pooling == "mean" and is_wrapped(self.model_config(data)) and not is_wrapped(before)
        if replaced and trainer and trainer.state.fn != TrainerFn.FITTING and not trainer.ckpt_path:
            raise RecipeError(
                f"model.pooling is mean, but '{self.pretrained}' was trained with another head: omit model.pooling, or "
                "give the --ckpt_path of a run with it"
            )
        model = super().make_model(data, weights)
        if weights and trained and trained != data.labels:
            initialize_head(model, len(data.labels))
            tell(
                f"model.pretrained: '{self.pretrained}' was trained on the labels {_some(trained)}, and data.train has "
                f"{_some(data.labels)}: its output layer is initialized at random"
            )
        return model

    def on_fit_start(self) -> None:
        """Computes the weights of the labels and fits the head, when the model is on its device."""
        if self.class_weights is not None:
            weights = class_weights(self.data.label_counts(), self.class_weights, self.data.balance)
            self._weights = torch.tensor(weights, device=self.device)
        if self.head_first and not self.trainer.ckpt_path:
            self._fit_head()

    def _fit_head(self) -> None:
        """Fits the output layer to the encoder's outputs; all processes do the same."""
        if is_sharded(self):
            raise RecipeError(
                "model.head_first is true, which is not supported where processes shard the model: set it to false"
            )
        layers = output_layers(self.model, len(self.data.labels))
        if len(layers) != 1:
            raise RecipeError(
                f"model.head_first is true, but '{self.pretrained}' has {len(layers)} output layers: set it to false"
            )
        assert self.model is not None
        strategy, start = self.trainer.strategy, time.perf_counter()
        most = self.data.eval_batch_size if self.trainer.fast_dev_run else MOST_TEXTS  # type: ignore[attr-defined]
        loader = self.data.some_training_batches(most)
        shown = tqdm(loader, "Fitting the head", leave=False, disable=self.trainer.progress_bar_callback is None)
        with strategy.precision_plugin.forward_context():
            features, labels = inputs_of(self.model, layers[0], map(strategy.batch_to_device, shown))
        # It has each row once, also where data.balance draws others in the training.
        counts, kind = self.data.label_counts(), self.class_weights
        weights = None if kind is None else torch.tensor(class_weights(counts, kind))
        loss = fit(layers[0], features, labels, self.label_smoothing, weights)
        seconds = time.perf_counter() - start
        self.head_fit = {"texts": len(labels), "train_loss": loss, "seconds": round(seconds, 1)}
        rank_zero_info(f"The head was fitted to {len(labels)} texts in {seconds:.0f} s: training loss {loss:.3f}")

    def report_details(self) -> dict[str, Any]:
        """The fit of the head and the weights of the labels, if there are any."""
        details: dict[str, Any] = {"head_first": self.head_fit} if self.head_fit else {}
        if self._weights is not None:
            details["class_weights"] = dict(zip(self.data.labels, self._weights.tolist(), strict=True))
        return details

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the labels in the order of the outputs, how texts were read, and what the report says of the head."""
        checkpoint["labels"] = list(self.data.labels)
        checkpoint["reading"] = self._reading()
        checkpoint["head_fit"] = self.head_fit

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compares the labels of a checkpoint with those of the data, and says where texts are read otherwise.

        Raises:
            RecipeError: They are not the same, or in another order.
        """
        self.head_fit = self.head_fit or checkpoint.get("head_fit", {})
        trained = checkpoint.get("labels")
        if trained is not None and trained != self.data.labels:
            raise RecipeError(
                f"--ckpt_path: the checkpoint was trained on the labels {_some(trained)}, and the data has "
                f"{_some(self.data.labels)}: give the data.train that it was trained on"
            )
        own = self._reading()
        for key, value in checkpoint.get("reading", own).items():
            if own[key] != value:
                tell(f"data.{key} is {own[key]}, and the checkpoint was trained with {value}")

    def _reading(self) -> dict[str, Any]:
        """The settings of the data that its predictions depend on."""
        return {"text": list(self.data.text), "max_length": self.data.max_length}

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits of shape (batch, labels), in float32, of tokens of shape (batch, tokens)."""
        assert self.model is not None
        return self.model(**inputs).logits.float()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch, with smoothing and weights; ``train/loss`` is the mean over the processes."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        loss = training_loss(self(**inputs), batch["labels"], self.label_smoothing, self._weights)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["labels"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``val/loss``, ``val/accuracy`` and ``val/f1``."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``test/loss``, ``test/accuracy`` and ``test/f1``."""
        self._evaluate(batch, "test", self.test_metrics)

    def _evaluate(self, batch: dict[str, Tensor], stage: str, metrics: MetricCollection) -> None:
        labels = batch["labels"]
        metrics.update(self(**{name: tensor for name, tensor in batch.items() if name != "labels"}), labels)
        self.log_dict(dict(metrics.items()), batch_size=len(labels), prog_bar=stage == "val")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Probabilities of shape (batch, labels) in float32."""
        return self(**batch).softmax(dim=-1)


def _some(labels: list[str]) -> str:
    """The first five labels, for a message."""
    return ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
