"""The average over the last share of a training, whatever its length."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes import RecentWeightAveraging, TextClassifier
from recipes.messages import RecipeError
from tests.recipes.training.averaged import Noted, Run, check_weights


@pytest.fixture
def run(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> Run:
    return Run(tiny_model, wires_csv, tmp_path)


def by_hand(steps: list[dict[str, Tensor]], horizon: float) -> dict[str, Tensor]:
    """The average in float64: the mean of the steps until ``horizon``, then each new step with weight 1 / horizon."""
    average = {name: value.double() for name, value in steps[0].items()}
    for count, step in enumerate(steps[1:], 1):
        weight = 1 / (count + 1) if count + 1 < horizon else 1 / horizon
        average = {name: (1 - weight) * average[name] + weight * value.double() for name, value in step.items()}
    return {name: value.to(steps[0][name].dtype) for name, value in average.items()}


def test_it_is_the_mean_of_the_first_steps_and_then_an_exponential_average(run: Run) -> None:
    noted = Noted()
    module, trainer = run("run", [RecentWeightAveraging(share=0.4)], noted=noted)
    assert trainer.global_step == 10
    check_weights(module.state_dict(), by_hand(noted.steps, horizon=4))


def test_over_the_whole_training_it_is_the_mean_of_all_steps(run: Run) -> None:
    noted = Noted()
    module, _ = run("run", [RecentWeightAveraging(share=1.0)], noted=noted, max_epochs=1)
    mean = {name: torch.stack([step[name] for step in noted.steps]).mean(0) for name in noted.steps[0]}
    check_weights(module.state_dict(), mean)


def test_of_less_than_a_step_it_is_the_last_step(run: Run) -> None:
    noted = Noted()
    module, _ = run("run", [RecentWeightAveraging(share=0.01)], noted=noted, max_epochs=1)
    check_weights(module.state_dict(), noted.steps[-1])


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 8])
def test_a_resumed_run_has_the_average_of_an_uninterrupted_one(after: int, run: Run) -> None:
    whole, _ = run("whole", [RecentWeightAveraging(share=0.4)])
    run("part", [RecentWeightAveraging(share=min(4 / after, 1.0))], max_steps=after)  # also of the last four steps
    resumed, _ = run("rest", [RecentWeightAveraging(share=0.4)], ckpt_path=run.folder / "part" / "last.ckpt")
    check_weights(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(RecipeError, match=rf"share is {share}: expected a number above 0 and at most 1"):
        RecentWeightAveraging(share=share)


def test_a_training_of_unknown_length_is_refused() -> None:
    trainer: Any = SimpleNamespace(estimated_stepping_batches=float("inf"))
    with pytest.raises(RecipeError, match=r"needs to know the number of steps: set trainer.max_steps or trainer.max_"):
        RecentWeightAveraging().on_train_start(trainer, TextClassifier("x"))


def test_weights_in_half_precision_are_refused(run: Run) -> None:
    with pytest.raises(RecipeError, match=r"would average weights in bfloat16, .*: set model\.dtype to float32"):
        run("run", [RecentWeightAveraging()], precision="bf16-true")
