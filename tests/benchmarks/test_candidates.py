"""The optimizers that are measured: names, selection, construction."""

import sys

import pytest
import torch

from benchmarks.candidates import Candidate, all_candidates, chosen, installed
from lightning_adafactor.compiled import library

CPU = torch.device("cpu")


def names(candidates: list[Candidate]) -> list[str]:
    return [candidate.name for candidate in candidates]


def test_every_optimizer_of_the_comparison_is_listed_once() -> None:
    everyone = names(all_candidates(CPU))
    assert len(set(everyone)) == len(everyone)
    assert {"ours-compiled", "ours-compiled-constant-lr"} < set(everyone)
    assert {"ours", "ours-constant-lr", "torch-adafactor", "torch-adafactor-foreach"} < set(everyone)
    assert {"transformers-adafactor", "adamw", "adamw-foreach", "adamw-fused"} < set(everyone)
    assert {"bitsandbytes-adamw8bit", "torchao-adamw8bit"} < set(everyone)


def test_candidates_are_selected_by_pattern_in_their_own_order() -> None:
    picked = names(chosen(all_candidates(CPU), ["adamw-fused", "ours*"]))
    compiled = ["ours-compiled", "ours-compiled-constant-lr"]
    assert picked == ["ours", "ours-constant-lr", *compiled, "adamw-fused"]


def test_pattern_without_a_match_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"--only lion matches none of: ours, .*adamw-fused"):
        chosen(all_candidates(CPU), ["lion"])


def test_candidate_whose_package_is_missing_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    present, absent = installed(all_candidates(CPU))
    assert "transformers-adafactor" not in names(present)
    assert absent["transformers-adafactor"] == "transformers is not installed"


def test_compiled_step_that_has_not_been_built_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "load", lambda: "it has not been built")
    present, absent = installed(all_candidates(CPU))
    assert "ours-compiled" not in names(present)
    assert absent["ours-compiled"] == "it has not been built"


def test_call_is_python_code() -> None:
    (fused,) = chosen(all_candidates(CPU), ["adamw-fused"])
    assert fused.call == "torch.optim.AdamW(..., lr=0.0001, fused=True)"


def test_start_gives_steps_of_the_optimizer_with_its_arguments() -> None:
    (constant,) = chosen(all_candidates(CPU), ["ours-constant-lr"])
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.ones(4, 4)
    steps = constant.start([parameter], lr=0.5)
    steps()
    torch.testing.assert_close(parameter.detach(), torch.full((4, 4), 0.5))


@pytest.mark.gpu
def test_step_in_a_graph_equals_the_same_step_outside_of_it() -> None:
    arguments = {"lr": 1e-2, "capturable": True, "foreach": True}
    results = []
    for graph in (False, True):
        parameter = torch.nn.Parameter(torch.ones(64, 64, device="cuda"))
        parameter.grad = torch.ones_like(parameter)
        steps = Candidate("adamw", "torch.optim:AdamW", arguments, "adamw", graph=graph).start([parameter])
        for number in range(4):
            parameter.grad.fill_(number + 1.0)
            steps()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)
