"""The output of a finished run: the best checkpoint's ``model/``, ``report.json``, ``report.png``, a table.

``report.json`` holds

=================== ==================================================================================
recipe              Name of the configuration, which is also that of the run's group of folders.
optimizer           Import path of the optimizer's class.
implementation      For the optimizers of this project: how each parameter's step was taken, and why not faster, as
                    counted by :func:`lightning_adafactor.implementation.summarize`. Empty for other optimizers.
optimizer_state     Size of the optimizer's state after the last step, on this process: ``elements``,
                    ``bytes``, ``megabytes`` (MiB).
total_state         Size of the state of all processes, replicas once: that of one process with the whole model.
adamw_state         Size of the state of ``torch.optim.AdamW`` for the same trainable parameters, on this process:
                    two moments in each parameter's dtype and shape, and a step.
total_adamw_state   The same of all processes, replicas once.
parameters          Number of parameters of the model, including frozen ones.
parameter_memory    Size of the parameters: ``elements``, ``bytes``, ``megabytes``.
gradient_memory     Size of the gradients at the first step, likewise; with gradient release the peak.
metrics             ``val/...`` at the best checkpoint, ``test/...`` of it: ``loss`` (mean), and
                    further metrics of the recipe.
monitor             ``name`` of the metric that chose the best checkpoint, and ``mode``, ``min`` or ``max``.
steps               Optimizer steps.
seconds_per_step    Median over the entries of ``history.losses``; null without one.
seconds             ``setup`` (from the creation of the model to the first training step: data, tokenizer,
                    weights, evaluations before it), ``train`` (including validation), ``test``; wall clock.
samples_per_second  Training examples of all processes per second, without validations and checkpoints after them.
peak_memory_mb      Peak memory in MiB: on CUDA that of the tensors, else the process's resident memory.
versions            Of Python and the main libraries; null for one that is not installed as a package.
device              Name of the accelerator, or of the CPU and the threads used.
seed                ``seed_everything``, null without.
git_commit          Commit of the repository of the recipes, null if unknown.
fingerprint         sha256 of the best ``weights`` (those in ``model/``), of the ``initial_weights`` before the
                    first step, and of ``metrics.csv`` (``metrics``); see :mod:`recipes.runs.fingerprint`.
data                Summary of the data: labels and rows per split, dropped rows, duplicates, truncated and unknown
                    tokens, fraction of padding; see ``RecipeData.summary``.
history             ``losses``: [step, mean training loss since the previous entry, seconds of training so far],
                    of the first process; ``evaluations``: [step, validation metrics].
provenance          See :mod:`recipes.runs.provenance`.
=================== ==================================================================================

A recipe adds its own keys before ``history``, with ``report_details()``.
"""

import importlib
import json
import math
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_adafactor import Adafactor
from lightning_adafactor.implementation import summarize
from lightning_adafactor.memory import StateSize, adamw_state, measure_state
from recipes.runs.history import VALIDATION_LOSS, RunHistory, held_by
from recipes.runs.peak_memory import peak_memory_mb
from recipes.runs.provenance import cpu_name, git_commit, packages
from recipes.sharding.processes import data_parallel

PACKAGES = ("python", "torch", "lightning", "transformers", "datasets", "torchmetrics", "lightning-adafactor")


def as_json(report: dict[str, Any]) -> str:
    """A report as indented JSON, with each list of plain values on one line; null for what is NaN or infinite."""
    text = json.dumps(_finite(report), indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\n\s+([^\[\]{}\"]*?)\n\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _finite(value: Any) -> Any:
    """A value that strict JSON can represent."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def best_evaluation(history: RunHistory, trainer: Trainer) -> dict[str, float]:
    """The validation metrics at the best checkpoint, or at the last validation if no metric is monitored."""
    if not history.evaluations:
        return {}
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.monitor and checkpoint.best_model_score is not None:
        score = checkpoint.best_model_score.item()
        best = [metrics for _, metrics in history.evaluations if metrics.get(checkpoint.monitor) == score]
        if best:  # of equally good ones, BestCheckpoint keeps that of the lowest loss, others the first
            kept = getattr(checkpoint, "loss_of_best", math.nan)
            return next((metrics for metrics in best if metrics.get(VALIDATION_LOSS) == kept), best[0])
    return history.evaluations[-1][1]


def about_training(trainer: Trainer, module: LightningModule, history: RunHistory) -> dict[str, Any]:
    """The part of a report about the training: sizes, steps, seconds, versions.

    Args:
        trainer: The trainer, before it tests, which removes its optimizers.
        module: The module that was trained.
        history: Its recorded history.
    """
    state, total_state = history.state, history.total_state
    if state is None or total_state is None:  # the checkpoint was that of a finished run
        state, total_state = held_by(trainer.strategy.optimizers)
    samples = history.samples * data_parallel(trainer)[0]
    installed = {"python": platform.python_version(), **packages()}
    checkpoint = trainer.checkpoint_callback
    monitor: dict[str, str | None] = {"name": None, "mode": None}
    if isinstance(checkpoint, ModelCheckpoint):
        monitor = {"name": checkpoint.monitor, "mode": checkpoint.mode}
    return {
        "optimizer": ", ".join(import_path(type(optimizer)) for optimizer in trainer.strategy.optimizers),
        "implementation": summarize(
            choice
            for optimizer in trainer.strategy.optimizers
            if isinstance(optimizer, Adafactor)
            for choice in optimizer.implementation().values()
        ),
        "optimizer_state": _as_dict(state),
        "total_state": _as_dict(total_state),
        "adamw_state": _as_dict(adamw_state(module.parameters())),
        "total_adamw_state": _as_dict(adamw_state(module.parameters(), total=True)),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "parameter_memory": _as_dict(measure_state([list(module.parameters())])),
        "gradient_memory": _as_dict(history.gradients),
        "metrics": {},
        "monitor": monitor,
        "steps": trainer.global_step,
        "seconds_per_step": history.seconds_per_step,
        "seconds": {},
        "samples_per_second": round(samples / history.training_seconds, 3) if history.training_seconds else 0.0,
        "peak_memory_mb": round(peak_memory_mb(trainer.strategy.root_device), 1),
        "versions": {name: installed.get(name) for name in PACKAGES},
        "device": device_name(trainer.strategy.root_device),
        "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
        "git_commit": git_commit(),
    }


def _as_dict(size: StateSize) -> dict[str, int | float]:
    return {"elements": size.elements, "bytes": size.bytes, "megabytes": size.megabytes}


def import_path(cls: type) -> str:
    """The shortest path that a class can be imported from, as a YAML names it (``torch.optim.AdamW``)."""
    parts = cls.__module__.split(".")
    for end in range(1, len(parts) + 1):
        package = ".".join(parts[:end])
        if getattr(importlib.import_module(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the CPU's with the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"


def print_table(report: dict[str, Any], folder: Path) -> None:
    """Prints the report as a table, and where its files are."""
    from rich.console import Console
    from rich.table import Table

    parts = ["optimizer_state", "adamw_state"]
    if report["total_state"] != report["optimizer_state"]:  # the model is sharded
        parts += ["total_state", "total_adamw_state"]
    table = Table(title=f"{report['recipe']}: {report['optimizer']}, {report['steps']} steps", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in report["metrics"].items():
        table.add_row(name, f"{value:.4f}")
    table.add_section()
    for part in parts:
        label = "AdamW would hold" if "adamw" in part else "optimizer state"
        size = f"{report[part]['megabytes']:,.2f} MB, {report[part]['elements']:,} elements"
        table.add_row(f"{label}, all processes" if "total" in part else label, size)
    table.add_row("parameters", f"{report['parameters']:,}")
    table.add_row("peak memory", f"{report['peak_memory_mb']:,.0f} MB")
    table.add_section()
    seconds = report["seconds"]
    table.add_row("seconds", ", ".join(f"{phase} {value:.0f}" for phase, value in seconds.items()))
    table.add_row("training examples per second", f"{report['samples_per_second']:.1f}")
    console = Console()
    console.print(table)
    console.print(f"Model, report.json and report.png are in {folder}", soft_wrap=True, highlight=False, markup=False)
