"""How a classifier pools its encoder's outputs: ``model.pooling``.

Where transformers' own classifier of an architecture can average (``classifier_pooling``, as in ModernBERT), it is
told to. For all others the encoder is wrapped in :mod:`recipes.models.mean_pooling`.
"""

from typing import TYPE_CHECKING, Literal

from recipes.messages import RecipeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Pooling = Literal["mean"]


def with_mean_pooling(config: "PretrainedConfig", name: str) -> "PretrainedConfig":
    """The configuration of a classifier that averages over the tokens.

    Args:
        config: That of the architecture's own classifier, with the labels; it is changed.
        name: Where it was loaded from, for error messages.

    Raises:
        RecipeError: The model is neither an encoder nor a decoder whose outputs could be averaged.
    """
    from transformers import MODEL_MAPPING

    from recipes.models.mean_pooling import MeanPoolingConfig

    if isinstance(config, MeanPoolingConfig):
        return config
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = "mean"
        return config
    if config.is_encoder_decoder or type(config) not in MODEL_MAPPING or not hasattr(config, "hidden_size"):
        raise RecipeError(
            f"model.pooling is mean, which is not supported for '{name}' ({config.model_type}): give a model that is "
            "an encoder alone, such as BERT, or set model.pooling to null"
        )
    names = dict(config.id2label or {})
    config.num_labels = 2  # The names stand in the outer configuration alone.
    return MeanPoolingConfig(config, id2label=names, label2id={label: number for number, label in names.items()})


def is_wrapped(config: "PretrainedConfig") -> bool:
    """Whether a configuration is of :mod:`recipes.models.mean_pooling`."""
    from recipes.models.mean_pooling import MeanPoolingConfig

    return isinstance(config, MeanPoolingConfig)
