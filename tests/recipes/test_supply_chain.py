"""Downloaded files cannot run code: no pickles, no code from a model's repository."""

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lightning.fabric.plugins.io.torch_io as lightning_io
import pytest
import torch
import yaml

from recipes.cli.main import main
from recipes.messages import RecipeError
from recipes.models.pretrained import load_config, load_model

ROOT = Path(__file__).resolve().parents[2]
UNPICKLERS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load", "joblib.load"),
    *("pandas.read_pickle", "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "eval", "exec"),
}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the code that users run, with file and line."""
    yield from ((where, node) for where, node in nodes() if isinstance(node, ast.Call))


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function definition in the code that users run, with file and line."""
    yield from ((where, node) for where, node in nodes() if isinstance(node, ast.FunctionDef))


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Every call and function definition in the code that users run, with file and line."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for package in ("recipes", "lightning_adafactor")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Call, ast.FunctionDef))
    ]


def keyword(call: ast.Call, name: str) -> Any:
    """The constant passed for a keyword; None if it is not passed."""
    return next((ast.literal_eval(one.value) for one in call.keywords if one.arg == name), None)


def test_torch_loads_tensors_and_plain_values_only() -> None:
    loads = [(where, call) for where, call in calls() if ast.unparse(call.func) in ("torch.load", "load_checkpoint")]
    assert loads, "checkpoints are loaded somewhere"
    for where, call in loads:
        assert keyword(call, "weights_only") is True, where


def test_nothing_else_unpickles_or_evaluates() -> None:
    for where, call in calls():
        assert ast.unparse(call.func) not in UNPICKLERS, where
        assert keyword_names(call).isdisjoint({"allow_pickle"}), where


def keyword_names(call: ast.Call) -> set[str]:
    return {one.arg for one in call.keywords if one.arg}


def test_code_from_a_models_repository_is_never_trusted_by_default() -> None:
    for where, call in calls():
        for one in call.keywords:
            if one.arg == "trust_remote_code":
                assert "True" not in ast.unparse(one.value), where
    for where, function in functions():
        arguments = function.args
        given = dict(zip([one.arg for one in reversed(arguments.args)], reversed(arguments.defaults), strict=False))
        given |= dict(zip([one.arg for one in arguments.kwonlyargs], arguments.kw_defaults, strict=True))
        if given.get("trust_remote_code"):
            assert ast.unparse(given["trust_remote_code"]) == "False", where
    for path in (ROOT / "configs").rglob("*.yaml"):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert not settings.get("model", {}).get("init_args", {}).get("trust_remote_code"), path


def test_models_are_loaded_from_safetensors_only() -> None:
    said = [keyword(call, "use_safetensors") for _, call in calls() if "use_safetensors" in keyword_names(call)]
    assert said
    assert set(said) == {True}


@pytest.fixture
def pickled(tiny_model: Path, tmp_path: Path) -> Path:
    """A model's folder whose only weights are a pickle that creates a file when it is loaded."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    torch.save({"weights": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    return folder


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_the_trap_creates_its_file_when_it_is_unpickled(pickled: Path) -> None:
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (pickled.parent / "sprung").exists()


def test_a_folder_with_only_pickled_weights_is_refused(pickled: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = load_config(str(pickled), "model.pretrained")
    with pytest.raises(RecipeError, match=r"pickled weights \(\.bin, \.pt\) are not loaded"):
        load_model(AutoModelForSequenceClassification, str(pickled), "model.pretrained", config, "float32")
    assert not (pickled.parent / "sprung").exists()


def test_a_model_with_code_of_its_own_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    settings = json.loads((tiny_model / "config.json").read_text())
    settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass MineConfig: ...\n")
    with pytest.raises(RecipeError, match=r"model\.pretrained: .* needs code that comes with it"):
        load_config(str(tmp_path), "model.pretrained")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_with_a_trap_is_refused(
    command: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Trap(tiny_recipe / "sprung")}, "bad.ckpt")
    assert main([command, "--config", "tiny.yaml", "--ckpt_path", "bad.ckpt"]) == 2
    assert "holds more than tensors and plain values" in capsys.readouterr().err
    assert not (tiny_recipe / "sprung").exists()


def test_lightning_also_loads_checkpoints_with_weights_only(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    load = lightning_io.pl_load

    def watched(path: Any, **settings: Any) -> Any:
        asked.append(settings["weights_only"])
        return load(path, **settings)

    assert main(["fit", "--config", "tiny.yaml", "--trainer.max_epochs", "1"]) == 0
    monkeypatch.setattr(lightning_io, "pl_load", watched)
    assert main(["fit", "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0
    assert main(["validate", "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0
    assert asked == [True, True]
