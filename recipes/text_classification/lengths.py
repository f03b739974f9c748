"""The length at which texts are truncated, chosen by the texts themselves: ``data.max_length: 95%``."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recipes.models.positions import positions_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

LEAST = 3
"""Tokens that a text has at least: a first, a last, and one between them."""


def count_tokens(
    batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerBase", text: list[str]
) -> dict[str, list[int]]:
    """The number of tokens of each row, ``tokens``, with the special ones and without truncation.

    Args:
        batch: Columns of the rows.
        tokenizer: The tokenizer.
        text: One or two text columns.
    """
    texts = ([value or "" for value in batch[column]] for column in text)
    return {"tokens": [len(tokens) for tokens in tokenizer(*texts, truncation=False, verbose=False)["input_ids"]]}


def covering(lengths: Sequence[int], share: float) -> int:
    """The smallest length that at least a share of texts do not exceed.

    Args:
        lengths: The texts' lengths; at least one.
        share: Above 0 and at most 1.
    """
    # Rounded first: 0.95 times 100 is a little above 95.
    place = math.ceil(round(share * len(lengths), 6))
    return max(sorted(lengths)[max(place, 1) - 1], LEAST)


def longest_training_text(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> tuple[float, str]:
    """The number of tokens that can be used of a training text, and what reads no more: ``model`` or ``tokenizer``.

    The tokenizer counts for a model without a limit only: that of an earlier run has the length of that run's texts.
    """
    positions = positions_of(config)
    return (tokenizer.model_max_length, "tokenizer") if positions is None else (positions, "model")


def longest_input(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> float:
    """The number of tokens that a model reads at most; infinite if neither it nor its tokenizer has a limit."""
    positions = positions_of(config)
    return min(math.inf if positions is None else positions, tokenizer.model_max_length)
