"""Language modelling: any Hugging Face causal language model, its loss and what it writes."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_adafactor import Adafactor
from recipes.language_modeling.data import LanguageModelingData
from recipes.language_modeling.generation import continue_text, read_prompt
from recipes.language_modeling.metrics import TokenMetrics, negative_log_likelihood
from recipes.language_modeling.packing import IGNORED
from recipes.messages import RecipeError
from recipes.models.gguf import as_folder, gguf_file, is_gguf
from recipes.models.pretrained import check_vocabulary, load_config, load_model, save
from recipes.runs.history import RunHistory
from recipes.training import optimizer as optimization

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class LanguageModel(LightningModule):
    """Fine-tunes a causal language model on running text, or trains one from nothing.

    Validation and test report the loss per token in nats (``val/loss``), its exponential (``val/perplexity``)
    and the share of tokens that were the most probable one (``val/accuracy``), each token counting the same.
    With ``trainer.accumulate_grad_batches`` the mean over batches is taken; batches are of equal size but for
    the last one of an epoch, whose tokens weigh more.

    ``report.json`` gets ``before`` (the metrics before the first step), ``samples`` (``prompt``, ``before``,
    ``after``), ``tokens_per_second`` (in training, of all processes, validations left out) and ``tokens``
    (those of each split, and ``dropped``, which did not fill a block).

    Args:
        pretrained: Hub name (``org/model`` or, to stay with one commit, tag or branch, ``org/model@v1``) or folder
            (safetensors) of the model to start from, or a .gguf file, which is unpacked once and kept below
            HF_HOME. Null: a model that starts at random.
        architecture: Values in place of those of the model's configuration, such as ``{attention_dropout:
            0.1}``. Without ``pretrained`` all that there is: ``model_type`` and its sizes, such as
            ``{model_type: gpt2, n_layer: 4}``.
        optimizer: The optimizer: class and arguments, without the parameters. Biases and norms get no weight
            decay.
        schedule: How the learning rate runs from its warm-up to the last step. Null: the optimizer decides.
        warmup: Share of the steps (below 1) or number of steps in which the learning rate rises to its full
            value.
        schedule_args: More arguments of the schedule, such as ``{min_lr_rate: 0.1}`` of
            ``cosine_with_min_lr``.
        gradient_checkpointing: Whether activations are computed again in the backward pass and not kept: less
            memory, for the time of one more forward pass.
        dtype: What the parameters are held in. ``bfloat16`` halves their memory and that of the gradients,
            and needs an optimizer that rounds stochastically; mixed precision is the trainer's.
        evaluate_before: Whether validation and test split are evaluated before the first step too, for the
            report.
        sample_prompts: Texts that are continued before and after training, for the report.
        sample_tokens: Tokens written for each of them at most.
        sample_temperature: 0 takes the most probable token each time, 1 draws from all; see ``recipes generate``.
        trust_remote_code: Whether code that comes with the model or its tokenizer may run on this machine.
    """

    monitor = "val/loss"
    monitor_mode = "min"

    def __init__(
        self,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        optimizer: OptimizerCallable = lambda params: Adafactor(
            params, lr=2e-4, scale_parameter=False, relative_step=False
        ),
        schedule: optimization.Schedule | None = "linear",
        warmup: float = 0.06,
        schedule_args: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        evaluate_before: bool = True,
        sample_prompts: list[str] | None = None,
        sample_tokens: int = 40,
        sample_temperature: float = 0.0,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        for key, value in (("warmup", warmup), ("sample_temperature", sample_temperature)):
            if value < 0:
                raise RecipeError(f"model.{key} is {value}: give 0 or more")
        if sample_tokens < 1:
            raise RecipeError(f"model.sample_tokens is {sample_tokens}: give 1 or more")
        if pretrained is None and not (architecture or {}).get("model_type"):
            raise RecipeError(
                "model.pretrained is null: name a model to start from, or give model.architecture with a model_type "
                "and its sizes to start from nothing"
            )
        self.save_hyperparameters(ignore=["optimizer"])  # weights_only loading would refuse a callable
        self.pretrained = pretrained
        self.architecture = dict(architecture or {})
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.schedule_args = schedule_args
        self.gradient_checkpointing = gradient_checkpointing
        self.dtype_name = dtype
        self.evaluate_before = evaluate_before
        self.sample_prompts = list(sample_prompts or [])
        self.sample_tokens = sample_tokens
        self.sample_temperature = sample_temperature
        self.trust_remote_code = trust_remote_code
        self.history = RunHistory()
        self.before: dict[str, float] = {}
        self.samples_before: list[str] = []
        self.val_metrics = TokenMetrics()
        self.test_metrics = TokenMetrics()
        self.model: PreTrainedModel | None = None

    def configure_callbacks(self) -> list[Callback]:
        """The history that the report is made of."""
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        return [] if self.history in present else [self.history]

    @property
    def data(self) -> LanguageModelingData:
        """The data module that this run takes its tokenizer from."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, LanguageModelingData):
            raise RecipeError("LanguageModel takes its text from recipes.LanguageModelingData: set data to it")
        return data

    def configure_model(self) -> None:
        """Loads the model, or makes it, once."""
        if self.model is not None:
            return
        from transformers import AutoModelForCausalLM

        config = self.load_config()
        check_vocabulary(self.data.tokenizer, config, self.pretrained, "data.tokenizer")
        self._check_positions(config, self.data)
        if self.pretrained is None:
            try:
                model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self.dtype_name)).train()
            except (ValueError, RuntimeError) as error:
                raise self._refused(error) from error
        else:
            folder = as_folder(self.pretrained, "model.pretrained")
            model = load_model(
                AutoModelForCausalLM, folder, "model.pretrained", config, self.dtype_name, self.trust_remote_code
            )
        self._set_checkpointing(model)
        self._check_causal(model)
        self.model = model

    def build_on_meta(self, data: LanguageModelingData) -> None:
        """Builds the model that :meth:`configure_model` would load or make, without weights, on the meta device.

        Args:
            data: Where a model that starts from nothing has its vocabulary from; no text is packed.
        """
        from transformers import AutoModelForCausalLM

        if self.pretrained is None:
            data.find_tokenizer(self)
            config = self._new_config(data.tokenizer)
        elif is_gguf(self.pretrained):
            file = gguf_file(self.pretrained, "model.pretrained")
            config = load_config(str(file.parent), "model.pretrained", gguf_file=file.name, **self.architecture)
        else:
            config = self.load_config()
        self._check_positions(config, data)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, self.dtype_name), trust_remote_code=self.trust_remote_code
            )
        self._set_checkpointing(model)
        self.model = model.train()

    def _check_positions(self, config: "PretrainedConfig", data: LanguageModelingData) -> None:
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and data.block_size > positions:
            raise RecipeError(
                f"data.block_size is {data.block_size}, but {self._name()} reads {positions} tokens at most"
            )

    def _set_checkpointing(self, model: "PreTrainedModel") -> None:
        if not self.gradient_checkpointing:
            return
        try:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise RecipeError(f"model.gradient_checkpointing: {self._name()} cannot do it: {error}") from error

    def load_config(self) -> "PretrainedConfig":
        """The configuration of the model, with ``architecture`` in it; nothing else is loaded.

        Raises:
            RecipeError: If there is no such model or kind of model, or ``architecture`` has a value that it does not
                know or cannot take.
        """
        if self.pretrained is not None:
            folder = as_folder(self.pretrained, "model.pretrained")
            config = load_config(
                folder, "model.pretrained", trust_remote_code=self.trust_remote_code, **self.architecture
            )
            self._refuse_without_effect(config, [key for key in self.architecture if not hasattr(config, key)])
            return config
        return self._new_config(self.data.tokenizer)

    def _new_config(self, tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
        """The configuration of a model that starts from nothing and reads what a tokenizer writes."""
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

        values = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **self.architecture,
        }
        kind = values.pop("model_type")
        try:
            config, plain = AutoConfig.for_model(kind, **values), AutoConfig.for_model(kind)
            ignored = []
            for key in (key for key in self.architecture if not hasattr(plain, key)):
                # It is kept as an attribute. Some older names, such as rope_theta, change others.
                without = AutoConfig.for_model(kind, **{name: value for name, value in values.items() if name != key})
                if {**config.to_dict(), key: None} == {**without.to_dict(), key: None}:
                    ignored.append(key)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise self._refused(error) from error
        self._refuse_without_effect(plain, ignored)
        return config

    @staticmethod
    def _refuse_without_effect(config: "PretrainedConfig", keys: list[str]) -> None:
        """Refuses what transformers passes over in silence, such as a misspelt size."""
        keys = [key for key in keys if key not in ("attn_implementation", "torch_dtype")]
        if keys:
            near = get_close_matches(keys[0], [*config.to_dict(), *config.attribute_map], n=1)
            raise RecipeError(
                f"model.architecture.{keys[0]}: {type(config).__name__} has no such value"
                + (f"; did you mean {near[0]}?" if near else "")
            )

    def _refused(self, error: Exception) -> RecipeError:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        return RecipeError(f"model.architecture: transformers refuses it: {cause[:200]}")

    def _name(self) -> str:
        return f"'{self.pretrained}'" if self.pretrained else "the model of model.architecture"

    def _check_causal(self, model: "PreTrainedModel") -> None:
        """Encoders such as BERT load as language models too, but see the very token they are to foretell."""
        training = model.training
        tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device)
        with torch.no_grad(), isolate_rng():
            logits = model.eval()(input_ids=tokens, use_cache=False).logits.float()
        model.train(training)
        change = (logits[0] - logits[1]).abs().amax(dim=-1)
        if change[:3].max() > 0.02 * change[3]:
            raise RecipeError(
                f"model.pretrained: {self._name()} ({type(model).__name__}) reads later tokens to foretell earlier "
                "ones: give a causal language model"
            )

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of shape (batch, tokens, vocabulary) of tokens of shape (batch, tokens)."""
        assert self.model is not None
        return self.model(input_ids=input_ids, use_cache=False).logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss per token of a batch, logged as ``train/loss``."""
        labels = batch["labels"]
        tokens = (labels != IGNORED).sum()
        loss = negative_log_likelihood(self(batch["input_ids"]), labels) / tokens
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``val/loss``, ``val/perplexity`` and ``val/accuracy``."""
        self.val_metrics.update(self(batch["input_ids"]), batch["labels"])

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``test/loss``, ``test/perplexity`` and ``test/accuracy``."""
        self.test_metrics.update(self(batch["input_ids"]), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/...``, the same on all processes."""
        self._log("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/...``, the same on all processes."""
        self._log("test", self.test_metrics)

    def _log(self, stage: str, metrics: TokenMetrics) -> None:
        values = {f"{stage}/{name}": value.float() for name, value in metrics.compute().items()}
        metrics.reset()
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True)

    def before_training(self, trainer: Trainer, datamodule: LanguageModelingData) -> None:
        """Evaluates the model before its first step, and leaves the random numbers of the training alone.

        Args:
            trainer: The trainer that will train it.
            datamodule: Its text.
        """
        if not self.evaluate_before:
            return
        with isolate_rng():
            results = list(trainer.validate(self, datamodule=datamodule, verbose=False))
            if datamodule.has_test:
                results += trainer.test(self, datamodule=datamodule, verbose=False)
        self.before = {name: value for result in results for name, value in result.items()}
        shown = [f"{name} {value:.2f}" for name, value in self.before.items() if name.endswith("perplexity")]
        if shown:
            rank_zero_info(f"Before training: {', '.join(shown)}")

    def on_fit_start(self) -> None:
        """Lets the model write before its first step, when it is on its device."""
        for sample in self._samples():  # a run that goes on writes after its training only
            read_prompt(**sample)
        if self.sample_prompts and not self.trainer.ckpt_path and self.trainer.is_global_zero:
            self.samples_before = self._continued()

    def _samples(self) -> list[dict[str, Any]]:
        """What is to be continued, as the functions of :mod:`recipes.language_modeling.generation` take it."""
        common = {"model": self.model, "tokenizer": self.data.tokenizer, "max_new_tokens": self.sample_tokens}
        return [
            {**common, "prompt": prompt, "key": f"model.sample_prompts[{i}]"}
            for i, prompt in enumerate(self.sample_prompts)
        ]

    def _continued(self) -> list[str]:
        return [continue_text(**sample, temperature=self.sample_temperature) for sample in self._samples()]

    def report_details(self) -> dict[str, Any]:
        """What the report of a language model has beyond that of any recipe."""
        assert self.model is not None
        seconds = self.history.training_seconds
        blocks = self.history.samples * self.trainer.world_size
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
        """Keeps what was before training for the report of a run that goes on from here."""
        checkpoint["before_training"] = {"metrics": self.before, "samples": self.samples_before}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it up, where this run has not seen it itself."""
        kept = checkpoint.get("before_training", {})
        self.before = self.before or kept.get("metrics", {})
        if len(kept.get("samples", [])) == len(self.sample_prompts):
            self.samples_before = self.samples_before or kept["samples"]

    def configure_optimizers(self) -> Any:
        """Our Adafactor, or what ``optimizer`` names, under the schedule."""
        assert self.model is not None
        return optimization.configure(
            self.model, self.trainer, self.optimizer, self.schedule, self.warmup, self.schedule_args
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes model and tokenizer in Hugging Face's format, as ``recipes generate`` loads them."""
        assert self.model is not None
        save(self.model, self.data.tokenizer, folder)
