"""Recipes that fine-tune transformers with Adafactor, each one a module and its data."""

from recipes.text_classification import TextClassifier
from recipes.text_classification_data import TextClassificationData

__all__ = ["TextClassificationData", "TextClassifier"]
