"""The end of ``fit``: a recipe leaves model and report; any other module is trained, and told what is left out."""

import json
from pathlib import Path

import pytest

from recipes.cli.main import main

OWN_MODULE = """\
import torch
from tiny import TinyModel


class WithPretrained(TinyModel):
    \"\"\"A module of a user's own that has a method by the name of a recipe's.\"\"\"

    def save_pretrained(self, folder):
        raise AssertionError("only a recipe is saved")
"""


def test_a_module_that_is_no_recipe_is_trained_and_a_note_says_what_is_left_out(
    tiny_recipe: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny_recipe / "own_module.py").write_text(OWN_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tiny_recipe))

    assert main(["fit", "--config", "tiny.yaml", "--model=own_module.WithPretrained"]) == 0

    assert "note: WithPretrained is trained; only subclasses of recipes.recipe.Recipe write" in (
        capsys.readouterr().err
    )
    assert Path("runs/tiny/version_0/checkpoints/last.ckpt").is_file()
    assert not Path("runs/tiny/version_0/report.json").exists()


def test_a_recipe_with_the_data_of_another_task_is_refused_by_name(
    tiny_recipe: Path, tiny_model: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}}

    assert main(["fit", "--config", "tiny.yaml", f"--model={json.dumps(arguments)}", "--data.width=4"]) == 2

    assert "TextClassifier needs the data of recipes.TextClassificationData: set data to it (it is tiny.TinyData)" in (
        capsys.readouterr().err
    )
