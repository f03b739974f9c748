"""Recipes that fine-tune transformers with Adafactor, each one a module and its data.

The classes are imported when they are first asked for, so that the command line starts quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.language_modeling.data import LanguageModelingData as LanguageModelingData
    from recipes.language_modeling.module import LanguageModel as LanguageModel
    from recipes.text_classification.data import TextClassificationData as TextClassificationData
    from recipes.text_classification.module import TextClassifier as TextClassifier
    from recipes.training.recent_average import RecentWeightAveraging as RecentWeightAveraging

_MODULES = {
    "LanguageModel": "recipes.language_modeling.module",
    "LanguageModelingData": "recipes.language_modeling.data",
    "RecentWeightAveraging": "recipes.training.recent_average",
    "TextClassificationData": "recipes.text_classification.data",
    "TextClassifier": "recipes.text_classification.module",
}

__all__ = ["LanguageModel", "LanguageModelingData", "RecentWeightAveraging", "TextClassificationData", "TextClassifier"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
