"""An optimizer is timed only if it computes its rule."""

import pytest
import torch

from benchmarks.candidates import Candidate, all_candidates, installed
from benchmarks.reference import WrongNumbersError, check
from benchmarks.shapes import MODELS

CPU = torch.device("cpu")
TINY = MODELS["tiny"]
# torchao compiles its step, which takes minutes on a CPU
QUICK = [candidate for candidate in installed(all_candidates(CPU))[0] if candidate.package != "torchao"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("candidate", QUICK, ids=lambda candidate: candidate.name)
def test_every_candidate_computes_its_rule_as_in_float64(candidate: Candidate, dtype: torch.dtype) -> None:
    assert 0.0 < check(candidate, TINY, CPU, dtype) < 0.05


@pytest.mark.parametrize(
    ("optimizer", "arguments", "rule"),
    [
        ("torch.optim:AdamW", {"betas": (0.9, 0.99)}, "adamw"),
        ("torch.optim:AdamW", {"weight_decay": 0.02}, "adamw"),
        ("torch.optim:AdamW", {"eps": 1e-6}, "adamw"),
        ("torch.optim:Adafactor", {"d": 2.0}, "adafactor"),
        ("torch.optim:Adafactor", {"eps": (1e-30, 1e-3)}, "adafactor"),
        ("torch.optim:Adafactor", {"maximize": True}, "adafactor"),
        ("transformers.optimization:Adafactor", {"relative_step": False, "decay_rate": -0.5}, "transformers"),
    ],
)
def test_small_difference_in_the_rule_is_detected(optimizer: str, arguments: dict, rule: str) -> None:
    impostor = Candidate("impostor", optimizer, {"lr": 1e-4, **arguments}, rule)
    with pytest.raises(WrongNumbersError, match=r"^impostor is wrong: after 3 steps in float32 .* is allowed\.$"):
        check(impostor, TINY, CPU, torch.float32)


class Nan(torch.optim.SGD):
    """Writes NaN."""

    def step(self, closure: None = None) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.nan)


def test_nan_is_rejected() -> None:
    candidate = Candidate("nan", f"{__name__}:Nan", {}, "adamw")
    with pytest.raises(WrongNumbersError, match="off by nan"):
        check(candidate, TINY, CPU, torch.float32)
