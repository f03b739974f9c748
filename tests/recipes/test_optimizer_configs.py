"""The files in configs/optimizer/ replace the whole optimizer of a recipe, and train with the real classes."""

import inspect
import json
import shutil
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn
from transformers import BertConfig, BertModel

from recipes.cli.main import main
from recipes.messages import RecipeError
from recipes.training.optimizer import configure
from tests.recipes.optimizers.files import GPU_ONLY, OF_LIBRARIES

CONFIGS = Path(__file__).parents[2] / "configs"
OPTIMIZERS = sorted((CONFIGS / "optimizer").glob("*.yaml"))
QUICK = ("adafactor", "adamw")
"""Those that are trained in every test run; the others are slow tests."""


@pytest.fixture(scope="module")
def small_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with some tensors of 4096 elements, the smallest size with 8-bit state."""
    folder = tmp_path_factory.mktemp("small-bert")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    config = BertConfig.from_pretrained(tiny_model, hidden_size=64, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    return folder


def names(config: Path) -> str:
    return config.stem


def optimizer_of(settings: dict[str, Any]) -> dict[str, Any]:
    return settings["model"]["init_args"]["optimizer"]


def class_of(optimizer: dict[str, Any]) -> type:
    module, _, name = optimizer["class_path"].rpartition(".")
    if module.partition(".")[0] not in ("lightning_adafactor", "torch"):
        pytest.importorskip(module, reason="needs the extras 8bit and optimizers", exc_type=ImportError)
    return getattr(import_module(module), name)


def fit(config: Path, model: Path, table: Path) -> list[str]:
    """The command that trains ``cls.yaml`` with an optimizer's file."""
    return [
        "fit",
        "--config=cls.yaml",
        f"--config=optimizer/{config.name}",
        f"--model.pretrained={model}",
        f"--data.train={table}",
        f"--data.test={table}",
        "--data.text=headline",
        "--data.label=desk",
        "--data.max_length=16",
    ]


def test_the_documented_files_exist() -> None:
    documented = [
        "adafactor",
        "adafactor8bit",
        "adafactor_momentum",
        "adafactor_paper",
        "adafactor_t5",
        "adafactor_transformers",
        "adam_mini",
        "adamw",
        "adamw_8bit",
        "adamw_8bit_paged",
        "adamw_paged",
        "adamw_torchao_4bit",
        "adamw_torchao_8bit",
        "apollo",
        "came",
        "flashoptim",
        "galore",
        "gefen",
        "lion",
        "lion_8bit",
        "muon",
        "sgd",
        "stableadamw",
        "torch_adafactor",
    ]
    assert [config.stem for config in OPTIMIZERS] == documented


@pytest.mark.parametrize("config", OPTIMIZERS, ids=names)
def test_it_sets_every_argument_of_its_class_so_that_none_of_another_stays(config: Path) -> None:
    optimizer = optimizer_of(yaml.safe_load(config.read_text(encoding="utf-8")))

    assert set(optimizer["init_args"]) == set(inspect.signature(class_of(optimizer)).parameters) - {"params"}


@pytest.mark.parametrize(
    ("recipe", "config"),
    [
        pytest.param(
            "lm.yaml" if config.stem in ("adafactor", "adamw_8bit", "muon") else "cls.yaml",
            config,
            marks=[pytest.mark.slow] * (config.stem in OF_LIBRARIES),
        )
        for config in OPTIMIZERS
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_after_a_recipe_the_parsed_settings_are_exactly_those_of_the_file(
    config: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    class_of(optimizer_of(settings))

    assert main(["fit", "--config", recipe, "--config", f"optimizer/{config.name}", "--print_config"]) == 0

    said = capsys.readouterr()
    printed = yaml.safe_load(said.out)["model"]["init_args"]
    assert "keeps" not in said.err
    assert {key: printed[key] for key in settings["model"]["init_args"]} == settings["model"]["init_args"]


@pytest.mark.parametrize(
    "config",
    [
        config if config.stem in QUICK else pytest.param(config, marks=pytest.mark.slow)
        for config in OPTIMIZERS
        if config.stem not in GPU_ONLY
    ],
    ids=names,
)
def test_it_trains_a_small_model_resumes_and_tests_the_best_checkpoint(
    config: Path, small_model: Path, wires_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    class_of(optimizer_of(settings))
    command = [
        *fit(config, small_model, wires_csv),
        "--threads=1",
        "--trainer.val_check_interval=2",
        "--trainer.limit_val_batches=1",
        "--trainer.limit_test_batches=1",
    ]
    if "rank" in optimizer_of(settings)["init_args"]:
        command += ["--model.optimizer.rank=8"]  # the model's width is 64

    assert main([*command, "--trainer.max_steps=2"]) == 0
    assert main([*command, "--trainer.max_steps=3", "--ckpt_path=last"]) == 0

    for version, steps in ((0, 2), (1, 3)):
        report = json.loads(Path("runs", "cls", f"version_{version}", "report.json").read_text(encoding="utf-8"))
        assert report["steps"] == steps
        assert report["optimizer"].rpartition(".")[2] == optimizer_of(settings)["class_path"].rpartition(".")[2]
        state, adamw = report["optimizer_state"]["bytes"], report["adamw_state"]["bytes"]
        assert 0 < state < adamw or config.stem in ("adamw", "stableadamw")


@pytest.mark.parametrize("config", [config for config in OPTIMIZERS if config.stem in GPU_ONLY], ids=names)
def test_one_for_gpus_is_refused_on_a_cpu(config: Path) -> None:
    settings = optimizer_of(yaml.safe_load(config.read_text(encoding="utf-8")))
    make = partial(class_of(settings), **settings["init_args"])

    with pytest.raises(
        RecipeError, match=r"does not support this machine's cpu: (Paged|.*'s kernels need an NVIDIA GPU)"
    ):
        configure(nn.Linear(64, 64), None, make, schedule=None, warmup=0.0, schedule_args=None)


@pytest.mark.slow
@pytest.mark.parametrize("config", [config for config in OPTIMIZERS if config.stem in GPU_ONLY], ids=names)
def test_one_for_gpus_is_refused_on_a_cpu_with_one_sentence(
    config: Path,
    small_model: Path,
    wires_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    cls = class_of(optimizer_of(yaml.safe_load(config.read_text(encoding="utf-8"))))
    command = [*fit(config, small_model, wires_csv), "--trainer.accelerator=cpu"]

    assert main(command) == 2

    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: model.optimizer is ")
    assert f"{cls.__name__}, which does not support this machine's cpu: " in said
