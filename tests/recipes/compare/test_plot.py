"""The picture of a comparison: every optimizer in each part, and a legend that names it once."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from recipes.cli.optimizer_files import shipped
from recipes.compare.command import plan_of
from recipes.compare.plot import draw
from recipes.compare.results import comparison
from recipes.compare.runs import Outcome
from tests.recipes.fake_fit import a_report


def drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], **changes: Any
) -> tuple[Figure, dict[str, Axes]]:
    """The figure of a comparison of some optimizers with two seeds, and its parts."""
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
    return figures[0], dict(zip(("state", "peak", "quality", "loss"), figures[0].axes, strict=True))


@pytest.fixture(scope="module")
def of_all_shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Figure, dict[str, Axes]]:
    """The picture with the most optimizers that there can be."""
    with pytest.MonkeyPatch.context() as patch:
        return drawn(tmp_path_factory.mktemp("all"), patch, shipped())


def test_legend_has_an_entry_with_its_own_color_for_each_optimizer(
    of_all_shipped: tuple[Figure, dict[str, Axes]],
) -> None:
    figure, _ = of_all_shipped

    (legend,) = figure.legends
    assert [text.get_text().split(",")[0] for text in legend.get_texts()] == shipped()
    assert len({line.get_color() for line in legend.get_lines()}) == len(shipped())


def test_legend_is_outside_of_all_parts(of_all_shipped: tuple[Figure, dict[str, Axes]]) -> None:
    figure, parts = of_all_shipped

    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = figure.legends[0].get_window_extent(renderer)
    assert not any(frame.overlaps(axes.get_tightbbox(renderer)) for axes in parts.values())
    assert frame.x0 >= 0
    assert frame.x1 <= figure.bbox.x1


def test_each_run_has_a_curve_and_each_optimizer_a_point_of_the_legends_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure, parts = drawn(tmp_path, monkeypatch, ["adafactor", "adamw"])

    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "adafactor, lr 0.0003, 0.5 MB",
        "adamw, lr 0.0001, 512 MB",
    ]
    colors = [line.get_color() for line in legend.get_lines()]
    for name in ("loss", "quality"):
        assert [line.get_color() for line in parts[name].lines] == [color for color in colors for _ in range(2)]
    for name, places in {"state": (0.5, 512.0), "peak": (1002.0, 1002.0)}.items():
        points = [each.lines[0] for each in parts[name].containers if isinstance(each, ErrorbarContainer)]
        found = [(point.get_xdata()[0], point.get_color()) for point in points]
        assert found == list(zip(places, colors, strict=True))


def test_megabytes_are_on_a_logarithmic_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, parts = drawn(tmp_path, monkeypatch, ["adafactor", "adamw"], task="lm")
    assert parts["state"].get_xscale() == "log"
    assert parts["state"].get_ylabel() == "test/perplexity (lower is better, bars: all seeds)"


def test_reports_without_curves_or_state_leave_a_picture_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(tmp_path, monkeypatch, ["adamw"], history={}, optimizer_state=None)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
