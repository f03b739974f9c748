"""The private attributes of transformers' models that say how to shard them: named here and nowhere else.

``tests/recipes/sharding/test_transformers_internals.py`` names the one that a new version of transformers has removed.
"""

from torch import nn


def block_classes(model: nn.Module) -> set[str]:
    """The names of the classes of a model's blocks; none for a model that is not from transformers."""
    return set(getattr(model, "_no_split_modules", None) or ())
