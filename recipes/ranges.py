"""Types of numbers that have a range, and of percentages: annotations of a task's arguments, checked when parsed.

``batch_size: PositiveInt = 32`` rejects 0 in a YAML file and on the command line, with the key, the value and the
range in words. The class that has the argument receives a plain int or float, which a checkpoint may hold.
"""

from typing import TYPE_CHECKING, Any

from jsonargparse.typing import register_type, restricted_number_type, restricted_string_type

WORDS: dict[type, str] = {}
"""Each type in words, such as ``a whole number above 0``."""


def number(name: str, base: type, *restrictions: tuple[str, float], words: str) -> Any:
    """Makes a type of numbers.

    Args:
        name: Its name in ``--help``.
        base: int or float.
        restrictions: Pairs of an operator and a bound, such as ``(">=", 3)``; a number meets all of them.
        words: What a message says is expected.
    """
    kind = restricted_number_type(name, base, list(restrictions), docstring=words)
    # By default jsonargparse passes instances of the type itself, which torch.load with weights_only rejects.
    register_type(kind, serializer=base, deserializer=lambda value: base(kind(value)))
    WORDS[kind] = words
    return kind


def percentage(name: str, words: str) -> Any:
    """Makes a type of texts such as ``95%`` or ``99.5%``, above 0 and up to 100.

    Args:
        name: Its name in ``--help``.
        words: What a message says is expected.
    """
    kind = restricted_string_type(name, r"^(?=.*[1-9])(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%$", docstring=words)
    register_type(kind, serializer=str, deserializer=lambda value: str(kind(value)))
    WORDS[kind] = words
    return kind


if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    IntFrom2 = int
    IntFrom3 = int
    IntFrom257 = int
    NonNegativeFloat = float
    FractionBelow1 = float
    FractionAbove0 = float
    Percentage = str
else:
    PositiveInt = number("PositiveInt", int, (">", 0), words="a whole number above 0")
    NonNegativeInt = number("NonNegativeInt", int, (">=", 0), words="a whole number of at least 0")
    IntFrom2 = number("IntFrom2", int, (">=", 2), words="a whole number of at least 2")
    IntFrom3 = number("IntFrom3", int, (">=", 3), words="a whole number of at least 3")
    IntFrom257 = number("IntFrom257", int, (">=", 257), words="a whole number of at least 257")
    NonNegativeFloat = number("NonNegativeFloat", float, (">=", 0), words="a number of at least 0")
    FractionBelow1 = number("FractionBelow1", float, (">=", 0), ("<", 1), words="a number of at least 0 and below 1")
    FractionAbove0 = number("FractionAbove0", float, (">", 0), ("<=", 1), words="a number above 0 and at most 1")
    Percentage = percentage("Percentage", words="a percentage such as 95%")
