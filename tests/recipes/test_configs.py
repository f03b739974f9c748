"""Every YAML in configs/ goes through the real parser and, with a tiny model and texts in place, trains once."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from recipes.cli.main import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
TRAINERS = sorted((Path(__file__).parents[2] / "configs" / "trainer").glob("*.yaml"))
CLASSIFIERS = [config for config in CONFIGS if config.stem.startswith("cls")]
ESTIMATED = ("lm_8gb", "lm_16gb")
"""They differ from lm_24gb in the model only, which a tiny one replaces here; tests of the estimate have them."""
ESTIMATED_FILES = [config for config in CONFIGS if config.stem in ESTIMATED]
TRAINED = [config for config in CONFIGS if config.stem not in ESTIMATED]
LANGUAGE_MODELS = [config for config in TRAINED if config.stem.startswith("lm")]
RESUMED = [
    # A model and tokenizer made from scratch; tests of both tasks resume a run of cls.yaml and of lm.yaml.
    pytest.param(config, marks=[pytest.mark.slow] * (config.stem != "lm_scratch"))
    for config in CONFIGS
    if config.stem in ("cls", "lm_scratch", "lm_llama_1b_bf16")
]


def names(config: Path) -> str:
    return config.stem


@pytest.mark.parametrize("config", ESTIMATED_FILES, ids=names)
def test_it_parses(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["fit", "--config", str(config), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == "recipes.LanguageModel"


@pytest.mark.parametrize(
    "config",
    [pytest.param(config, marks=[pytest.mark.slow] * (config.stem not in ("cls", "lm_scratch"))) for config in CONFIGS],
    ids=names,
)
def test_it_parses_and_what_is_printed_parses_again(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["fit", "--config", str(config), "--print_config"]) == 0
    printed = capsys.readouterr().out
    Path("again.yaml").write_text(printed, encoding="utf-8")
    assert main(["fit", "--config", "again.yaml", "--print_config"]) == 0

    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


@pytest.mark.parametrize("config", TRAINERS, ids=names)
def test_a_file_for_the_trainer_parses_after_a_recipe(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["fit", "--config=lm_llama_1b_bf16.yaml", f"--config={config}", "--print_config"]) == 0

    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    sizes = (trainer["strategy"] or {}).get("init_args", {}) if isinstance(trainer["strategy"], dict) else {}
    if "data_parallel_size" in sizes:
        processes = int(trainer["devices"]) * trainer["num_nodes"]
        assert sizes["data_parallel_size"] * sizes["tensor_parallel_size"] == processes
        assert sizes["save_distributed_checkpoint"] is False


@dataclass(frozen=True)
class Trained:
    """A run of two steps.

    Attributes:
        config: The YAML.
        options: The command line of ``fit`` without the number of steps.
        folder: The working folder, with ``runs/`` in it.
    """

    config: Path
    options: list[str]
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        return settings

    def run(self, version: int = 0) -> Path:
        return self.folder / "runs" / self.config.stem / f"version_{version}"

    def report(self, version: int = 0) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.run(version) / "report.json").read_text(encoding="utf-8"))
        return report


@pytest.fixture(scope="module")
def trained(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    tiny_lm: Path,
    wires: pandas.DataFrame,
    tales: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """The one training of a YAML: two steps on small data, two batches in each evaluation, then the test."""
    config: Path = request.param
    folder = tmp_path_factory.mktemp(config.stem)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("RUNS_DIR", raising=False)
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        steps = settings["trainer"].get("accumulate_grad_batches", 1)
        options = [
            f"--config={config}",
            "--threads=1",
            "--trainer.accelerator=cpu",
            f"--trainer.val_check_interval={2 * steps}",
            "--trainer.limit_val_batches=2",
            "--trainer.limit_test_batches=2",
            "--trainer.log_every_n_steps=1",
            "--data.path=null",
            "--data.name=null",
        ]
        if config in CLASSIFIERS:
            options += classifier_options(settings, wires, tiny_model)
        else:
            options += language_model_options(settings, tales, tiny_lm)
        assert main(["fit", *options, "--trainer.max_steps=2"]) == 0
    return Trained(config, options, folder)


def classifier_options(settings: dict[str, Any], wires: pandas.DataFrame, tiny_model: Path) -> list[str]:
    """Writes a file for each split; returns the options that put them and a tiny model in place."""
    data = settings["data"]["init_args"]
    text = [data["text"]] if isinstance(data["text"], str) else data["text"]
    frame = wires.assign(**dict.fromkeys(text, wires["headline"]), **{data["label"]: wires["desk"]})
    for split in ("train", "validation", "test"):
        frame.to_csv(f"{split}.csv", index=False)
    validation = data["validation"] if isinstance(data["validation"], float) else "validation.csv"
    return [
        f"--model.pretrained={tiny_model}",
        "--data.train=train.csv",
        f"--data.validation={validation}",
        "--data.test=test.csv",
        "--data.max_length=16",
    ]


def language_model_options(settings: dict[str, Any], tales: list[str], tiny_lm: Path) -> list[str]:
    """Writes a file of tales; returns the options that put it and a tiny model in place."""
    data, model = settings["data"]["init_args"], settings["model"]["init_args"]
    pandas.DataFrame({data["text"]: tales}).to_csv("tales.csv", index=False)
    options = [
        "--data.train=tales.csv",
        *(f"--data.{split}=tales.csv" for split in ("validation", "test") if not isinstance(data[split], float)),
        "--data.block_size=16",
        "--model.sample_tokens=3",
    ]
    if "architecture" in model:
        tiny = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": data["vocabulary_size"]}
        options += [f"--model.architecture={json.dumps(model['architecture'] | tiny)}"]
    else:
        options += [f"--model.pretrained={tiny_lm}"]
    if model["optimizer"]["init_args"].get("fused"):
        options += ["--model.optimizer.fused=false"]  # the one thing that needs a GPU
    return options


@pytest.mark.parametrize("trained", TRAINED, ids=names, indirect=True)
def test_it_trains_for_two_steps_with_adafactor_and_is_reported(trained: Trained) -> None:
    report = trained.report()

    assert report["recipe"] == trained.config.stem
    assert report["optimizer"] == "lightning_adafactor.Adafactor"
    assert report["steps"] == 2
    assert report["fingerprint"]["weights"] != report["fingerprint"]["initial_weights"]
    assert 0 < report["optimizer_state"]["bytes"] < report["adamw_state"]["bytes"]
    assert (trained.run() / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("trained", CLASSIFIERS, ids=names, indirect=True)
def test_a_classifier_is_validated_and_tested_and_knows_its_labels(trained: Trained) -> None:
    report = trained.report()

    splits, metrics = ("val", "test"), ("loss", "accuracy", "f1")
    assert set(report["metrics"]) == {f"{split}/{metric}" for split in splits for metric in metrics}
    assert report["monitor"] == {"name": "val/f1", "mode": "max"}
    saved = json.loads((trained.run() / "model" / "config.json").read_text(encoding="utf-8"))
    assert set(saved["id2label"].values()) == {"fruit", "metal", "tool"}


@pytest.mark.parametrize("trained", LANGUAGE_MODELS, ids=names, indirect=True)
def test_a_language_model_is_evaluated_before_and_after_and_generates_samples(trained: Trained) -> None:
    report = trained.report()

    assert report["monitor"] == {"name": "val/loss", "mode": "min"}
    assert {"val/perplexity", "test/perplexity"} <= set(report["metrics"])
    assert report["before"].keys() == report["metrics"].keys()
    assert len(report["samples"]) == len(trained.settings["model"]["init_args"]["sample_prompts"])


@pytest.mark.parametrize("trained", RESUMED, ids=names, indirect=True)
def test_it_resumes_for_a_third_step_and_the_best_checkpoint_is_tested(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder)
    monkeypatch.delenv("RUNS_DIR", raising=False)

    assert main(["fit", *trained.options, "--trainer.max_steps=3", "--ckpt_path=last"]) == 0
    assert main(["test", *trained.options, "--ckpt_path=best"]) == 0

    first, resumed = trained.report(0), trained.report(1)
    assert resumed["steps"] == 3
    assert resumed["history"]["evaluations"][: len(first["history"]["evaluations"])] == first["history"]["evaluations"]
    assert resumed["metrics"].keys() == first["metrics"].keys()
