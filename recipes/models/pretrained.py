"""Loads configurations, tokenizers and models of Hugging Face transformers; errors are one sentence."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from safetensors.torch import save_file
from torch import nn

from recipes.messages import RecipeError
from recipes.models.revisions import split_revision
from recipes.sharding.shared_weights import shared_names

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def load_config(name: str, key: str, **kwargs: Any) -> "PretrainedConfig":
    """Loads the configuration of a model.

    Args:
        name: A hub name, optionally with ``@`` and a commit, tag or branch, or a folder.
        key: The configuration key that the name stands under, for error messages.
        kwargs: Values that override those of the configuration.

    Raises:
        RecipeError: It cannot be found or read.
    """
    from transformers import AutoConfig

    with quiet():  # it warns of labels in another number than before, which are wanted
        return _load(AutoConfig.from_pretrained, name, key, "a model", **{"trust_remote_code": False, **kwargs})


def load_tokenizer(
    name: str, key: str, padding: bool = True, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer of a model; one without a padding token pads with its end-of-text token.

    Args:
        name: A hub name, optionally with ``@`` and a commit, tag or branch, or a folder.
        key: The configuration key that the name stands under, for error messages.
        padding: Whether a padding token is needed.
        trust_remote_code: Whether code that comes with the tokenizer may run.

    Raises:
        RecipeError: It cannot be found or read, or has no token to pad with.
    """
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer.from_pretrained, name, key, "a tokenizer", trust_remote_code=trust_remote_code)
    _refuse_without_files(tokenizer, Path(name), key)
    if padding and tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise RecipeError(
                f"{key}: the tokenizer '{name}' has neither a padding nor an end-of-text token, so texts "
                "cannot be batched: use one that has one of them"
            )
        tokenizer.pad_token = tokenizer.eos_token
        rank_zero_info(f"The tokenizer '{name}' has no padding token: padding with '{tokenizer.eos_token}'.")
    return tokenizer


def _refuse_without_files(tokenizer: "PreTrainedTokenizerBase", folder: Path, key: str) -> None:
    """Rejects the tokenizer of a few special tokens that transformers creates if the vocabulary is missing."""
    files = [file for file in tokenizer.vocab_files_names.values() if isinstance(file, str)]
    others = ("*.model", "*.tiktoken", "tekken.json")
    if not folder.is_dir() or not files or any((folder / file).exists() for file in files):
        return
    if not any(next(folder.glob(pattern), None) for pattern in others):
        raise RecipeError(
            f"{key}: the folder '{folder}' holds no tokenizer (none of {', '.join(files)}): give a folder that "
            "has one, or name one in data.tokenizer"
        )


def load_model(
    auto_class: Any,
    name: str,
    key: str,
    config: "PretrainedConfig",
    dtype: str,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> "PreTrainedModel":
    """Loads a model with safetensors weights, in train mode, and prints which parameters are not in them.

    Args:
        auto_class: One of transformers' ``AutoModelFor...`` classes.
        name: A hub name, optionally with ``@`` and a commit, tag or branch, or a folder.
        key: The configuration key that the name stands under, for error messages.
        config: The configuration to load with.
        dtype: The dtype of the parameters, ``float32`` or ``bfloat16``, whatever that of the file.
        trust_remote_code: Whether code that comes with the model may run.
        kwargs: More arguments of the model's class.

    Returns:
        The model in train mode: ``from_pretrained`` returns eval mode, in which dropout stays off.

    Raises:
        RecipeError: The weights cannot be found or read.
    """
    folder = Path(name)
    if folder.is_dir() and not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise RecipeError(
            f"{key}: the folder '{name}' holds no weights (model.safetensors): give a folder written by "
            "save_pretrained; pickled weights (.bin, .pt) are not loaded"
        )
    # Missing weights are reported below in one line instead of transformers' table.
    with quiet():
        model, info = _load(
            auto_class.from_pretrained,
            name,
            key,
            "a model",
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **kwargs,
        )
    tell_initialized(name, {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    return model.train()


def tell_initialized(name: str, parameters: Iterable[str]) -> None:
    """Prints which parameters of a model are not in its weights."""
    if missing := sorted(parameters):
        rank_zero_info(f"Not in the weights of '{name}', and randomly initialized: {', '.join(missing)}.")


def set_checkpointing(model: "PreTrainedModel", name: str | None) -> None:
    """Turns on activation checkpointing: a model recomputes its activations in the backward pass.

    Args:
        model: The model.
        name: Where it was loaded from, for error messages; None for a model of ``model.architecture``.

    Raises:
        RecipeError: The model does not support it.
    """
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        model_name = f"'{name}'" if name else "the model of model.architecture"
        raise RecipeError(f"model.gradient_checkpointing: {model_name} does not support it: {error}") from error


def save(model: nn.Module, tokenizer: "PreTrainedTokenizerBase | None", folder: str | Path) -> None:
    """Writes a model, its configuration and its tokenizer to a folder that ``from_pretrained`` loads.

    Args:
        model: The model; of one that has no ``save_pretrained``, only ``model.safetensors`` is written.
        tokenizer: The tokenizer; None if there is none.
        folder: The folder; created if it does not exist.
    """
    with quiet():
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder)  # type: ignore[operator]
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            again = shared_names(model)  # safetensors keeps a weight once; its load_model knows
            state = {name: value.contiguous() for name, value in model.state_dict().items() if name not in again}
            save_file(state, Path(folder) / "model.safetensors")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def check_vocabulary(
    tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", name: str | None, key: str
) -> None:
    """Raises a RecipeError if the tokenizer can produce ids that the model has no embedding for."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        model = f"the model '{name}' embeds {size}: give the tokenizer that the model was trained with"
        if name is None:
            model = f"model.architecture has vocab_size {size}: give {len(tokenizer)} or more, or omit it"
        raise RecipeError(f"{key}: the tokenizer has {len(tokenizer)} tokens but {model}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and warnings off the terminal."""
    from transformers import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load(load: Any, name: str, key: str, what: str, **kwargs: Any) -> Any:
    import huggingface_hub
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    import recipes.models.mean_pooling  # noqa: F401 - transformers then knows the folders that have it

    # TypeError and AttributeError are for a config.json that holds a list.
    expected = (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError, StrictDataclassError)
    huggingface_hub.logging.set_verbosity_error()  # its client logs each retry; the error below is enough
    repository, revision = split_revision(name)
    if revision is not None:
        kwargs["revision"] = revision
    try:
        return load(repository, **kwargs)
    except (*expected, TypeError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise RecipeError(
                f"{key}: '{name}' needs code that comes with it, which runs only with model.trust_remote_code: true "
                "(in generate: --trust-remote-code)"
            ) from error
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(name).is_file():
            raise RecipeError(
                f"{key}: '{name}' is a file; expected a name on the hub or a folder with config.json, such "
                "as model/ in the folder of a run (a checkpoint is loaded with --ckpt_path)"
            ) from error
        if (Path(name) / "model" / "config.json").is_file() and not (Path(name) / "config.json").is_file():
            raise RecipeError(f"{key}: '{name}' is the folder of a run: its model is in '{name}/model'") from error
        if Path(name).is_dir():
            raise RecipeError(f"{key}: {what} cannot be loaded from the folder '{name}': {cause}") from error
        if "cannot be loaded with `safetensors`" in " ".join(str(error).split()):
            raise RecipeError(
                f"{key}: '{name}' has no weights in safetensors on the Hugging Face hub, and others, which are pickled "
                "and may run code, are not loaded: give a model or a revision that has them, or convert it"
            ) from error
        raise RecipeError(
            f"{key}: '{name}' is neither a local folder nor reachable on the Hugging Face hub as {what}: "
            f"check the name and the network ({cause})"
        ) from error
