"""The picture of a comparison: something of every optimizer, and no label over another."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from recipes.cli.optimizer_files import shipped
from recipes.compare.command import plan_of
from recipes.compare.plot import draw
from recipes.compare.results import comparison
from recipes.compare.runs import Outcome
from tests.recipes.fake_fit import a_report


def drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], **changes: Any
) -> tuple[Figure, Axes, Axes]:
    """The figure of optimizers that all have nearly the same quality, hardest to label, and its two halves."""
    (tmp_path / "some.yaml").write_text("data: {}\n", encoding="utf-8")
    plan = plan_of(
        ["--config", str(tmp_path / "some.yaml"), "--optimizers", *names, "--seeds", "1", "2", "--out", "out"]
    )
    outcomes = [
        Outcome(trial, a_report(choice.name, 1e-4, trial.seed, **changes), folder=trial.folder)
        for choice in plan.choices
        for trial in [*plan.first_trials(choice), *plan.further_trials(choice, choice.rate)]
    ]
    result = comparison(plan, outcomes, {choice.name: choice.rate for choice in plan.choices}, "")
    figures: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", saved)
    draw(result, outcomes, tmp_path / "comparison.png")
    memory, loss = figures[0].axes
    return figures[0], memory, loss


def test_labels_cover_neither_each_other_nor_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, memory, _ = drawn(tmp_path, monkeypatch, shipped())
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    labels = [child for child in memory.get_children() if isinstance(child, Annotation)]
    boxes = [Text.get_window_extent(label, renderer) for label in labels]

    assert {label.get_text().splitlines()[0] for label in labels} == set(shipped())
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    frame = memory.get_window_extent(renderer)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_each_run_has_a_curve_and_each_optimizer_one_entry_and_one_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, memory, loss = drawn(tmp_path, monkeypatch, ["adafactor", "adamw"])

    assert len(loss.lines) == 4
    legend = loss.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["adafactor, lr 0.0003", "adamw, lr 0.0001"]
    colors = {child.get_color() for child in memory.get_children() if isinstance(child, Annotation)}
    assert colors == {line.get_color() for line in loss.lines}


def test_megabytes_are_on_a_logarithmic_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, memory, _ = drawn(tmp_path, monkeypatch, ["adafactor", "adamw"], task="lm")
    assert memory.get_xscale() == "log"
    assert memory.get_ylabel() == "test/perplexity (lower is better)"


def test_reports_without_curves_or_state_leave_a_picture_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(tmp_path, monkeypatch, ["adamw"], history={}, optimizer_state=None)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
