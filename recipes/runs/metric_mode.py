"""Whether a metric is better when it is higher or lower, by its name."""

import re
from typing import Literal

LOWER_IS_BETTER = ("loss", "perplexity", "error", "wer", "cer", "bits_per_byte", "mae", "mse", "rmse", "nll", "ece")
HIGHER_IS_BETTER = ("accuracy", "f1", "precision", "recall", "auroc", "score", "bleu", "rouge", "matthews", "r2")


def mode_of(metric: str) -> Literal["min", "max"] | None:
    """``max`` if a metric is better when higher, ``min`` if when lower, by the words of its name; None if unknown."""
    name = re.sub(r"\W+", "_", metric.rpartition("/")[2].lower())
    if _has_one_of(LOWER_IS_BETTER, name):
        return "min"
    return "max" if _has_one_of(HIGHER_IS_BETTER, name) else None


def _has_one_of(words: tuple[str, ...], name: str) -> bool:
    return re.search(rf"(?:^|_)(?:{'|'.join(words)})(?:\d+|l|lsum)?(?:_|$)", name) is not None
