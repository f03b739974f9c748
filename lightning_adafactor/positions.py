"""Where parameters stand in an optimizer: the number of their group, and their position among all parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Position(NamedTuple):
    """Where a parameter stands.

    Attributes:
        number: Its position among all parameters of the optimizer, a part of the key of its random bits.
        group: The number of its group.
        param: The parameter.
    """

    number: int
    group: int
    param: Tensor


def all_positions(groups: Sequence[dict[str, Any]]) -> Iterator[Position]:
    """The positions of all parameters of an optimizer, in order.

    Args:
        groups: Its ``param_groups``.
    """
    index = 0
    for number, group in enumerate(groups):
        for param in group["params"]:
            yield Position(index, number, param)
            index += 1


class Positions:
    """Finds the positions of some parameters without a look at all others.

    It belongs to the process, as the entries do that are kept from step to step.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._known: dict[Tensor, tuple[Position, int]] = {}  # with the place in the group's list

    def of(self, groups: Sequence[dict[str, Any]], params: Iterable[Tensor]) -> list[Position]:
        """The positions of some parameters, in the order of the optimizer and without duplicates.

        Args:
            groups: The ``param_groups`` of the optimizer.
            params: Some of its parameters, in any order.

        Raises:
            ValueError: A parameter is not one of the optimizer's.
        """
        params = list(params)
        if not self._is_current(groups, params):
            self._sizes, self._known = [], {}
            place = 0
            for position in all_positions(groups):
                while position.group >= len(self._sizes):
                    self._sizes.append(len(groups[len(self._sizes)]["params"]))
                    place = 0
                self._known[position.param] = (position, place)
                place += 1
            self._sizes += [len(group["params"]) for group in groups[len(self._sizes) :]]
        strange = next((param for param in params if param not in self._known), None)
        if strange is not None:
            raise ValueError(f"a parameter of shape {tuple(strange.shape)} is not one of the optimizer's parameters")
        return sorted({self._known[param][0] for param in params}, key=lambda position: position.number)

    def _is_current(self, groups: Sequence[dict[str, Any]], params: Sequence[Tensor]) -> bool:
        """Whether these parameters still stand where they were found."""
        if self._sizes != [len(group["params"]) for group in groups]:
            return False
        for param in params:
            known = self._known.get(param)
            if known is None or groups[known[0].group]["params"][known[1]] is not param:
                return False
        return True
