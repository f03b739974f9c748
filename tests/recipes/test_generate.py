"""``recipes generate`` prints text from a run's model, or a sentence with the reason why it cannot."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.cli.main import main
from recipes.language_modeling.generation import continue_text


@pytest.fixture
def run(tiny_lm: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_lm, tmp_path / "version_0" / "model")
    return tmp_path / "version_0"


def generate(*args: str) -> int:
    return main(["generate", *args])


def test_it_prints_each_prompt_with_its_continuation(run: Path, capsys: pytest.CaptureFixture) -> None:
    status = generate(f"--run={run}", "--prompt=Once", "--prompt=A plum", "--max-new-tokens=6", "--temperature=0")

    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    texts = [
        prompt + continue_text(model, tokenizer, prompt, key="", max_new_tokens=6) for prompt in ("Once", "A plum")
    ]
    assert status == 0
    assert capsys.readouterr().out == "\n\n".join(texts) + "\n"


def test_the_same_seed_samples_the_same_text(run: Path, capsys: pytest.CaptureFixture) -> None:
    outputs = []
    for seed in (1, 1, 2):
        assert generate(f"--run={run}", "--prompt=Once", "--max-new-tokens=20", f"--seed={seed}") == 0
        outputs.append(capsys.readouterr().out)

    assert outputs[0] == outputs[1] != outputs[2]


def test_without_a_prompt_it_continues_standard_input(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Once there\n"))

    assert generate(f"--run={run}", "--max-new-tokens=3") == 0
    assert capsys.readouterr().out.startswith("Once there")


def test_the_folder_of_the_model_is_accepted_too(run: Path, capsys: pytest.CaptureFixture) -> None:
    outputs = []
    for folder in (run, run / "model"):
        assert generate(f"--run={folder}", "--prompt=Once", "--max-new-tokens=5", "--temperature=0") == 0
        outputs.append(capsys.readouterr().out)

    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--prompt="], "--prompt 1 is empty"),
        (["--prompt=Once", "--prompt= "], "--prompt 2 is empty"),
        (["--prompt=Once", "--max-new-tokens=0"], "--max-new-tokens is 0: give 1 or more"),
        (["--prompt=Once", "--max-new-tokens=many"], "--max-new-tokens: invalid int value: 'many'"),
        (["--prompt=Once", "--max-new-tokens=64"], "more than the 64 that the model reads"),
        (["--prompt=Once", "--temperature=-1"], "--temperature is -1.0: give 0 or more"),
        (["--prompt=Once", "--temperature=nan"], "--temperature is nan: give 0 or more"),
        (["--prompt=Once", "--top-p=0"], "--top-p is 0.0: give more than 0 and at most 1"),
        (["--prompt=Once", "--seed=-1"], "--seed is -1: give 0 or more"),
        (["--promt=Once"], "unrecognized arguments: --promt=Once"),
    ],
)
def test_an_error_is_one_sentence_and_exit_status_2(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    assert generate(f"--run={run}", *args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error


def test_a_missing_folder_is_named(capsys: pytest.CaptureFixture) -> None:
    assert generate("--run=runs/nowhere", "--prompt=Once") == 2
    assert "--run runs/nowhere: no such folder" in capsys.readouterr().err


def test_the_error_for_a_folder_of_runs_names_the_run(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(f"--run={run.parent}", "--prompt=Once") == 2
    assert f"it has no model/; did you mean {run}?" in capsys.readouterr().err


def test_a_run_that_has_not_finished_has_no_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(f"--run={tmp_path}", "--prompt=Once") == 2
    assert "it has no model/: has the run finished?" in capsys.readouterr().err


def test_a_classifier_is_an_error(run: Path, capsys: pytest.CaptureFixture) -> None:
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["BertForSequenceClassification"]
    (run / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")

    assert generate(f"--run={run}", "--prompt=Once") == 2
    assert "its model is a BertForSequenceClassification, which cannot generate text" in capsys.readouterr().err


def test_a_model_without_weights_is_an_error(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "model" / "model.safetensors").unlink()

    assert generate(f"--run={run}", "--prompt=Once") == 2
    assert "holds no weights" in capsys.readouterr().err


def test_code_that_comes_with_the_model_runs_only_if_trusted(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (run / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (run / "model" / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n",
        encoding="utf-8",
    )

    assert generate(f"--run={run}", "--prompt=Once") == 2
    assert "(in generate: --trust-remote-code)" in capsys.readouterr().err
    assert generate(f"--run={run}", "--prompt=Once", "--max-new-tokens=3", "--trust-remote-code") == 0
    assert capsys.readouterr().out.startswith("Once")


def test_out_of_memory_on_the_gpu_is_an_error_in_one_sentence(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("recipes.language_modeling.generation.continue_text", full)

    assert generate(f"--run={run}", "--prompt=Once") == 2
    assert capsys.readouterr().err.startswith("error: the GPU is out of memory: ")


def test_its_help_explains_each_option(capsys: pytest.CaptureFixture) -> None:
    assert generate("--help") == 0
    text = capsys.readouterr().out
    for option in (
        "--run",
        "--prompt",
        "--max-new-tokens",
        "--temperature",
        "--top-p",
        "--seed",
        "--trust-remote-code",
    ):
        assert option in text
