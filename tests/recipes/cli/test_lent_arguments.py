"""A class has what was given for it, and else its own defaults; nothing of the class named before it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.cli.main import main

OWN = {
    "torch.optim.AdamW": {"lr": 0.001, "weight_decay": 0.01, "eps": 1e-8},
    "torch.optim.Adadelta": {"lr": 1.0, "weight_decay": 0, "eps": 1e-6},
    "torch.optim.SGD": {"lr": 0.001, "weight_decay": 0},
    "torchao.optim.AdamW8bit": {"lr": 0.001, "weight_decay": 0.01, "eps": 1e-8},
    "transformers.Adafactor": {"lr": None, "weight_decay": 0.0, "eps": [1e-30, 0.001]},
}
"""Optimizers, each with defaults that are not those of our Adafactor, or of the recipe."""


@pytest.fixture(autouse=True)
def _files(tiny_recipe: Path) -> None:
    """A recipe with the default optimizer, one with Adafactor in its file, and a file that names AdamW."""
    model = {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": "somewhere"}}
    data = {
        "class_path": "recipes.TextClassificationData",
        "init_args": {"train": "x.csv", "text": "text", "label": "label"},
    }
    Path("default.yaml").write_text(yaml.safe_dump({"model": model, "data": data}), encoding="utf-8")
    arguments = {"lr": 0.07, "weight_decay": 0.3, "beta1": 0.5}
    model["init_args"] |= {"optimizer": {"class_path": "lightning_adafactor.Adafactor", "init_args": arguments}}  # type: ignore[operator]
    Path("adafactor.yaml").write_text(yaml.safe_dump({"model": model, "data": data}), encoding="utf-8")
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}}
    named = {"model": {"init_args": {"optimizer": optimizer}}}
    Path("adamw.yaml").write_text(yaml.safe_dump(named), encoding="utf-8")


def optimizer_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The arguments of the optimizer of a run with these options."""
    capsys.readouterr()
    assert main(["fit", *words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]["init_args"]


WAYS = [
    (file, name, in_yaml) for name in OWN for file in ("adafactor.yaml", "default.yaml") for in_yaml in (True, False)
]
TRIED = [way for way in WAYS if way[1] == "torch.optim.AdamW" or way[0::2] == ("adafactor.yaml", True)]
"""One optimizer in every way, and one way for every optimizer; the others are slow tests."""


@pytest.mark.parametrize(
    ("file", "name", "in_yaml"),
    [way if way in TRIED else pytest.param(*way, marks=pytest.mark.slow) for way in WAYS],
)
def test_another_optimizer_has_its_own_defaults(
    file: str, name: str, in_yaml: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--model.optimizer", name]
    if in_yaml:
        named = ["--config", f"{{model: {{init_args: {{optimizer: {{class_path: {name}}}}}}}}}"]
    found = optimizer_of(capsys, "--config", file, *named)
    assert {key: found[key] for key in OWN[name]} == OWN[name]


@pytest.mark.parametrize("file", ["default.yaml", "adafactor.yaml"])
def test_what_is_typed_for_the_optimizer_is_taken(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--model.optimizer.lr", "0.2", "--model.optimizer", "torch.optim.AdamW", "--model.optimizer.eps", "1e-5"]
    found = optimizer_of(capsys, "--config", file, *typed)
    assert (found["lr"], found["eps"], found["weight_decay"]) == (0.2, 1e-5, 0.01)


@pytest.mark.parametrize("file", ["default.yaml", "adafactor.yaml"])
def test_a_later_file_names_the_class_and_its_arguments(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = optimizer_of(capsys, "--config", file, "--config", "adamw.yaml")
    assert (found["lr"], found["weight_decay"]) == (0.5, 0.01)


def test_the_same_class_keeps_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    found = optimizer_of(capsys, "--config", "adafactor.yaml", "--model.optimizer", "lightning_adafactor.Adafactor")
    assert (found["lr"], found["weight_decay"], found["beta1"]) == (0.07, 0.3, 0.5)
    named = ["--model.optimizer", "lightning_adafactor.Adafactor"]
    default = optimizer_of(capsys, "--config", "default.yaml", *named)
    assert default["lr"] == optimizer_of(capsys, "--config", "default.yaml")["lr"] == 3e-4


def test_a_class_that_needs_an_argument_says_so(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny_recipe / "needy.py").write_text(
        "import torch\nclass Needy(torch.optim.SGD):\n    def __init__(self, params, lr: float):\n        pass\n"
    )
    monkeypatch.syspath_prepend(str(tiny_recipe))
    assert main(["fit", "--config", "adafactor.yaml", "--model.optimizer", "needy.Needy"]) == 2
    assert "model.optimizer is needy.Needy and needs lr: give it model.optimizer.lr" in capsys.readouterr().err
