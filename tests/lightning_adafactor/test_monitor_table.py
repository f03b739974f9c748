"""The table that the monitor prints at the end of a fit."""

import pytest
import torch
from torch import nn

from lightning_adafactor import monitor as monitor_module
from lightning_adafactor.monitor import OptimizerStateMonitor
from tests.lightning_adafactor.monitored import ADAMW, Adversaries, Classifier, Fit


def table_in(printed: str) -> list[list[str]]:
    """The rows of a printed table, split into cells."""
    rows = [line.strip("│").split("│") for line in printed.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row] for row in rows]


def test_table_at_the_end_compares_with_adamw(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    module = Classifier(lambda parameters: torch.optim.SGD(parameters, momentum=0.9))
    module.layer = nn.Linear(4, 500_000)
    fit(module, OptimizerStateMonitor())

    printed = capsys.readouterr().out
    assert "Optimizer state after 4 steps" in printed
    assert "val/accuracy 0.75  val/f1 0.5" in printed
    assert table_in(printed) == [
        ["SGD", "2,500,000", "9.54", "50.00%"],
        ["AdamW would hold", "5,000,002", "19.07", "100.00%"],
    ]


def test_table_lists_several_optimizers_and_their_sum(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Adversaries(), OptimizerStateMonitor())

    assert [(row[0], row[1]) for row in table_in(capsys.readouterr().out)] == [
        ("AdamW", "32"),
        ("SGD", "25"),
        ("together", "57"),
        ("AdamW would hold", "84"),
    ]


def test_table_is_printed_after_manual_steps_that_lightning_does_not_count(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Adversaries()
    monkeypatch.setattr(module, "optimizers", lambda: module.trainer.strategy.optimizers)  # not in Lightning's wrapper
    fit(module, OptimizerStateMonitor())

    printed = capsys.readouterr().out
    assert "Optimizer state after the training" in printed
    assert table_in(printed)[0][:2] == ["AdamW", "32"]


def test_table_is_plain_text_without_rich(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_RICH_AVAILABLE", False)
    fit(Classifier(), OptimizerStateMonitor())

    assert capsys.readouterr().out.splitlines()[-5:] == [
        "Optimizer state after 4 steps",
        "optimizer         elements    MB  of AdamW's MB",
        "AdamW                   32  0.00        100.00%",
        "AdamW would hold        32  0.00        100.00%",
        "val/accuracy 0.75  val/f1 0.5",
    ]


def test_table_can_be_turned_off(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = OptimizerStateMonitor(print_table=False)
    fit(Classifier(), monitor)

    assert monitor.state == ADAMW
    assert "Optimizer state" not in capsys.readouterr().out
