"""The loss in chunks of tokens, of a model whose head several processes share."""

from pathlib import Path

import pytest

from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import Strategy, train
from tests.recipes.sharding.test_strategies import check_same

SIZES = "vocab_size: 300, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own head", "head of the file, tied in the configuration", "tied"])
def test_fsdp2_trains_with_it_as_one_process_does_with_all_logits(
    kind: str, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    options = {
        "own head": [],
        "head of the file, tied in the configuration": ["--model.architecture={tie_word_embeddings: true}"],
        "tied": [
            "--model.pretrained=null",
            f"--data.tokenizer={tiny_lm}",
            f"--model.architecture={{model_type: llama, {SIZES}, tie_word_embeddings: true}}",
        ],
    }[kind]
    options.append("--trainer.gradient_clip_val=null")

    one = train(tmp_path / "1", config, runs.ONE, *options, "--model.loss=full")
    released = ["--model.gradient_release=true", "--model.gradient_checkpointing=true"] if kind == "tied" else []
    two = train(tmp_path / "2", config, runs.FSDP2, *options, "--model.loss=chunked", *released)

    check_same(one, two)
    assert ("lm_head.weight" in two.weights) == (kind != "tied")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [runs.TENSOR_PARALLEL, runs.FSDP2_TP], ids=lambda each: each.file)
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
def test_processes_that_divide_the_head_train_with_it_as_one_process_does(
    strategy: Strategy, tied: bool, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    sizes = f"--model.architecture={{model_type: llama, {SIZES}, tie_word_embeddings: true}}"
    options = ["--model.pretrained=null", f"--data.tokenizer={tiny_lm}", sizes] if tied else []

    one = train(tmp_path / "1", config, runs.ONE, *options, "--model.loss=full")

    check_same(one, train(tmp_path / "2", config, strategy, *options, "--model.loss=chunked"))
