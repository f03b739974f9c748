"""A language model learns, is judged token by token, writes, and is there to be loaded when a run has ended."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from recipes import LanguageModel, LanguageModelingData
from recipes.cli.main import main
from recipes.language_modeling.architecture import new_config
from recipes.language_modeling.packing import IGNORED
from recipes.messages import RecipeError

GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32}


def trainer(**arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": 4,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**defaults, **arguments})


def data_of(tales_csv: Path, **arguments: Any) -> LanguageModelingData:
    return LanguageModelingData(
        str(tales_csv), **{"text": "Content", "validation": 0.2, "block_size": 32, "batch_size": 4, **arguments}
    )


def fitted(
    pretrained: Path | None,
    tales_csv: Path,
    trainer_args: dict | None = None,
    data_args: dict | None = None,
    **kwargs: Any,
) -> LanguageModel:
    seed_everything(3, verbose=False)
    module = LanguageModel(None if pretrained is None else str(pretrained), **kwargs)
    trainer(**(trainer_args or {})).fit(module, data_of(tales_csv, **(data_args or {})))
    return module


def test_it_learns(tiny_lm: Path, tales_csv: Path) -> None:
    module = fitted(
        tiny_lm, tales_csv, {"max_steps": 30, "limit_val_batches": 0, "log_every_n_steps": 1}, optimizer=rate(0.02)
    )

    losses = [value for _, value, _ in module.history.losses]
    assert losses[-1] < losses[0] - 0.7


def rate(lr: float) -> Any:
    return lambda params: torch.optim.AdamW(params, lr=lr)


def test_its_metrics_are_those_of_all_held_out_tokens_taken_together(tiny_lm: Path, tales_csv: Path) -> None:
    module = LanguageModel(str(tiny_lm))
    data = data_of(tales_csv, eval_batch_size=5)
    [logged] = trainer().validate(module, data, verbose=False)

    losses, hits = [], []
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    for block in data.splits["validation"]["input_ids"]:
        with torch.no_grad():
            logits = model(torch.tensor([block])).logits[0, :-1]
        labels = torch.tensor(block[1:])
        losses.append(functional.cross_entropy(logits, labels, reduction="none"))
        hits.append(logits.argmax(-1) == labels)
    loss = torch.cat(losses).mean().item()
    assert logged["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert logged["val/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx(torch.cat(hits).float().mean().item(), rel=1e-5)


def test_training_loss_is_the_mean_over_labelled_tokens(tiny_lm: Path, tales_csv: Path) -> None:
    module = fitted(tiny_lm, tales_csv, {"max_steps": 1})
    module.model.eval()  # type: ignore[union-attr]
    labels = torch.tensor([[5, 6, 7, IGNORED], [8, IGNORED, IGNORED, IGNORED]])
    batch = {"input_ids": torch.randint(0, 300, (2, 4)), "labels": labels}
    module.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]

    loss = module.training_step(batch, 0)

    expected = functional.cross_entropy(
        module(batch["input_ids"]).flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )
    assert torch.allclose(loss, expected)


def test_it_trains_in_train_mode_and_the_parameters_have_the_dtype_asked_for(tiny_lm: Path, tales_csv: Path) -> None:
    module = fitted(tiny_lm, tales_csv, {"max_steps": 1}, dtype="bfloat16", architecture={"attention_dropout": 0.5})

    assert module.model is not None
    assert module.model.training
    assert module.model.config.attention_dropout == 0.5
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_activation_checkpointing_changes_the_memory_and_not_the_weights(tiny_lm: Path, tales_csv: Path) -> None:
    plain, checkpointed = (fitted(tiny_lm, tales_csv, gradient_checkpointing=on) for on in (False, True))

    layers = [layer for layer in checkpointed.modules() if hasattr(layer, "gradient_checkpointing")]
    assert layers
    assert all(layer.gradient_checkpointing for layer in layers)
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradient_release_changes_the_memory_and_not_the_weights(tiny_lm: Path, tales_csv: Path) -> None:
    plain, released = (fitted(tiny_lm, tales_csv, gradient_release=on) for on in (False, True))

    sizes = [module.history.gradients.elements for module in (plain, released)]
    assert sizes == [sum(map(torch.numel, plain.parameters())), max(map(torch.numel, plain.parameters()))]
    for one, other in zip(plain.parameters(), released.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluating_and_generating_before_training_leave_it_bit_for_bit_the_same(
    tiny_lm: Path, tales_csv: Path
) -> None:
    plain = fitted(tiny_lm, tales_csv, architecture={"attention_dropout": 0.5})
    seed_everything(3, verbose=False)
    module = LanguageModel(
        str(tiny_lm), architecture={"attention_dropout": 0.5}, sample_prompts=["Once"], sample_temperature=1.0
    )
    data, looking = data_of(tales_csv), trainer()
    module.before_training(looking, data)
    looking.fit(module, data)

    assert module.before.keys() == {"val/loss", "val/perplexity", "val/accuracy"}
    assert len(module.samples_before) == 1
    for one, other in zip(plain.parameters(), module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_from_scratch_has_the_architecture_asked_for_and_reloads_with_its_tokenizer(
    tales_csv: Path, tmp_path: Path
) -> None:
    module = fitted(None, tales_csv, {"max_steps": 1}, {"vocabulary_size": 270}, architecture=GPT2)
    module.save_pretrained(tmp_path)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.config.vocab_size == len(tokenizer) == 270
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("Once – 漢")["input_ids"]) == "Once – 漢"
    ids = torch.tensor([tokenizer("Once there was")["input_ids"]])
    assert torch.allclose(model(ids).logits, module.model.eval()(ids).logits, atol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "model.pretrained is null: name a model to start from, or give model.architecture"),
        ({"architecture": {"n_layer": 2}}, "model.pretrained is null"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_loaded(arguments: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        LanguageModel(**arguments)


@pytest.mark.parametrize(
    ("arguments", "data", "words"),
    [
        ({"architecture": {"model_type": "gpt3"}}, {}, r"model.architecture: transformers refuses it.*gpt3"),
        ({"architecture": {**GPT2, "n_head": 3}}, {}, r"model.architecture: transformers refuses it"),
        ({"architecture": {**GPT2, "n_head": "two"}}, {}, r"model.architecture: transformers refuses it.*n_head"),
        (
            {"architecture": {**GPT2, "n_layers": 3}},
            {},
            r"model.architecture.n_layers: GPT2Config has no such value; did you mean n_layer\?",
        ),
        (
            {"architecture": GPT2},
            {"block_size": 64},
            "data.block_size is 64, but the model of model.architecture reads 32",
        ),
        (
            {"architecture": {**GPT2, "vocab_size": 260}},
            {"vocabulary_size": 280},
            "data.tokenizer: the tokenizer has 280 tokens but model.architecture has vocab_size 260: give 280 or more",
        ),
    ],
)
def test_an_invalid_architecture_is_reported(tales_csv: Path, arguments: dict, data: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        fitted(None, tales_csv, {"max_steps": 1}, data, **arguments)


def test_a_value_that_the_pretrained_model_does_not_have_is_refused(tiny_lm: Path, tales_csv: Path) -> None:
    with pytest.raises(RecipeError, match=r"atention_dropout: LlamaConfig .* did you mean attention_dropout"):
        fitted(tiny_lm, tales_csv, architecture={"atention_dropout": 0.5})


def test_an_older_name_that_transformers_understands_is_taken(tiny_lm: Path) -> None:
    config = new_config({"model_type": "llama", "rope_theta": 500.0}, AutoTokenizer.from_pretrained(tiny_lm))

    assert config.rope_parameters["rope_theta"] == 500.0


def test_a_block_longer_than_the_model_reads_is_refused(tiny_lm: Path, tales_csv: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.block_size is 65, but '.*tiny-llama.*' reads 64 tokens at most"):
        fitted(tiny_lm, tales_csv, data_args={"block_size": 65})


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(
    tiny_lm: Path, tales: list, tales_csv: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path)

    with pytest.raises(RecipeError, match=r"data\.tokenizer: the tokenizer has 301 tokens but the model .* embeds 300"):
        fitted(tiny_lm, tales_csv, data_args={"tokenizer": str(tmp_path)})


def test_an_encoder_that_sees_what_it_should_predict_is_refused(
    tiny_model: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny_model, initializer_range=0.5)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)

    with pytest.raises(RecipeError, match=r"reads later tokens .*give a causal language model"):
        fitted(tmp_path, tales_csv, data_args={"end_of_text": False})


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_model_of_few_tokens_is_found_causal_and_stays_in_its_mode(size: int) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**GPT2, vocab_size=size)).train()

    LanguageModel(architecture=GPT2)._check_causal(model)

    assert model.training


def test_pickled_weights_are_refused(tiny_lm: Path, tales_csv: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_lm / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")

    with pytest.raises(RecipeError, match=r"holds no weights .*pickled weights \(\.bin, \.pt\) are not loaded"):
        fitted(tmp_path, tales_csv)


def test_code_that_comes_with_a_model_is_not_run_unless_asked_for(
    tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_lm.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (model / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n",
        encoding="utf-8",
    )

    with pytest.raises(RecipeError, match=r"needs code that comes with it.*model\.trust_remote_code"):
        fitted(model, tales_csv)
    assert not ran.exists()


def command(tiny_lm: Path, tales_csv: Path, *more: str) -> list[str]:
    """The command line of a small run of lm.yaml."""
    return [
        "fit",
        "--config=lm.yaml",
        f"--model.pretrained={tiny_lm}",
        f"--data.train={tales_csv}",
        "--data.validation=0.2",
        "--data.test=0.1",
        "--data.block_size=32",
        "--model.sample_tokens=5",
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        "--trainer.val_check_interval=2",
        "--trainer.log_every_n_steps=1",
        *more,
    ]


def fit(tiny_lm: Path, tales_csv: Path, *more: str) -> int:
    return main(command(tiny_lm, tales_csv, *more))


@pytest.mark.parametrize("limit", [{"max_epochs": 2}, {"max_steps": 20}], ids=str)
def test_a_run_resumed_within_an_epoch_ends_where_an_uninterrupted_one_does(
    tiny_lm: Path, tales_csv: Path, tmp_path: Path, limit: dict
) -> None:
    def run(name: str, **arguments: Any) -> LanguageModel:
        seed_everything(3, verbose=False)
        module = LanguageModel(str(tiny_lm), schedule="constant")
        callbacks = [ModelCheckpoint(tmp_path / name, save_top_k=-1, every_n_train_steps=3)]
        settings = {"max_steps": -1, "limit_train_batches": 7, "enable_checkpointing": True, "callbacks": callbacks}
        trainer(**settings | limit).fit(module, data_of(tales_csv), weights_only=True, **arguments)
        return module

    uninterrupted = run("uninterrupted")
    [interrupted] = (tmp_path / "uninterrupted").glob("*step=3.ckpt")
    resumed = run("resumed", ckpt_path=interrupted)

    for name, parameter in uninterrupted.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)


FOUR_STEPS = "--trainer.limit_train_batches=4"


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tiny_lm: Path, tales_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs`` after four steps of lm.yaml, trained once for all tests."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RUNS_DIR", raising=False)
        assert fit(tiny_lm, tales_csv, FOUR_STEPS) == 0
    return folder / "runs"


@pytest.fixture
def first_run(trained: Path, working_folder: Path) -> Path:
    """The folder of the run of four steps: a copy, as if it had been trained in the working folder."""
    shutil.copytree(trained, working_folder / "runs")
    return Path("runs/lm/version_0")


def test_a_run_reports_what_was_before_and_a_resumed_one_remembers_it(
    tiny_lm: Path, tales_csv: Path, first_run: Path
) -> None:
    first = json.loads((first_run / "report.json").read_text(encoding="utf-8"))
    kept = [f"--ckpt_path={first_run}", FOUR_STEPS, "--trainer.max_epochs=2"]
    assert fit(tiny_lm, tales_csv, *kept, "--model.sample_tokens=5000") == 2  # told before the training
    assert not Path("runs/lm/version_1/metrics.csv").exists()
    shutil.rmtree("runs/lm/version_1")
    assert fit(tiny_lm, tales_csv, *kept) == 0
    second = json.loads(Path("runs/lm/version_1/report.json").read_text(encoding="utf-8"))

    assert first["monitor"] == {"name": "val/loss", "mode": "min"}
    assert first["before"].keys() == first["metrics"].keys()
    assert first["before"]["val/loss"] != first["metrics"]["val/loss"]
    for name in ("val", "test"):
        assert first["metrics"][f"{name}/perplexity"] == pytest.approx(math.exp(first["metrics"][f"{name}/loss"]))
    assert [sample.keys() for sample in first["samples"]] == [{"prompt", "before", "after"}] * 2
    assert all(isinstance(sample["before"], str) for sample in first["samples"])
    assert first["tokens"].keys() == {"train", "dropped", "validation", "test"}
    assert first["tokens_per_second"] > 0
    assert second["steps"] == 8
    assert second["before"] == first["before"]
    assert [sample["before"] for sample in second["samples"]] == [sample["before"] for sample in first["samples"]]


def test_a_checkpoint_of_another_model_is_reported_in_a_sentence(
    tiny_lm: Path, tales_csv: Path, first_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint,) = (first_run / "checkpoints").glob("[!l]*.ckpt")
    shape = "--model.architecture={intermediate_size: 48}"

    assert fit(tiny_lm, tales_csv, FOUR_STEPS, "--trainer.max_epochs=2", shape, f"--ckpt_path={checkpoint}") == 2
    error = capsys.readouterr().err
    assert "error: --ckpt_path: the checkpoint's weights are not those of this model (size mismatch for model." in error


@pytest.mark.usefixtures("first_run")
def test_metrics_of_a_repeated_run_are_the_same_byte_for_byte(tiny_lm: Path, tales_csv: Path) -> None:
    assert fit(tiny_lm, tales_csv, FOUR_STEPS) == 0

    files = [Path(f"runs/lm/version_{i}/metrics.csv").read_bytes() for i in range(2)]
    assert b"train/loss" in files[0]
    assert files[0] == files[1]


@pytest.mark.slow
def test_two_processes_train_as_one_and_leave_one_report(tiny_lm: Path, tales_csv: Path, working_folder: Path) -> None:
    few = ["--data.batch_size=2", "--trainer.limit_train_batches=4", "--threads=1"]
    assert fit(tiny_lm, tales_csv, *few, "--data.batch_size=4") == 0
    both = command(tiny_lm, tales_csv, *few, "--trainer.devices=2", "--trainer.strategy=ddp")
    done = subprocess.run(
        [sys.executable, "-m", "recipes", *both],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    alone, shared = (json.loads(Path(f"runs/lm/version_{i}/report.json").read_text(encoding="utf-8")) for i in range(2))
    assert shared["steps"] == alone["steps"] == 4
    assert shared["tokens"] == alone["tokens"]
    assert shared["before"] == pytest.approx(alone["before"], rel=1e-5)
    assert len(shared["samples"]) == 2
