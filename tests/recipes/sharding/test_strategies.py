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
    for name in ("steps", "parameters", "samples"):
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


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [runs.DDP, runs.TENSOR_PARALLEL, runs.FSDP2_TP], ids=lambda each: each.file)
def test_other_strategies_train_as_one_process_does(
    strategy: Strategy, tiny_lm: Path, wires_csv: Path, tales_csv: Path, tmp_path: Path
) -> None:
    # A classifier that is a Llama: BERT has no plan for tensor parallelism.
    for config in (
        runs.classifier(tmp_path, tiny_lm, wires_csv),
        runs.language_model(tmp_path, tiny_lm, tales_csv),
    ):
        one = train(tmp_path / f"{config.stem}-1", config, ONE)

        check_same(one, train(tmp_path / f"{config.stem}-2", config, strategy))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [runs.DDP, *WITH_MESH], ids=lambda each: each.file)
def test_a_run_goes_on_from_one_process_to_many_and_back(
    strategy: Strategy, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    accumulating = ["--trainer.accumulate_grad_batches=2", "--model.gradient_checkpointing=true"]
    whole = train(tmp_path / "whole", config, ONE, *accumulating, "--trainer.max_steps=4")

    for steps, who in enumerate((ONE, strategy, strategy, ONE), start=1):
        resumed = ["--ckpt_path=last"] if steps > 1 else []
        part = train(tmp_path / "parts", config, who, *accumulating, f"--trainer.max_steps={steps}", *resumed)
        assert not any(part.statuses), part.output[-3000:]

    check_same(whole, part, initial=False)


@pytest.mark.slow
def test_a_model_that_cannot_be_divided_ends_all_processes_with_one_sentence(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    run = train(tmp_path / "run", runs.classifier(tmp_path, tiny_model, wires_csv), runs.TENSOR_PARALLEL)

    assert 2 in run.statuses
    assert 0 not in run.statuses
    assert "transformers has no plan to divide BertForSequenceClassification" in run.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (["--model.gather_dtype=bfloat16", "--model.reduce_dtype=bfloat16"], torch.float32),
        (["--model.dtype=bfloat16"], torch.bfloat16),
    ],
)
def test_fsdp2_gathers_and_reduces_in_bfloat16(
    options: list[str], dtype: torch.dtype, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)

    one = train(tmp_path / "1", config, ONE)
    two = train(tmp_path / "2", config, runs.FSDP2, *options)

    assert not any(two.statuses), two.output[-3000:]
    torch.testing.assert_close(two.losses, one.losses, rtol=0.02, atol=0.0)
    assert {weight.dtype for weight in two.weights.values()} == {dtype}
