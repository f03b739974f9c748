"""Every YAML in configs/ goes through the real parser and, with a tiny model and texts in place, trains."""

import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from recipes.cli.main import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
CLASSIFIERS = [config for config in CONFIGS if config.stem.startswith("cls")]
LANGUAGE_MODELS = [config for config in CONFIGS if config.stem.startswith("lm")]


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


TINY_STEPS = ["--trainer.accelerator=cpu", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]


def two_steps_and_a_third(config: Path, replaced: list[str]) -> dict[str, Any]:
    """Fits for two steps, goes on from there for a third, tests the best checkpoint; the report of the first run."""
    common = [f"--config={config}", *TINY_STEPS, *replaced]
    runs = Path("runs", config.stem)

    assert main(["fit", *common, "--trainer.max_steps=2"]) == 0
    assert main(["fit", *common, "--trainer.max_steps=3", "--ckpt_path=last"]) == 0
    assert main(["test", *common, "--ckpt_path=best"]) == 0

    first, resumed = (json.loads((runs / f"version_{i}" / "report.json").read_text(encoding="utf-8")) for i in range(2))
    assert first["recipe"] == config.stem
    assert first["optimizer"] == "lightning_adafactor.Adafactor"
    assert (first["steps"], resumed["steps"]) == (2, 3)
    assert resumed["history"]["evaluations"][: len(first["history"]["evaluations"])] == first["history"]["evaluations"]
    assert resumed["metrics"].keys() == first["metrics"].keys()
    return first


@pytest.mark.parametrize("config", CLASSIFIERS, ids=names)
def test_it_trains_resumes_and_tests_on_other_texts(
    config: Path, tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["init_args"]
    text = [settings["text"]] if isinstance(settings["text"], str) else settings["text"]
    frame = wires.assign(**dict.fromkeys(text, wires["headline"]), **{settings["label"]: wires["desk"]})
    for split in ("train", "validation", "test"):
        frame.to_csv(f"{split}.csv", index=False)
    validation = settings["validation"] if isinstance(settings["validation"], float) else "validation.csv"

    report = two_steps_and_a_third(
        config,
        [
            f"--model.pretrained={tiny_model}",
            "--data.path=null",
            "--data.name=null",
            "--data.train=train.csv",
            f"--data.validation={validation}",
            "--data.test=test.csv",
            "--data.max_length=16",
        ],
    )

    assert 0 <= report["metrics"]["test/f1"] <= report["metrics"]["test/accuracy"] + 0.5


@pytest.mark.parametrize("config", LANGUAGE_MODELS, ids=names)
def test_it_trains_resumes_and_tests_on_other_tales(
    config: Path, tiny_lm: Path, tales: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    data, model = settings["data"]["init_args"], settings["model"]["init_args"]
    pandas.DataFrame({data["text"]: tales}).to_csv("tales.csv", index=False)
    replaced = [
        "--data.path=null",
        "--data.name=null",
        "--data.train=tales.csv",
        *(f"--data.{split}=tales.csv" for split in ("validation", "test") if not isinstance(data[split], float)),
        "--data.block_size=16",
        "--model.sample_tokens=3",
    ]
    if "architecture" in model:
        tiny = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": data["vocabulary_size"]}
        replaced += [f"--model.architecture={json.dumps(model['architecture'] | tiny)}"]
    else:
        replaced += [f"--model.pretrained={tiny_lm}"]
    if model["optimizer"]["init_args"].get("fused"):
        replaced += ["--model.optimizer.fused=false"]  # the one thing that needs a GPU

    report = two_steps_and_a_third(config, replaced)

    assert report["monitor"] == {"name": "val/loss", "mode": "min"}
    assert report["before"].keys() == report["metrics"].keys()
    assert len(report["samples"]) == len(model["sample_prompts"])
