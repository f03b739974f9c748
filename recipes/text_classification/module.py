"""Text classification: any Hugging Face encoder with a classification head, its loss and its metrics."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_adafactor import Adafactor
from recipes.messages import RecipeError
from recipes.models.pretrained import check_vocabulary, load_config, load_model, save
from recipes.runs.history import RunHistory
from recipes.text_classification.data import TextClassificationData
from recipes.text_classification.predictions import PredictionWriter
from recipes.training import optimizer as optimization

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class TextClassifier(LightningModule):
    """Fine-tunes a pre-trained encoder to label texts, or pairs of texts.

    Validation and test report the mean cross-entropy (``val/loss``), accuracy over all examples
    (``val/accuracy``, micro) and F1 averaged over labels, each counting the same (``val/f1``, macro). The
    label names come from the data and are saved in the model.

    Args:
        pretrained: Hub name (``org/model`` or, to stay with one commit, tag or branch, ``org/model@v1``) or folder
            of the encoder to start from (safetensors). A head that it lacks starts at random; the folder
            ``model/`` of an earlier run brings its own.
        optimizer: The optimizer: class and arguments, without the parameters. Biases and norms get no weight
            decay.
        schedule: How the learning rate runs from its warm-up to the last step. Null: the optimizer decides.
        warmup: Share of the steps (below 1) or number of steps in which the learning rate rises to its full
            value.
        schedule_args: More arguments of the schedule, such as ``{num_cycles: 2}`` of
            ``cosine_with_restarts``.
        label_smoothing: Share of the target spread evenly over all labels; 0.1 is common.
        dropout: Dropout within the encoder and before the head. Null: the encoder's own.
        dtype: What the parameters are held in. ``bfloat16`` halves their memory; mixed precision is the
            trainer's.
        predictions: Where ``predict`` writes: a .csv or .jsonl file, within the run's folder unless absolute.
    """

    monitor = "val/f1"
    monitor_mode = "max"

    def __init__(
        self,
        pretrained: str,
        optimizer: OptimizerCallable = lambda params: Adafactor(
            params, lr=3e-4, scale_parameter=False, relative_step=False
        ),
        schedule: optimization.Schedule | None = "linear",
        warmup: float = 0.06,
        schedule_args: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        dropout: float | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        predictions: str = "predictions.csv",
    ) -> None:
        super().__init__()
        for key, value, most in (
            ("warmup", warmup, None),
            ("label_smoothing", label_smoothing, 1),
            ("dropout", dropout, 1),
        ):
            if value is not None and (value < 0 or (most is not None and value >= most)):
                raise RecipeError(f"model.{key} is {value}: give 0 or more" + (", below 1" if most else ""))
        self.save_hyperparameters(ignore=["optimizer"])  # weights_only loading would refuse a callable
        self.pretrained = pretrained
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.schedule_args = schedule_args
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.dtype_name = dtype
        self.run_callbacks: list[Callback] = [RunHistory(), PredictionWriter(predictions)]
        self.model: PreTrainedModel | None = None

    def configure_callbacks(self) -> list[Callback]:
        """The history that the report is made of, and the writer of predictions."""
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in self.run_callbacks if callback not in present]

    @property
    def data(self) -> TextClassificationData:
        """The data module that this run reads labels and tokenizer from."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TextClassificationData):
            raise RecipeError("TextClassifier takes its labels from recipes.TextClassificationData: set data to it")
        return data

    def configure_model(self) -> None:
        """Loads the encoder with a head for the labels of the data, once."""
        if self.model is not None:
            return
        from transformers import AutoModelForSequenceClassification

        config = self._configuration(self.data)
        self.model = load_model(
            AutoModelForSequenceClassification, self.pretrained, "model.pretrained", config, self.dtype_name
        )
        labels = self.data.labels
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(len(labels), average="micro"),
                "f1": MulticlassF1Score(len(labels), average="macro"),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def build_on_meta(self, data: TextClassificationData) -> None:
        """Builds the model that :meth:`configure_model` would load, without weights, on the meta device.

        Args:
            data: Where the labels are found; no text is tokenised.
        """
        from torch import device
        from transformers import AutoModelForSequenceClassification

        data.find_labels(self.pretrained)
        config = self._configuration(data)
        with device("meta"):
            self.model = AutoModelForSequenceClassification.from_config(config, dtype=self.dtype_name).train()

    def _configuration(self, data: TextClassificationData) -> "PretrainedConfig":
        """The encoder's configuration with a head for the labels of the data and this module's dropout."""
        labels = data.labels
        tokenizer = data.tokenizer
        config = load_config(
            self.pretrained,
            "model.pretrained",
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
        check_vocabulary(tokenizer, config, self.pretrained, "data.tokenizer")
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and data.max_length > positions:
            raise RecipeError(
                f"data.max_length is {data.max_length}, but '{self.pretrained}' reads {positions} tokens at most"
            )
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        if self.dropout is not None:
            for name in (
                "hidden_dropout_prob",
                "attention_probs_dropout_prob",
                "dropout",
                "attention_dropout",
            ):
                if hasattr(config, name):
                    setattr(config, name, self.dropout)
        return config

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits of shape (batch, labels), in float32, of tokens of shape (batch, tokens)."""
        assert self.model is not None
        return self.model(**inputs).logits.float()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean cross-entropy of a batch, logged as ``train/loss``."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        loss = functional.cross_entropy(self(**inputs), batch["labels"], label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["labels"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``val/loss``, ``val/accuracy`` and ``val/f1``."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``test/loss``, ``test/accuracy`` and ``test/f1``."""
        self._evaluate(batch, "test", self.test_metrics)

    def _evaluate(self, batch: dict[str, Tensor], stage: str, metrics: MetricCollection) -> None:
        labels = batch["labels"]
        logits = self(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        loss = functional.cross_entropy(logits, labels)
        metrics.update(logits, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(labels), sync_dist=True)
        self.log_dict(dict(metrics.items()), batch_size=len(labels), prog_bar=stage == "val")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Probabilities of shape (batch, labels) in float32."""
        return self(**batch).softmax(dim=-1)

    def configure_optimizers(self) -> Any:
        """Our Adafactor, or what ``optimizer`` names, under the schedule."""
        assert self.model is not None
        return optimization.configure(
            self.model, self.trainer, self.optimizer, self.schedule, self.warmup, self.schedule_args
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes model, label names and tokenizer in Hugging Face's format, as ``pipeline`` loads it."""
        assert self.model is not None
        save(self.model, self.data.tokenizer, folder)
