"""Encodes rows of texts and labels as token ids and label ids."""

from typing import TYPE_CHECKING, Any

from recipes.text_classification.labels import label_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def complete(
    batch: dict[str, list[Any]], text: list[str], label: str | None = None, class_names: list[str] | None = None
) -> list[bool]:
    """Whether each row of a batch has a non-empty value in each text column and, if there is one, the label column."""
    texts = zip(*(batch[column] for column in text), strict=True)
    kept = [all(value is not None and value.strip() for value in row) for row in texts]
    if label is not None:
        named = (bool(label_name(value, class_names)) for value in batch[label])
        kept = [whole and has for whole, has in zip(kept, named, strict=True)]
    return kept


def encode(
    batch: dict[str, list[Any]],
    tokenizer: "PreTrainedTokenizerBase",
    text: list[str],
    label: str | None,
    labels: list[str],
    class_names: list[str] | None,
    max_length: int,
    aliases: dict[str, str] | None = None,
) -> dict[str, list[Any]]:
    """Tokenizes a batch of rows and encodes their labels.

    Args:
        batch: Columns of the rows.
        tokenizer: The tokenizer.
        text: One or two text columns.
        label: The label column; None for rows without.
        labels: Label names in the order of their ids.
        class_names: The names of the numbers in the label column, if it is a ``ClassLabel``.
        max_length: Maximum length in tokens; the longer text of a pair is truncated first.
        aliases: Labels by other names that the label column has for them.

    Returns:
        The tokenizer's columns, ``length`` in tokens, ``cut``, the number of truncated tokens, ``unknown``, that of
        tokens that the tokenizer does not know, and, with a label column, ``labels``.
    """
    texts = [[value or "" for value in batch[column]] for column in text]
    encoded = dict(tokenizer(*texts, truncation=True, max_length=max_length))
    encoded["length"] = [len(tokens) for tokens in encoded["input_ids"]]
    encoded["cut"] = [0] * len(encoded["length"])
    unknown = _unknown(tokenizer)
    encoded["unknown"] = [tokens.count(unknown) for tokens in encoded["input_ids"]]
    full = [row for row, length in enumerate(encoded["length"]) if length >= max_length]
    if full:
        whole = tokenizer(*([column[row] for row in full] for column in texts), truncation=False, verbose=False)
        for row, tokens in zip(full, whole["input_ids"], strict=True):
            encoded["cut"][row] = len(tokens) - encoded["length"][row]
    if label is not None:
        numbers = {name: i for i, name in enumerate(labels)}
        numbers |= {alias: numbers[name] for alias, name in (aliases or {}).items()}
        encoded["labels"] = [numbers[label_name(value, class_names)] for value in batch[label]]
    return encoded


def _unknown(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id of tokens that are not known; None where it has another meaning too, as with GPT-2."""
    others = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return None if tokenizer.unk_token_id in others else tokenizer.unk_token_id
