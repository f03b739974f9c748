"""What is told of a model that cannot be loaded."""

import inspect

import pytest
import transformers

from recipes.messages import RecipeError
from recipes.models import pretrained


def test_a_repository_with_pickled_weights_only_is_named_as_such() -> None:
    def load(name: str) -> None:
        raise OSError(
            f"{name} does not appear to have a file named model.safetensors or model.safetensors.index.json and thus "
            "cannot be loaded with `safetensors`. Please do not set `use_safetensors=True`."
        )

    with pytest.raises(
        RecipeError, match=r"model\.pretrained: 'org/old' has no weights in safetensors .*or convert it"
    ):
        pretrained._load(load, "org/old", "model.pretrained", "a model")


def test_transformers_still_says_so_in_these_words() -> None:
    assert "cannot be loaded with `safetensors`" in inspect.getsource(transformers.modeling_utils)
