"""``model.architecture``: the configuration of a model that is trained from scratch, and checks of it."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from recipes.messages import RecipeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

NOT_IN_CONFIGURATIONS = ("attn_implementation", "torch_dtype")
"""What transformers accepts besides the values of a configuration."""


def new_config(architecture: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
    """The configuration of a model that is trained from scratch, for a tokenizer.

    Args:
        architecture: ``model_type`` and its sizes.
        tokenizer: The tokenizer; its size is that of the vocabulary, unless ``architecture`` gives another.

    Raises:
        RecipeError: There is no such type of model, or it has no such value or rejects it.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    values = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **architecture,
    }
    kind = values.pop("model_type")
    try:
        config, plain = AutoConfig.for_model(kind, **values), AutoConfig.for_model(kind)
        ignored = []
        for key in (key for key in architecture if not hasattr(plain, key)):
            # Unknown keys become attributes. Some older names, such as rope_theta, change other values.
            without = AutoConfig.for_model(kind, **{name: value for name, value in values.items() if name != key})
            if {**config.to_dict(), key: None} == {**without.to_dict(), key: None}:
                ignored.append(key)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise architecture_refused(error) from error
    refuse_without_effect(plain, ignored)
    return config


def refuse_without_effect(config: "PretrainedConfig", keys: list[str]) -> None:
    """Rejects values that transformers silently ignores, such as a misspelt size.

    Args:
        config: The configuration that does not have them.
        keys: Their names.

    Raises:
        RecipeError: There is one; the message names the nearest valid name.
    """
    keys = [key for key in keys if key not in NOT_IN_CONFIGURATIONS]
    if keys:
        near = get_close_matches(keys[0], [*config.to_dict(), *config.attribute_map], n=1)
        raise RecipeError(
            f"model.architecture.{keys[0]}: {type(config).__name__} has no such value"
            + (f"; did you mean {near[0]}?" if near else "")
        )


def architecture_refused(error: Exception) -> RecipeError:
    """The error message for values that transformers rejects."""
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return RecipeError(f"model.architecture: transformers refuses it: {cause[:200]}")
