"""Defaults that YAML cannot hold are left out of a run's settings, and the class has them nevertheless."""

from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import StochasticWeightAveraging

from recipes.cli.main import main
from recipes.cli.unwritable_defaults import dump, leave_out_unwritable_defaults

PATH = "lightning.pytorch.callbacks.StochasticWeightAveraging"


@pytest.mark.parametrize("device", [torch.device("cpu"), "Unable to serialize instance cpu"])
def test_the_default_is_left_out_as_value_and_as_text(device: object) -> None:
    settings = Namespace(callbacks=[Namespace(class_path=PATH, init_args=Namespace(swa_lrs=0.1, device=device))])
    leave_out_unwritable_defaults(settings)
    assert settings.callbacks[0].init_args.as_dict() == {"swa_lrs": 0.1}
    assert StochasticWeightAveraging(0.1)._device == torch.device("cpu")


def test_what_was_given_is_kept() -> None:
    given = Namespace(swa_lrs=0.1, device="cuda", avg_fn=torch.add)
    settings = Namespace(callbacks=Namespace(class_path=PATH, init_args=given))
    leave_out_unwritable_defaults(settings)
    assert settings.callbacks.init_args.as_dict() == {"swa_lrs": 0.1, "device": "cuda", "avg_fn": torch.add}


def test_what_yaml_cannot_hold_is_written_as_text() -> None:
    assert yaml.safe_load(dump({"a": [1, None, "é"], "b": torch.device("cpu")})) == {
        "a": [1, None, "é"],
        "b": "Unable to serialize instance cpu",
    }


@pytest.mark.parametrize("callback", [["StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"], ["Timer"]])
def test_a_run_with_such_a_default_trains_and_can_be_repeated(callback: list[str], tiny_recipe: Path) -> None:
    assert main(["fit", "--config", "tiny.yaml", "--trainer.callbacks", *callback]) == 0
    config = tiny_recipe / "runs/tiny/version_0/config.yaml"
    assert "Unable to serialize" not in config.read_text(encoding="utf-8")
    assert main(["fit", "--config", str(config)]) == 0
