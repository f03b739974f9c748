"""A training under each strategy computes what it computes in one process, and leaves the same files."""

from pathlib import Path

import pytest
import torch

from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import ONE, Run, Strategy, train

WITH_MESH = [runs.FSDP2, runs.TENSOR_PARALLEL, runs.FSDP2_TP]


def check_same(one: Run, other: Run, initial: bool = True) -> None:
    """Compares the results of a run with those of one process."""
    assert not any(other.statuses), other.output[-3000:]
    if initial:
        assert other.report["fingerprint"]["initial_weights"] == one.report["fingerprint"]["initial_weights"]
        torch.testing.assert_close(other.losses, one.losses, rtol=1e-4, atol=1e-5)
    for name in ("steps", "parameters", "samples", "data"):
        assert other.report.get(name) == one.report.get(name), name
    torch.testing.assert_close(other.report["metrics"], one.report["metrics"], rtol=1e-3, atol=1e-4)
    assert other.weights.keys() == one.weights.keys()
    for name, weight in one.weights.items():
        torch.testing.assert_close(other.weights[name], weight, rtol=1e-3, atol=1e-4, msg=name)
    for name in ("config.json", "generation_config.json"):
        files = [run.newest / "model" / name for run in (one, other)]
        assert files[0].is_file() == files[1].is_file(), name
        if files[0].is_file():
            assert files[0].read_text(encoding="utf-8") == files[1].read_text(encoding="utf-8"), name


def test_fsdp2_trains_both_recipes_as_one_process_does(
    tiny_model: Path, wires_csv: Path, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    for config in (
        runs.classifier(tmp_path, tiny_model, wires_csv),
        runs.language_model(tmp_path, tiny_lm, tales_csv),
    ):
        one = train(tmp_path / f"{config.stem}-1", config, ONE)
        two = train(tmp_path / f"{config.stem}-2", config, runs.FSDP2)

        check_same(one, two)
        assert two.report["optimizer_state"]["elements"] < one.report["optimizer_state"]["elements"]
        assert len(list((two.newest / "model").glob("*.safetensors"))) == 1
