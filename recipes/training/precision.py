"""Mixed precision where it does not pay: x86 CPUs without AVX-512 multiply bfloat16 matrices a hundred times slower."""

import platform
from collections.abc import Mapping
from typing import Any

import torch

X86 = ("x86_64", "amd64")


def float32_instead(trainer: Mapping[str, Any]) -> str | None:
    """The reason why a trainer's ``bf16-mixed`` is better replaced by ``32-true``, or None.

    Args:
        trainer: Its settings, of which ``precision`` and ``accelerator`` count.
    """
    if str(trainer["precision"]) not in ("bf16-mixed", "bf16"):
        return None
    accelerator = trainer["accelerator"]
    if accelerator not in ("cpu", "auto") or (accelerator == "auto" and torch.accelerator.is_available()):
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() not in X86 or capability.startswith("AVX512"):
        return None
    return (
        f"trainer.precision is 32-true instead of {trainer['precision']}: this CPU has no AVX-512 ({capability}), and "
        "torch multiplies bfloat16 matrices very slowly without it"
    )
