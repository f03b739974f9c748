"""The learning rates of a sweep: those asked for, and further ones while the best rate is the lowest or highest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.messages import RecipeError

DIGITS = 3
"""Significant digits of a rate that a sweep has added."""


@dataclass(frozen=True)
class Rate:
    """A learning rate of a sweep: a number, or a multiple of the rate in each optimizer's file."""

    number: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Parses ``3e-4``, or ``x3`` for three times the rate in the file.

        Raises:
            RecipeError: It is neither, or not positive.
        """
        relative = text[:1] in ("x", "×")
        try:
            number = float(text[1:] if relative else text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise RecipeError(
                f"--sweep-lr {text}: expected learning rates such as 3e-4, or x0.3 for 0.3 times the rate in each "
                "optimizer's file"
            )
        return cls(number, relative)

    def of(self, rate: float | None) -> float:
        """The learning rate, for an optimizer whose file has ``rate``."""
        return float(f"{self.number * (rate or 0):.6g}") if self.relative else self.number


DEFAULT_SWEEP = (Rate(0.3, True), Rate(1.0, True), Rate(3.0, True))


def from_the_middle(rates: Sequence[float]) -> list[float]:
    """The rates in the order in which they are tried: the middle one first, then its neighbors, and so on.

    The first run is then most likely a good one, with which the others are compared while they train.
    """
    ordered = sorted(set(rates))
    middle = (len(ordered) - 1) / 2
    return sorted(ordered, key=lambda rate: (abs(ordered.index(rate) - middle), ordered.index(rate)))


def beyond(best: float, tried: Sequence[float]) -> float | None:
    """The rate to try next: beyond the best one, if that is the lowest or the highest of those tried.

    The distance is that of the best rate to its neighbor, as a ratio.

    Args:
        best: The best rate so far.
        tried: All rates so far, including those whose runs failed.

    Returns:
        The next rate; None if the best one lies inside, or if fewer than two were tried.
    """
    ordered = sorted(set(tried))
    if len(ordered) < 2 or best not in (ordered[0], ordered[-1]):
        return None
    neighbor = ordered[1] if best == ordered[0] else ordered[-2]
    return float(f"{best * best / neighbor:.{DIGITS}g}")
