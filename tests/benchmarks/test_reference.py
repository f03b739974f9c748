"""Nobody is timed whose numbers are wrong."""

import pytest
import torch

from benchmarks.contestants import Contestant, all_contestants, installed
from benchmarks.reference import WrongNumbersError, check
from benchmarks.shapes import MODELS

CPU = torch.device("cpu")
TINY = MODELS["tiny"]
# torchao compiles its step, which takes minutes on a CPU
QUICK = [contestant for contestant in installed(all_contestants(CPU))[0] if contestant.package != "torchao"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("contestant", QUICK, ids=lambda contestant: contestant.name)
def test_everyone_computes_the_rule_as_float64_has_it(contestant: Contestant, dtype: torch.dtype) -> None:
    assert 0.0 < check(contestant, TINY, CPU, dtype) < 0.05


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
def test_small_difference_in_the_rule_is_found(optimizer: str, arguments: dict, rule: str) -> None:
    impostor = Contestant("impostor", optimizer, {"lr": 1e-4, **arguments}, rule)
    with pytest.raises(WrongNumbersError, match=r"^impostor is wrong: after 3 steps in float32 .* is allowed\.$"):
        check(impostor, TINY, CPU, torch.float32)


class Nan(torch.optim.SGD):
    """Writes NaN."""

    def step(self, closure: None = None) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.nan)


def test_nan_is_wrong() -> None:
    contestant = Contestant("nan", f"{__name__}:Nan", {}, "adamw")
    with pytest.raises(WrongNumbersError, match="off by nan"):
        check(contestant, TINY, CPU, torch.float32)
