"""Converts optimizer states of ``torch.optim.Adafactor`` and ``transformers.Adafactor`` to this library's.

The state has torch's names and shapes; that of transformers is renamed::

    row_var  = exp_avg_sq_row.unsqueeze(-1)        variance = exp_avg_sq
    col_var  = exp_avg_sq_col.unsqueeze(-2)        step     = tensor(float(step))

Group keys are those of the loading optimizer (``d`` or ``clip_threshold``, ``beta2_decay`` or ``decay_rate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_GROUP_KEYS = {"clip_threshold": "d", "decay_rate": "beta2_decay"}
_TRANSFORMERS_RELATIVE_LR = 1e-2


def convert_state_dict(state_dict: dict[str, Any], groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Converts a saved optimizer state.

    Args:
        state_dict: The saved state, of this library, torch or transformers; left unchanged.
        groups: The parameter groups of the loading optimizer, for its keys and for values that were not saved.

    Returns:
        A state dict with torch's state names and the loading optimizer's group keys.
    """
    saved_groups = state_dict["param_groups"]
    if len(saved_groups) == len(groups):  # else Optimizer.load_state_dict raises
        saved_groups = [convert_group(saved, own) for saved, own in zip(saved_groups, groups, strict=True)]
    state = {key: convert_param_state(value) for key, value in state_dict["state"].items()}
    return {**state_dict, "state": state, "param_groups": saved_groups}


def convert_param_state(saved: Any) -> Any:
    """Renames one parameter's state to torch's names; tensors are views of the saved ones."""
    if not isinstance(saved, dict):
        return saved
    state = dict(saved)
    if "exp_avg_sq_row" in state:
        state["row_var"] = state.pop("exp_avg_sq_row").unsqueeze(-1)
        state["col_var"] = state.pop("exp_avg_sq_col").unsqueeze(-2)
    if "exp_avg_sq" in state:
        state["variance"] = state.pop("exp_avg_sq")
    return state


def convert_group(saved: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Gives a saved group the keys of the loading optimizer.

    Keys are renamed. The loading optimizer's own value stays where the saved group has none, or one without a
    counterpart (torch's ε₁ = None or lr as a cap, transformers' lr = None). transformers does not read lr where it has
    ``relative_step``, and its ``AdafactorSchedule`` leaves in it what a progress bar shows: torch's cap replaces it.
    """
    wants_torch = "d" in own
    names = _GROUP_KEYS if wants_torch else {torch: transformers for transformers, torch in _GROUP_KEYS.items()}
    group = {names.get(key, key): value for key, value in saved.items()}
    other_library = ("d" in saved) != wants_torch
    if other_library:
        if group["eps"][0] is None:
            group["eps"] = (own["eps"][0], group["eps"][1])
        if wants_torch and (group["lr"] is None or group.get("relative_step")):
            group["lr"] = _TRANSFORMERS_RELATIVE_LR
        if not wants_torch and group.get("relative_step", own["relative_step"]):
            group["lr"] = own["lr"]
    return {**{key: value for key, value in own.items() if key not in ("params", "param_names")}, **group}
