"""Callbacks that monitor a metric know its direction, also where no setting says it."""

from typing import Any

import pytest

from recipes.cli.given import Given
from recipes.cli.monitor_mode import complete_modes
from recipes.messages import RecipeError


def completed(given: dict[str, Any] | list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings after their modes were completed; Lightning's default is ``min``."""
    whole: dict[str, Any] = {"checkpoint": {"monitor": None, "mode": "min"}, "trainer": {"callbacks": None}, **settings}
    sources = given if isinstance(given, list) else [given]
    complete_modes(whole, [Given({}), *map(Given, sources)], {"val/zeta": "max"})
    return whole


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val/f1", "max"), ("val/accuracy", "max"), ("val/loss", "min"), ("val/zeta", "max")]
)
def test_a_monitor_without_a_mode_gets_that_of_its_name(monitor: str, mode: str) -> None:
    after = completed({"checkpoint": {"monitor": monitor}}, {"checkpoint": {"monitor": monitor, "mode": "min"}})
    assert after["checkpoint"]["mode"] == mode


def test_a_mode_that_was_given_stays() -> None:
    given = {"checkpoint": {"monitor": "val/f1", "mode": "min"}}
    assert completed(given, {"checkpoint": {"monitor": "val/f1", "mode": "min"}})["checkpoint"]["mode"] == "min"


def test_a_name_that_says_nothing_needs_a_mode() -> None:
    with pytest.raises(RecipeError, match=r"checkpoint\.monitor is 'val/theta'.*set checkpoint\.mode to max or min"):
        completed({"checkpoint": {"monitor": "val/theta"}}, {"checkpoint": {"monitor": "val/theta", "mode": "min"}})


@pytest.mark.parametrize("given_mode", [None, "min"])
def test_early_stopping_waits_for_better_values(given_mode: str | None) -> None:
    arguments = {"monitor": "val/f1", **({"mode": given_mode} if given_mode else {})}
    given = {"trainer": {"callbacks": [{"class_path": "EarlyStopping", "init_args": arguments}]}}
    callback = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {**arguments, "mode": "min"}}
    after = completed(given, {"trainer": {"callbacks": [callback]}})
    assert after["trainer"]["callbacks"][0]["init_args"]["mode"] == (given_mode or "max")


@pytest.mark.parametrize(
    ("classes", "mode"), [(["EarlyStopping"], "min"), (["EarlyStopping", "other.Callback"], "max")]
)
def test_a_mode_on_the_command_line_is_that_of_the_callback_before_it(classes: list[str], mode: str) -> None:
    options = [{"trainer": {"callbacks+": name}} for name in classes]
    callback = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/f1", "mode": "min"},
    }
    after = completed([*options, {"trainer": {"callbacks": {"mode": "min"}}}], {"trainer": {"callbacks": [callback]}})
    assert after["trainer"]["callbacks"][0]["init_args"]["mode"] == mode
