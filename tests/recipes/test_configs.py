"""Every YAML in configs/ goes through the real parser and, with a tiny model and texts in place, trains."""

import json
import re
from pathlib import Path

import pandas
import pytest
import yaml

from recipes.cli import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
CLASSIFIERS = [config for config in CONFIGS if config.stem.startswith("cls")]


def names(config: Path) -> str:
    return config.stem


@pytest.mark.parametrize("config", CONFIGS, ids=names)
def test_it_parses_and_what_is_printed_parses_again(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["fit", "--config", str(config), "--print_config"]) == 0
    printed = capsys.readouterr().out
    Path("again.yaml").write_text(printed, encoding="utf-8")
    assert main(["fit", "--config", "again.yaml", "--print_config"]) == 0

    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


@pytest.mark.parametrize("config", CONFIGS, ids=names)
def test_its_header_says_the_command_the_needs_and_what_was_measured(config: Path) -> None:
    header = re.match(r"(#.*\n)+", config.read_text(encoding="utf-8"))

    assert header is not None
    assert f"python -m recipes.fit --config {config.name}" in header[0]
    assert "Needs:" in header[0]
    assert "Measured" in header[0]


@pytest.mark.parametrize("config", CLASSIFIERS, ids=names)
def test_it_trains_validates_and_tests_on_other_texts(
    config: Path, tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["init_args"]
    text = [settings["text"]] if isinstance(settings["text"], str) else settings["text"]
    frame = wires.assign(**dict.fromkeys(text, wires["headline"]), **{settings["label"]: wires["desk"]})
    for split in ("train", "validation", "test"):
        frame.to_csv(f"{split}.csv", index=False)
    validation = settings["validation"] if isinstance(settings["validation"], float) else "validation.csv"

    status = main(
        [
            "fit",
            f"--config={config}",
            f"--model.pretrained={tiny_model}",
            "--data.path=null",
            "--data.name=null",
            "--data.train=train.csv",
            f"--data.validation={validation}",
            "--data.test=test.csv",
            "--data.max_length=16",
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=2",
        ]
    )

    assert status == 0
    report = json.loads(Path("runs", config.stem, "version_0", "report.json").read_text(encoding="utf-8"))
    assert report["recipe"] == config.stem
    assert report["optimizer"] == "lightning_adafactor.Adafactor"
    assert report["steps"] == 2
    assert 0 <= report["metrics"]["test/f1"] <= report["metrics"]["test/accuracy"] + 0.5
