"""Mixed precision on CPUs: they have no 16-mixed, and x86 CPUs without AVX-512 are very slow with bfloat16."""

import platform
from collections.abc import Mapping
from typing import Any

import torch

X86 = ("x86_64", "amd64")


def other_precision(trainer: Mapping[str, Any]) -> tuple[str, str] | None:
    """The precision that replaces a trainer's mixed precision on a CPU, and the reason; None where it can stay.

    Lightning itself replaces 16-mixed by bf16-mixed there.

    Args:
        trainer: Its settings, of which ``precision`` and ``accelerator`` count.
    """
    given = str(trainer["precision"])
    if given not in ("bf16-mixed", "bf16", "16-mixed", "16"):
        return None
    accelerator = trainer["accelerator"]
    if accelerator not in ("cpu", "auto") or (accelerator == "auto" and torch.accelerator.is_available()):
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() in X86 and not capability.startswith("AVX512"):
        return "32-true", (
            f"trainer.precision is 32-true instead of {given}: this CPU has no AVX-512 ({capability}), and torch "
            "multiplies bfloat16 matrices very slowly without it"
        )
    if given.startswith("16"):
        return "bf16-mixed", f"trainer.precision is bf16-mixed instead of {given}, which needs a GPU"
    return None
