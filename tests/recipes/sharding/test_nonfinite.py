"""A NaN on one process of several that share a model ends all of them, and no file has it."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import Run, Strategy, train

MESHES = pytest.mark.parametrize("strategy", [runs.FSDP2, runs.TENSOR_PARALLEL], ids=lambda each: each.file)


def train_with_nan(folder: Path, config: Path, strategy: Strategy, kind: str, *options: str) -> Run:
    """A training in which the second process has a NaN in its third step."""
    arguments = {"rank": 1, "step": 2, "kind": kind}
    callback = {"class_path": "tests.recipes.raising.NanOnRank", "init_args": arguments}
    (folder / "nan.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}), encoding="utf-8")
    return train(folder / kind, config, strategy, f"--config={folder / 'nan.yaml'}", *options)


def check_ended(run: Run, sentence: str) -> None:
    assert run.statuses == [1, 1], run.output[-3000:]
    said = [(run.folder / f"said.{rank}.txt").read_text(encoding="utf-8") for rank in range(2)]
    assert said[0] == said[1]
    assert sentence in said[0]
    assert run.output.count("error: ") == 1
    assert not list(run.folder.rglob("*.safetensors"))
    for file in run.folder.rglob("*.ckpt"):
        kept = torch.load(file, weights_only=True)
        assert kept["global_step"] == 2
        assert all(weight.isfinite().all() for weight in kept["state_dict"].values())


@pytest.mark.slow
@MESHES
def test_a_loss_of_nan_on_one_process_ends_all_with_one_sentence(
    strategy: Strategy, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    # The first process reads its own loss in the fourth step, and would name that one.
    run = train_with_nan(
        tmp_path,
        runs.language_model(tmp_path, tiny_lm, tales_csv),
        strategy,
        "loss",
        "--trainer.log_every_n_steps=100",
    )

    check_ended(run, "the training loss became NaN or infinite at step 3")
    assert "the last good checkpoint is" in run.output


@pytest.mark.slow
@MESHES
def test_a_gradient_of_nan_on_one_process_ends_all_with_one_sentence(
    strategy: Strategy, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)

    check_ended(
        train_with_nan(tmp_path, config, strategy, "gradient", "--trainer.max_steps=3"),
        "model.model.embed_tokens.weight became NaN or infinite by step 3",
    )


@pytest.mark.slow
@MESHES
def test_on_nonfinite_skips_the_step_of_all_processes_or_ends_them(
    strategy: Strategy, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    option = "--model.optimizer.init_args.on_nonfinite"

    unclipped = "--trainer.gradient_clip_val=null"  # else the norm carries the NaN to all gradients
    raised = train_with_nan(tmp_path, config, strategy, "gradient", f"{option}=raise", unclipped)
    check_ended(raised, "on process 1; the step changed nothing")
    (tmp_path / "gradient").rename(tmp_path / "raised")

    skipped = train_with_nan(tmp_path, config, strategy, "gradient", f"{option}=skip")
    assert skipped.statuses == [0, 0], skipped.output[-3000:]
    assert all(weight.isfinite().all() for weight in skipped.weights.values())
