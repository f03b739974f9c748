"""The end of ``fit``: tests the best checkpoint, and writes ``model/``, ``report.json`` and ``report.png``."""

import os
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from recipes.recipe import Recipe
from recipes.recipe_data import RecipeData
from recipes.runs.fingerprint import metrics_sha256, weights_sha256
from recipes.runs.folder import check_exists
from recipes.runs.plot import draw
from recipes.runs.provenance import provenance
from recipes.runs.report import about_training, as_json, best_evaluation, print_table
from recipes.sharding.weights import full_state_dict, is_sharded


def finish(
    trainer: Trainer, recipe: "Recipe[Any]", data: RecipeData, settings: dict[str, Any], recorded_config: str
) -> None:
    """Tests the best checkpoint and writes the results into the run's folder.

    All ranks call it, since all take part in the test; rank 0 writes.

    Args:
        trainer: The trainer after ``fit``.
        recipe: The module that it trained.
        data: Its data.
        settings: All settings of the run, with paths as they are on this machine.
        recorded_config: The same as ``config.yaml`` has them.
    """
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    history = recipe.history
    report = {"recipe": folder.parent.name, **about_training(trainer, recipe, history)}
    metrics = {**best_evaluation(history, trainer), **_evaluate_best(trainer, recipe, data)}
    if is_sharded(recipe):
        weights = full_state_dict(recipe)
    elif not trainer.is_global_zero:
        return
    else:
        weights = recipe.state_dict()
    if trainer.is_global_zero:
        check_exists(folder)
    recipe.save_pretrained(folder / "model")
    details = recipe.report_details()
    if not trainer.is_global_zero:
        return
    report["metrics"] = {name: value for name, value in metrics.items() if "/" in name}
    report["seconds"] = {phase: round(seconds, 3) for phase, seconds in history.seconds.items()}
    if trainer.logger is not None:
        trainer.logger.save()
    report["fingerprint"] = {
        "weights": weights_sha256(weights),
        "initial_weights": history.initial_weights,
        "metrics": metrics_sha256(folder),
    }
    report |= details
    report["data"] = data.summary()
    report["history"] = {"losses": history.losses, "evaluations": history.evaluations}
    report["provenance"] = provenance(settings, recorded_config, trainer.strategy.root_device, trainer.world_size)
    _write_whole(as_json(report), folder / "report.json")
    draw(report, history.losses, history.evaluations, folder / "report.png")
    print_table(report, folder)


def _write_whole(text: str, file: Path) -> None:
    """Writes under another name first: a report.json says that a run has finished."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _evaluate_best(trainer: Trainer, recipe: "Recipe[Any]", data: RecipeData) -> dict[str, float]:
    """Leaves the best checkpoint's weights in the module; returns its test metrics if there is a test."""
    checkpoint = trainer.checkpoint_callback
    best = (checkpoint.best_model_path or None) if isinstance(checkpoint, ModelCheckpoint) else None
    if best is None:
        rank_zero_info("No checkpoint was kept: the weights of the last step are tested and saved.")
    if data.has_test:
        results = trainer.test(recipe, datamodule=data, ckpt_path=best, verbose=False)
        return dict(results[0]) if results else {}  # none with trainer.limit_test_batches 0
    if best is not None and data.has_validation:
        trainer.validate(recipe, datamodule=data, ckpt_path=best, verbose=False)
    return {}
