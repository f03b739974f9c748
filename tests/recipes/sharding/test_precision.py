"""bfloat16 autocast in several processes that share a model."""

from pathlib import Path

import pytest
import torch
import yaml

from recipes.training.precision import other_precision
from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import Strategy, train

MESHES = [runs.FSDP2, runs.TENSOR_PARALLEL, runs.FSDP2_TP]


@pytest.mark.slow
def test_bf16_mixed_trains_as_in_one_process_with_float32_parameters(
    tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    # The plugin itself: trainer.precision would be 32-true on a CPU without AVX-512.
    autocast = {"class_path": "lightning.pytorch.plugins.MixedPrecision"}
    autocast["init_args"] = {"precision": "bf16-mixed", "device": "cpu"}  # type: ignore[assignment]
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(yaml.safe_dump({"trainer": {"precision": None, "plugins": [autocast]}}), encoding="utf-8")
    float32 = train(tmp_path / "float32", config, runs.ONE)
    one = train(tmp_path / "one", config, runs.ONE, f"--config={mixed}")

    for number, strategy in enumerate(MESHES):
        run = train(tmp_path / str(number), config, strategy, f"--config={mixed}")

        assert not any(run.statuses), run.output[-3000:]
        torch.testing.assert_close(run.losses, one.losses, rtol=1e-3, atol=0.0)
        assert abs(run.losses[0] - float32.losses[0]) > 1e-5
        assert {weight.dtype for weight in run.weights.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", MESHES, ids=lambda each: each.file)
def test_a_cpu_that_is_slow_in_bfloat16_trains_in_float32_and_says_so_once(
    strategy: Strategy, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)

    run = train(tmp_path / "run", config, strategy, "--trainer.precision=bf16-mixed")

    assert not any(run.statuses), run.output[-3000:]
    is_slow = other_precision({"precision": "bf16-mixed", "accelerator": "cpu"}) is not None
    assert run.output.count("note: trainer.precision is 32-true instead of bf16-mixed") == int(is_slow)
