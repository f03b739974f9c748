"""Gradient release in several processes that share a model."""

from pathlib import Path

import pytest
import torch

from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import Strategy, train

MESHES = [runs.FSDP2, runs.TENSOR_PARALLEL, runs.FSDP2_TP]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", MESHES, ids=lambda each: each.file)
def test_released_gradients_train_to_the_same_bits(
    strategy: Strategy, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    common = ["--trainer.gradient_clip_val=null", "--model.gradient_checkpointing=true"]

    ordinary = train(tmp_path / "ordinary", config, strategy, *common)
    released = train(tmp_path / "released", config, strategy, *common, "--model.gradient_release=true")

    assert not any(released.statuses), released.output[-3000:]
    assert released.report["gradient_memory"]["elements"] < ordinary.report["gradient_memory"]["elements"]
    assert released.losses == ordinary.losses
    assert released.weights.keys() == ordinary.weights.keys()
    for name, weight in ordinary.weights.items():
        assert torch.equal(released.weights[name], weight), name
