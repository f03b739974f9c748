"""What happens to a step whose gradients are not all finite: nothing special, it is skipped, or an error is raised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor.capture import check_state_is_there
from lightning_adafactor.sharded.layout import local
from lightning_adafactor.sharded.reduction import first_found

OnNonfinite = Literal["ignore", "skip", "raise"]
"""``ignore``: NaN and infinities enter parameters and state, as with torch's optimizers. ``skip``: the step changes
nothing and is counted. ``raise``: likewise, and an error says where."""


STEPS_UNTIL_ANSWER = 2
"""After how many steps several processes wait for the answer of a CUDA device. If each raised as soon as it had it, the
others would wait for it in a collective of the next step."""


def check_option(value: object) -> None:
    """Raises ValueError unless the value is an :data:`OnNonfinite`."""
    if value not in get_args(OnNonfinite):
        raise ValueError(f"on_nonfinite should be 'ignore', 'skip' or 'raise' but is: {value!r}")


def unsupported_for_parts(groups: Iterable[dict[str, Any]]) -> str | None:
    """Why parameters cannot be stepped in parts, or None where they can.

    The options but "ignore" leave out whole steps, and when a part is stepped, nobody knows the other gradients yet.

    Args:
        groups: The parameter groups.
    """
    for group in groups:
        value = group.get("on_nonfinite", "ignore")
        if value != "ignore":
            return (
                f"on_nonfinite={value!r} decides about a whole step, before anything has changed, so that parameters "
                "cannot be stepped in parts: set on_nonfinite='ignore'"
            )
    return None


def find_nonfinite(gradients: Sequence[Tensor]) -> Tensor:
    """Whether any gradient has an element that is NaN or infinite, without waiting for a device.

    Each gradient is read once. Of sharded gradients (DTensor), all processes find the same.

    Args:
        gradients: One gradient or more.

    Returns:
        One float32 element on the first gradient's device: 1 if there is such an element, else 0.
    """
    shards = [local(gradient) for gradient in gradients]
    full = [shard for shard in shards if shard.numel() > 0]
    # the largest absolute value: it is NaN or infinite only where an element is
    largest = (
        torch.nn.utils.get_total_norm(full, norm_type=torch.inf) if full else torch.zeros((), device=shards[0].device)
    )
    found = _sent(~torch.isfinite(largest), shards[0].device).float()
    return _largest_of_all(found, gradients) if _are_sharded(gradients) else found


def _sent(value: Tensor, device: torch.device) -> Tensor:
    """The value on a device; waits only where it goes to the CPU, which would read it before it has arrived."""
    return value.to(device, non_blocking=device.type != "cpu")


def _largest_of_all(value: Tensor, gradients: Iterable[Tensor]) -> Tensor:
    """The largest value of all processes, on its device; gradients that FSDP2 has offloaded are not on the mesh's."""
    kind = next(gradient.device_mesh.device_type for gradient in gradients if isinstance(gradient, DTensor))
    sent = value if value.device.type == kind else value.to(kind)
    torch.distributed.all_reduce(sent, torch.distributed.ReduceOp.MAX)
    return sent.to(value.device)


def _are_sharded(gradients: Iterable[Tensor]) -> bool:
    return any(isinstance(gradient, DTensor) for gradient in gradients)


def _gradients(groups: Sequence[dict[str, Any]], *options: OnNonfinite) -> list[Tensor]:
    """The gradients of the groups with one of the options."""
    return [
        param.grad
        for group in groups
        if group["on_nonfinite"] in options
        for param in group["params"]
        if param.grad is not None
    ]


class NonfiniteGradients:
    """Looks at the gradients before each step; belongs to the process, not to the state.

    On a CUDA device the host does not wait: the kernels read the result, and ``on_nonfinite="raise"`` raises in the
    first later step at which it has arrived. Nothing has changed in between, because such steps are skipped.
    """

    def __init__(self) -> None:
        self._skipped: Tensor | None = None
        self._steps = 0
        self._pending: list[tuple[int, torch.cuda.Event, Tensor]] = []

    @property
    def skipped(self) -> int:
        """Steps that were skipped; waits for the device."""
        return 0 if self._skipped is None else int(self._skipped.item())

    def check(self, groups: Sequence[dict[str, Any]], found_inf: Tensor | None) -> Tensor | None:
        """Decides whether a step may change anything.

        Args:
            groups: The parameter groups with their option ``on_nonfinite``.
            found_inf: What a gradient scaler has found, or None. An overflow that it knows of is no reason to raise.

        Returns:
            ``found_inf`` with what was found here; None where no group asks for it and none was given.

        Raises:
            RuntimeError: With ``on_nonfinite="raise"``, a gradient of this step (on CUDA: of an earlier one) is not
                finite, of a parameter in a group with that option.
        """
        self._steps += 1
        self._raise_for_earlier_steps()
        watched, raising = _gradients(groups, "skip", "raise"), _gradients(groups, "raise")
        if not watched:
            return found_inf
        found = find_nonfinite(watched)
        if raising:
            unexpected = found if len(raising) == len(watched) else find_nonfinite(raising).to(found.device)
            if _are_sharded(watched) and not _are_sharded(raising):  # all processes raise, or none
                unexpected = _largest_of_all(unexpected, watched)
            if found_inf is not None:
                known = (found_inf.to(found) != 0).to(found.dtype).view(())
                if _are_sharded(watched):  # all processes raise, or none
                    known = _largest_of_all(known, watched)
                unexpected = unexpected * (1 - known)
            if found.is_cuda:
                self._remember(unexpected)
            elif unexpected.item():
                raise RuntimeError(_describe(groups))
        check_state_is_there(self._skipped is not None)
        if self._skipped is None:
            self._skipped = torch.zeros((), dtype=torch.int64, device=found.device)
        # in place: a captured graph adds to the same number at each replay
        self._skipped += _sent(found, self._skipped.device).to(torch.int64)
        return found if found_inf is None else torch.maximum(found.view_as(found_inf), found_inf.to(found))

    def _remember(self, unexpected: Tensor) -> None:
        """Sends the answer to the host without waiting for it."""
        if torch.cuda.is_current_stream_capturing():
            return  # replays do not come by here: such steps are skipped and counted
        on_host = torch.empty((), device="cpu", pin_memory=True).copy_(unexpected.view(()), non_blocking=True)
        arrival = torch.cuda.Event()
        arrival.record(torch.cuda.current_stream(unexpected.device))
        self._pending.append((self._steps, arrival, on_host))

    def _raise_for_earlier_steps(self) -> None:
        if self._pending and torch.cuda.is_current_stream_capturing():
            return  # an event must not be asked then
        while self._pending and self._has_arrived(*self._pending[0][:2]):
            step, _, found = self._pending.pop(0)
            if found.item():
                raise RuntimeError(
                    f"Gradients were not finite in step {step} of this process; that step changed nothing. {_REMEDY}"
                )

    def _has_arrived(self, step: int, arrival: torch.cuda.Event) -> bool:
        """Whether the answer of a step is there; of several processes, all look at it in the same later step."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return arrival.query()
        if step > self._steps - STEPS_UNTIL_ANSWER:
            return False
        arrival.synchronize()
        return True


_REMEDY = "Lower lr, clip the gradients, or leave such steps out with on_nonfinite='skip'."


def _describe(groups: Sequence[dict[str, Any]]) -> str:
    """A sentence on the first gradient that is not finite; where parameters are sharded, of all processes."""
    found = _first_nonfinite(groups)
    if _are_sharded(_gradients(groups, "skip", "raise")):
        found = first_found(found)
    assert found is not None
    return f"{found[1]}; the step changed nothing. {_REMEDY}"


def _first_nonfinite(groups: Sequence[dict[str, Any]]) -> tuple[int, str] | None:
    """The first parameter of a group that raises whose gradient is not finite on this process: number and sentence."""
    number = -1
    for group in groups:
        names = group.get("param_names", [None] * len(group["params"]))
        for name, param in zip(names, group["params"], strict=True):
            number += 1
            if param.grad is None or group["on_nonfinite"] != "raise":
                continue
            gradient = local(param.grad)
            bad = int((~torch.isfinite(gradient)).sum().item())
            if bad:
                shard = f" on process {torch.distributed.get_rank()}" if isinstance(param.grad, DTensor) else ""
                return number, (
                    f"The gradient of parameter {name or number!r} is not finite in {bad:,} of {gradient.numel():,} "
                    f"elements{shard}"
                )
    return None
