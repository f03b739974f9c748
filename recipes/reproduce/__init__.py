"""``python -m recipes.reproduce``: repeats a run from its report and compares the results."""
