"""Whatever is typed, in YAML or on the command line, ends with 0, 1 or 2 and without a traceback."""

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.cli.main import main

TRAINER = """
accelerator strategy devices num_nodes precision logger callbacks fast_dev_run max_epochs min_epochs max_steps min_steps
max_time limit_train_batches limit_val_batches limit_test_batches overfit_batches val_check_interval
check_val_every_n_epoch num_sanity_val_steps log_every_n_steps enable_checkpointing enable_progress_bar
accumulate_grad_batches gradient_clip_val gradient_clip_algorithm deterministic benchmark inference_mode
use_distributed_sampler profiler detect_anomaly barebones plugins sync_batchnorm reload_dataloaders_every_n_epochs
default_root_dir
"""
CHECKPOINT = ("monitor", "mode", "save_top_k", "every_n_epochs", "every_n_train_steps", "filename")
KEYS = [("trainer", name) for name in TRAINER.split()]
KEYS += [("model", "init_args", name) for name in ("width", "rate", "optimizer", "nan_at", "bug_at")]
KEYS += [("model", "init_args", "optimizer", name) for name in ("class_path", "init_args")]
KEYS += [("model", "init_args", "optimizer", "init_args", n) for n in ("lr", "momentum", "weight_decay", "foreach")]
KEYS += [("data", "init_args", name) for name in ("width", "size", "batch_size", "missing")]
KEYS += [("checkpoint", name) for name in CHECKPOINT]
KEYS += [("model",), ("data",), ("trainer",), ("checkpoint",), ("model", "class_path"), ("data", "init_args")]
KEYS += [("seed_everything",), ("ckpt_path",), ("weights_only",), ("threads",)]

HUGE = st.sampled_from([10**30, -(10**30), 1e308, float("inf"), float("nan"), "x" * 5000, [0] * 200])
WORDS = st.sampled_from(
    [
        "",
        " ",
        "null",
        "true",
        "auto",
        "cpu",
        "no",
        "${nope}",
        "${",
        "é☃\u202e",
        "a.b",
        "torch.optim.AdamW",
        "./x",
        "-1",
        "~",
    ]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.text(max_size=6), WORDS, HUGE)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["class_path", "init_args", "x", ""]), inner, max_size=2),
    ),
    max_leaves=4,
)
# Values that would take the machine or the time of the test: processes, devices, an epoch that does not end.
COSTLY = {"strategy", "devices", "num_nodes", "max_epochs", "max_steps", "threads", "size", "width", "default_root_dir"}


@pytest.fixture
def _in_its_folder(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder with ``tiny.yaml``, as small as it can be."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    text = Path("tiny.yaml").read_text(encoding="utf-8")
    Path("tiny.yaml").write_text(text.replace("max_epochs: 3", "max_epochs: 1\n  max_steps: 1"), encoding="utf-8")
    yield
    os.chdir(tiny_recipe)


def ending(words: list[str]) -> tuple[int, str]:
    """The exit status of a command, and what it prints on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    return status, said.getvalue()


def must_end_well(words: list[str]) -> None:
    status, said = ending(words)
    assert status in (0, 1, 2), (words, status, said[-3000:])
    assert "Traceback" not in said, (words, said[-3000:])
    assert (status == 0) == ("error: " not in said), (words, status, said[-3000:])


def with_value(key: tuple[str, ...], value: Any) -> str:
    nested = value
    for part in reversed(key):
        nested = {part: nested}
    return yaml.safe_dump(nested, allow_unicode=True)


def is_cheap(key: tuple[str, ...], value: Any) -> bool:
    return key[-1] not in COSTLY or not isinstance(value, int | float) or isinstance(value, bool) or abs(value) < 3


TYPED = st.tuples(st.sampled_from(KEYS), VALUES).filter(lambda typed: is_cheap(*typed))


def check_yaml(typed: tuple[tuple[str, ...], Any]) -> None:
    Path("fuzzed.yaml").write_text(with_value(*typed), encoding="utf-8")
    must_end_well(["fit", "--config", "tiny.yaml", "--config", "fuzzed.yaml"])


def check_words(command: str, options: list[tuple[tuple[str, ...], Any]], cut: bool) -> None:
    words = [command, "--config", "tiny.yaml"]
    for key, value in options:
        plain = value if isinstance(value, str) else json.dumps(value)
        words += [f"--{'.'.join(part for part in key if part != 'init_args')}", plain]
    must_end_well(words[:-1] if cut else words)


IN_THIS_PROCESS = st.sampled_from(["fit", "validate", "test", "predict", "estimate", "x", ""])
COMMANDS = st.sampled_from(
    ["fit", "validate", "test", "predict", "estimate", "compare", "reproduce", "generate", "x", ""]
)
OPTIONS = st.lists(TYPED, min_size=1, max_size=3)
SLOW = settings(max_examples=60, suppress_health_check=list(HealthCheck))
SHORT = settings(max_examples=5, suppress_health_check=list(HealthCheck))


@pytest.mark.usefixtures("_in_its_folder")
@SHORT
@given(TYPED)
def test_any_value_in_yaml_ends_well(typed: tuple[tuple[str, ...], Any]) -> None:
    check_yaml(typed)


@pytest.mark.usefixtures("_in_its_folder")
@SHORT
@given(IN_THIS_PROCESS, OPTIONS, st.booleans())
def test_any_command_line_of_known_keys_ends_well(
    command: str, options: list[tuple[tuple[str, ...], Any]], cut: bool
) -> None:
    check_words(command, options, cut)


@pytest.mark.slow
@pytest.mark.usefixtures("_in_its_folder")
@SLOW
@given(TYPED)
def test_many_values_in_yaml_end_well(typed: tuple[tuple[str, ...], Any]) -> None:
    check_yaml(typed)


@pytest.mark.slow
@pytest.mark.usefixtures("_in_its_folder")
@SLOW
@given(COMMANDS, OPTIONS, st.booleans())
def test_many_command_lines_end_well(command: str, options: list[tuple[tuple[str, ...], Any]], cut: bool) -> None:
    check_words(command, options, cut)
