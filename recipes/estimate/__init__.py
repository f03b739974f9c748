"""``python -m recipes.estimate``: the memory of a training, predicted from shapes."""
