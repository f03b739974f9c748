"""The picture of step sizes: its numbers, its file, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import step_sizes
from lightning_adafactor import Adafactor

PAGE = Path(__file__).parents[2] / "docs" / "learning-rates.md"


def step_of(t: int, rms: float, **options: object) -> float:
    """What step t of the optimizer itself changes a matrix of equal weights by, for a gradient of ones."""
    param = torch.full((4, 8), rms, dtype=torch.float64, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = Adafactor([param], **options)  # type: ignore[arg-type]
    optimizer.step()
    optimizer.state[param]["step"].fill_(t - 1)
    with torch.no_grad():
        param.fill_(rms)
    optimizer.step()
    return rms - param.mean().item()


@pytest.mark.parametrize("t", [1, 7, 1_000, 250_000])
@pytest.mark.parametrize("rms", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("name", step_sizes.rules())
def test_what_is_drawn_is_what_the_optimizer_does(name: str, rms: float, t: int) -> None:
    rule = step_sizes.rules()[name]
    options = {
        "lr": rule.lr,
        "scale_parameter": rule.scale_parameter,
        "relative_step": rule.relative_step,
        "warmup_init": rule.warmup_init,
    }

    assert step_of(t, rms, **options) == pytest.approx(rule.alpha(t, rms), rel=1e-6)


def test_curves_over_the_steps_are_constant_or_fall_as_the_inverse_root_from_step_ten_thousand() -> None:
    rules = step_sizes.rules()
    curves = {
        name: dict(zip(step_sizes.STEPS, step_sizes.over_steps(rule), strict=True)) for name, rule in rules.items()
    }

    assert set(curves["adafactor"].values()) == {3e-4}
    assert set(curves["adafactor_t5"].values()) == {1e-3 * 0.02}
    paper, warmed = curves["adafactor_paper"], curves[step_sizes.WARMED]
    assert paper[1] == paper[10_000] == pytest.approx(1e-2 * 0.02)
    assert paper[1_000_000] == warmed[1_000_000] == pytest.approx(1e-3 * 0.02)
    assert warmed[1] == pytest.approx(1e-6 * 0.02)
    assert max(warmed, key=lambda t: warmed[t]) == 10_000


def test_curves_over_sizes_are_constant_or_proportional_above_epsilon2() -> None:
    rules = step_sizes.rules()
    adafactor, t5 = (step_sizes.over_sizes(rules[name]) for name in ("adafactor", "adafactor_t5"))

    assert set(adafactor) == {3e-4}
    assert t5 == pytest.approx([1e-3 * max(1e-3, rms) for rms in step_sizes.SIZES])


def test_the_command_draws_a_png_and_prints_the_table_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "step-sizes.png"

    assert step_sizes.main(["--output", str(picture)]) == 0

    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert capsys.readouterr().out in PAGE.read_text(encoding="utf-8")


def test_it_reads_no_rule_from_the_file_of_another_optimizer() -> None:
    with pytest.raises(ValueError, match=r"has the optimizer torch\.optim\.AdamW"):
        step_sizes.read_rule(step_sizes.OPTIMIZERS / "adamw.yaml")


def test_sizes_of_a_model_are_printed_for_matrices_and_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "model.safetensors"
    tensors = {"a": torch.full((2, 3), 0.5), "b": torch.full((3, 3), -0.1), "c": torch.ones(4), "ids": torch.arange(5)}
    save_file(tensors, weights)

    assert step_sizes.main(["--weights", str(weights)]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "RMS of 2 matrices: 0.1 to 0.5, median 0.3",
        "RMS of 1 vectors: 1 to 1, median 1",
    ]
