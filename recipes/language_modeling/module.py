"""Language modeling: any Hugging Face causal language model, its loss, metrics and samples."""

from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_adafactor import Adafactor
from recipes.language_modeling.architecture import architecture_refused, new_config, refuse_without_effect
from recipes.language_modeling.data import LanguageModelingData
from recipes.language_modeling.generation import continue_text, read_prompt
from recipes.language_modeling.loss import (
    chunked_loss,
    evaluate_chunked,
    fits_one_chunk,
    logit_scale,
    unsupported_reason,
)
from recipes.language_modeling.metrics import TokenMetrics, negative_log_likelihood
from recipes.language_modeling.packing import IGNORED
from recipes.messages import RecipeError
from recipes.models.positions import positions_of
from recipes.models.pretrained import check_vocabulary
from recipes.ranges import NonNegativeFloat, PositiveInt
from recipes.recipe import Recipe
from recipes.sharding.processes import data_parallel
from recipes.sharding.weights import is_sharded

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class LanguageModel(Recipe[LanguageModelingData]):
    """Fine-tunes a causal language model on running text, or trains one from scratch.

    Validation and test report the loss per token in nats (``val/loss``), its exponential (``val/perplexity``)
    and the fraction of tokens predicted correctly (``val/accuracy``), averaged over tokens.
    ``trainer.accumulate_grad_batches`` averages over batches; all have the same size except for the last one of an
    epoch, whose tokens have more weight.

    ``report.json`` gets ``before`` (the metrics before the first step), ``samples`` (``prompt``, ``before``,
    ``after``), ``tokens_per_second`` (in training, of all processes, without validation) and ``tokens``
    (of each split, and ``dropped``, which did not fill a block).

    Args:
        pretrained: Hub name (``org/model``, or ``org/model@v1`` for a commit, tag or branch) or folder
            (safetensors) of the model to start from, or a .gguf file, which is converted once and kept below
            HF_HOME. Null: a model that is trained from scratch.
        architecture: Values that override those of the model's configuration, such as ``{attention_dropout:
            0.1}``. Without ``pretrained`` the whole configuration: ``model_type`` and its sizes, such as
            ``{model_type: gpt2, n_layer: 4}``.
        optimizer: The optimizer: class and arguments, without the parameters. Biases and norms get no weight
            decay.
        loss: How loss and metrics are computed. ``full``: from the logits of a whole batch, tokens × vocabulary numbers
            several times over. ``chunked``: from those of some hundred tokens at a time, in the same time, with torch
            2.13 or newer; on a GPU in bfloat16, ``train/loss`` is rounded to bfloat16. Where tensor
            parallelism divides the head, each process computes the logits of its part of the vocabulary. Null: chunked
            where the logits take more than 128 MB in float32 and the model supports it.
        evaluate_before: Whether validation and test split are evaluated before the first step too, for the
            report.
        sample_prompts: Texts that are continued before and after training, for the report.
        sample_tokens: Maximum number of tokens to generate for each of them.
        sample_temperature: 0 always takes the most probable token, 1 samples from the model's distribution.
        kwargs: The arguments of every recipe.
    """

    data_class = LanguageModelingData
    auto_class = "AutoModelForCausalLM"

    def __init__(
        self,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        optimizer: OptimizerCallable = lambda params: Adafactor(
            params, lr=2e-4, scale_parameter=False, relative_step=False
        ),
        *,
        loss: Literal["full", "chunked"] | None = None,
        evaluate_before: bool = True,
        sample_prompts: list[str] | None = None,
        sample_tokens: PositiveInt = 40,
        sample_temperature: NonNegativeFloat = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, pretrained=pretrained, **kwargs)
        if pretrained is None and not (architecture or {}).get("model_type"):
            raise RecipeError(
                "model.pretrained is null: name a model to start from, or give model.architecture with a model_type "
                "and its sizes to train from scratch"
            )
        self.architecture = dict(architecture or {})
        self.loss = loss
        self.evaluate_before = evaluate_before
        self.sample_prompts = list(sample_prompts or [])
        self.sample_tokens = sample_tokens
        self.sample_temperature = sample_temperature
        self.before: dict[str, float] = {}
        self.samples_before: list[str] = []
        self._logit_scale: float | None = None
        self.val_metrics = TokenMetrics()
        self.test_metrics = TokenMetrics()

    def make_model(self, data: LanguageModelingData, weights: bool) -> nn.Module:
        """Loads or creates the model, and rejects one that is not causal."""
        if weights:
            check_vocabulary(data.tokenizer, self.model_config(data), self.pretrained, "data.tokenizer")
        try:
            model = super().make_model(data, weights)
        except (ValueError, RuntimeError) as error:
            if self.pretrained is not None:
                raise
            raise architecture_refused(error) from error
        if weights:
            self._check_causal(model)
        self._supports_chunks(model)
        return model

    def build_on_meta(self, data: LanguageModelingData) -> None:
        """Builds the model without weights; without values, its logits cannot be compared with its head's output."""
        super().build_on_meta(data)
        self._logit_scale = 1.0

    def model_config(self, data: LanguageModelingData) -> "PretrainedConfig":
        """The configuration of the model, with the values of ``architecture``.

        Raises:
            RecipeError: There is no such model or type of model, or ``architecture`` has a value that it does not
                have or rejects.
        """
        if self.pretrained is None:
            config = new_config(self.architecture, data.tokenizer)
        else:
            config = self.load_config(**self.architecture)
            refuse_without_effect(config, [key for key in self.architecture if not hasattr(config, key)])
        positions = positions_of(config)
        if positions is not None and data.block_size > positions:
            raise RecipeError(
                f"data.block_size is {data.block_size}, but {self._name()} reads {positions} tokens at most"
            )
        return config

    def _name(self) -> str:
        return f"'{self.pretrained}'" if self.pretrained else "the model of model.architecture"

    def _check_causal(self, model: Any) -> None:
        """Encoders such as BERT also load as language models, but attend to the token that they predict."""
        training = model.training
        tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device)
        tokens %= getattr(model.config.get_text_config(), "vocab_size", 6)
        with torch.no_grad(), isolate_rng():
            logits = model.eval()(input_ids=tokens, use_cache=False).logits.float()
        model.train(training)
        change = (logits[0] - logits[1]).abs().amax(dim=-1)
        if change[:3].max() > 0.02 * change[3]:
            raise RecipeError(
                f"model.pretrained: {self._name()} ({type(model).__name__}) reads later tokens to predict earlier "
                "ones: give a causal language model"
            )

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of shape (batch, tokens, vocabulary) of tokens of shape (batch, tokens)."""
        assert self.model is not None
        return self.model(input_ids=input_ids, use_cache=False).logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss per token of a batch; ``train/loss`` is the mean over the processes."""
        labels = batch["labels"]
        assert self.model is not None
        if scale := self._chunk_scale(batch["input_ids"]):
            loss = chunked_loss(self.model, batch["input_ids"], labels, scale, self.estimated_device_type)
        else:
            tokens = (labels != IGNORED).sum()
            loss = negative_log_likelihood(self(batch["input_ids"]), labels) / tokens
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labels), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``val/loss``, ``val/perplexity`` and ``val/accuracy``."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``test/loss``, ``test/perplexity`` and ``test/accuracy``."""
        self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: dict[str, Tensor], metrics: TokenMetrics) -> None:
        assert self.model is not None
        if scale := self._chunk_scale(batch["input_ids"]):
            evaluate_chunked(self.model, batch["input_ids"], batch["labels"], metrics.update, scale)
        else:
            metrics.update(self(batch["input_ids"]), batch["labels"])

    def _chunk_scale(self, input_ids: Tensor) -> float | None:
        """The model's logit scale if the loss of these tokens is computed in chunks, else None."""
        assert self.model is not None
        fits = self.loss is None and fits_one_chunk(self.model, input_ids.numel())
        if self.loss == "full" or (fits and not is_sharded(self)) or not self._supports_chunks(self.model):
            return None
        if self._logit_scale is None:
            # Processes that share a model all take this forward pass, also those whose batch is smaller.
            self._logit_scale = logit_scale(self.model, input_ids) or 0.0
            self._supports_chunks(self.model)
        return None if fits else self._logit_scale

    def _supports_chunks(self, model: nn.Module) -> bool:
        """Whether the loss can be computed in chunks.

        Raises:
            RecipeError: It cannot, but it is asked for.
        """
        reason = unsupported_reason(model)
        if reason is None and self._logit_scale == 0:
            reason = f"the logits of {type(model).__name__} are no multiple of what its head computes"
        if reason and self.loss == "chunked":
            raise RecipeError(f"model.loss is 'chunked', but {reason}: set model.loss to full")
        return reason is None

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/...``, the same on all processes."""
        self._log("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/...``, the same on all processes."""
        self._log("test", self.test_metrics)

    def _log(self, stage: str, metrics: TokenMetrics) -> None:
        values = {f"{stage}/{name}": value.float() for name, value in metrics.compute().items()}
        metrics.reset()
        # The values are the same on all processes; the mean of three of them could differ in the last bit.
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True, reduce_fx="max")

    def before_training(self, trainer: Trainer, data: LanguageModelingData) -> None:
        """Evaluates the model before its first step, without a change of the training's random state.

        Args:
            trainer: The trainer that will train it.
            data: Its text.
        """
        if not self.evaluate_before:
            return
        with isolate_rng():
            results = list(trainer.validate(self, datamodule=data, verbose=False)) if data.has_validation else []
            if data.has_test:
                results += trainer.test(self, datamodule=data, verbose=False)
        self.before = {name: value for result in results for name, value in result.items()}
        shown = [f"{name} {value:.2f}" for name, value in self.before.items() if name.endswith("perplexity")]
        if shown:
            rank_zero_info(f"Before training: {', '.join(shown)}")

    def on_fit_start(self) -> None:
        """Generates the samples before the first step, when the model is on its device."""
        for sample in self._samples():  # a resumed run generates samples after its training only
            read_prompt(**sample)
        alone = self.trainer.is_global_zero or is_sharded(self)  # all processes generate with a model they share
        if self.sample_prompts and not self.trainer.ckpt_path and alone:
            self.samples_before = self._continued()

    def _samples(self) -> list[dict[str, Any]]:
        """The prompts, as arguments of the functions in :mod:`recipes.language_modeling.generation`."""
        common = {"model": self.model, "tokenizer": self.data.tokenizer, "max_new_tokens": self.sample_tokens}
        return [
            {**common, "prompt": prompt, "key": f"model.sample_prompts[{i}]"}
            for i, prompt in enumerate(self.sample_prompts)
        ]

    def _continued(self) -> list[str]:
        return [continue_text(**sample, temperature=self.sample_temperature) for sample in self._samples()]

    def report_details(self) -> dict[str, Any]:
        """Further keys of the report of a language model."""
        assert self.model is not None
        seconds = self.history.training_seconds
        blocks = self.history.samples * data_parallel(self.trainer)[0]
        self.to(self.trainer.strategy.root_device)
        after = self._continued() if self.sample_prompts else []
        before: list[Any] = self.samples_before or [None] * len(after)
        samples = zip(self.sample_prompts, before, after, strict=True)
        return {
            "before": self.before,
            "samples": [{"prompt": prompt, "before": old, "after": new} for prompt, old, new in samples],
            "tokens_per_second": round(blocks * self.data.block_size / seconds, 1) if seconds else 0.0,
            "tokens": self.data.tokens,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves metrics and samples from before the training, for the report of a resumed run."""
        checkpoint["before_training"] = {
            "metrics": self.before,
            "prompts": self.sample_prompts,
            "samples": self.samples_before,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores them, unless this run has its own; samples only of the same prompts."""
        kept = checkpoint.get("before_training", {})
        self.before = self.before or kept.get("metrics", {})
        samples, prompts = kept.get("samples", []), kept.get("prompts", self.sample_prompts)  # older ones have none
        if prompts == self.sample_prompts and len(samples) == len(prompts):
            self.samples_before = self.samples_before or samples
