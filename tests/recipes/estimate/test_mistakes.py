"""What cannot be estimated, and mistakes on the command line, are told in a sentence."""

from pathlib import Path

import pytest
import yaml

from recipes.cli import optimizer_files
from recipes.cli.main import main
from tests.recipes.estimate.commands import estimate, rows


def test_a_missing_library_is_named_and_its_formula_is_used(
    classifier: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = optimizer_files.find_spec
    missing = ("bitsandbytes", "torchao")
    monkeypatch.setattr(optimizer_files, "find_spec", lambda name: None if name in missing else found(name))

    result = estimate(classifier, "--optimizer", "adamw_8bit", "adamw_torchao_8bit")

    known, unknown = (rows(result, name=name)[0] for name in ("adamw_8bit", "adamw_torchao_8bit"))
    assert known["optimizer_state"]["elements"] > 2 * known["parameter_memory"]["elements"]
    assert (unknown["optimizer_state"], unknown["total_bytes"], unknown["fits"]) == (None, None, None)
    printed = " ".join(capsys.readouterr().out.split())
    assert "adamw_8bit: bitsandbytes is not installed; from the formula for its default arguments." in printed
    assert "adamw_torchao_8bit: torchao is not installed." in printed


def test_an_optimizer_that_fails_has_a_row_with_the_reason(classifier: str) -> None:
    refused = {"optimizer": {"class_path": "torch.optim.LBFGS", "init_args": {"lr": 1.0}}}
    Path("lbfgs.yaml").write_text(yaml.safe_dump({"model": {"init_args": refused}}), encoding="utf-8")

    row = rows(estimate(classifier, "--optimizer", "lbfgs.yaml"), name="lbfgs")[0]

    assert row["total_bytes"] is None
    assert row["note"]


def test_no_chart_is_drawn_if_nothing_can_be_estimated(classifier: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"optimizer": {"class_path": "torch.optim.LBFGS", "init_args": {"lr": 1.0}}}
    Path("lbfgs.yaml").write_text(yaml.safe_dump({"model": {"init_args": refused}}), encoding="utf-8")

    words = [classifier, "--config", "lbfgs.yaml", "--optimizer", "lbfgs.yaml", "--png", "estimate.png"]
    assert main(["estimate", *words]) == 0

    assert "estimate.png is not drawn: nothing could be estimated" in capsys.readouterr().err
    assert not Path("estimate.png").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--gpu-memory", "24"], "error: --gpu-memory 24: expected a number and a unit"),
        (
            ["--optimizer", "adamv"],
            "error: --optimizer adamv: there is no optimizer of that name; did you mean 'adamw'?",
        ),
        (["--optimiser", "adamw"], "error: unknown key 'optimiser'"),
        (
            ["--json", "nowhere/estimate.json"],
            "error: --json nowhere/estimate.json: is in a folder that does not exist",
        ),
        (["--data.batch_sise", "3"], "did you mean 'batch_size'"),
        (["--trainer.precision", "transformer-engine"], "which cannot be estimated: use one of 32-true"),
        (["--data.max_length", "99"], "data.max_length is 99"),
        (["more"], "error: 'more' belongs to no option"),
    ],
)
def test_an_error_on_the_command_line_is_one_sentence(
    args: list[str], words: str, classifier: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["estimate", classifier, *args]) == 2

    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_missing_config_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    assert main(["estimate", "--gpu-memory=24GB"]) == 2
    assert "the following arguments are required: -c/--config" in capsys.readouterr().err

    assert main(["estimate", "--config=clss.yaml"]) == 2
    assert "did you mean cls.yaml" in capsys.readouterr().err


def test_a_module_that_cannot_be_estimated_is_named(tiny_recipe: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["estimate", "--config=tiny.yaml"]) == 2

    assert "TinyModel cannot be estimated: it does not subclass recipes.recipe.Recipe" in capsys.readouterr().err
