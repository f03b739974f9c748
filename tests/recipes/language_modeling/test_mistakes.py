"""Models and settings that a language model cannot be trained with are refused, each in a sentence."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from recipes import LanguageModel
from recipes.messages import RecipeError
from tests.recipes.language_modeling.trainings import GPT2, fitted


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
