"""``python -m recipes.compare``: one recipe trained with several optimizers, and the results side by side."""
