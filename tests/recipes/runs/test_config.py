"""The config.yaml of a run works on another machine too."""

from pathlib import Path

import pytest
import yaml

from recipes import resolvers
from recipes.cli.main import main


def test_a_path_within_a_wheel_is_recorded_as_its_reference(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolvers, "_LOCATED", {})
    text = Path("tiny.yaml").read_text(encoding="utf-8")
    Path("tiny.yaml").write_text(f"{text}ckpt_path: null\n", encoding="utf-8")
    reference = "${wheel:pytest,pytest/__init__.py}"

    assert main(["fit", "--config", "tiny.yaml", "--checkpoint.filename", reference, "--trainer.max_steps", "0"]) == 0

    recorded = yaml.safe_load(Path("runs/tiny/version_0/config.yaml").read_text(encoding="utf-8"))
    assert recorded["checkpoint"]["filename"] == reference


def test_the_threads_that_were_used_are_recorded(tiny_recipe: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert main(["fit", "--config", "tiny.yaml", "--threads", "1", "--trainer.max_steps", "1"]) == 0
        assert torch.get_num_threads() == 1
        assert main(["fit", "--config", "tiny.yaml", "--trainer.max_steps", "1"]) == 0
    finally:
        torch.set_num_threads(before)

    for version in (0, 1):
        recorded = Path(f"runs/tiny/version_{version}/config.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(recorded)["threads"] == 1


def test_threads_below_one_are_an_error_in_one_sentence(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "tiny.yaml", "--threads", "0"]) == 2

    assert "threads is 0: expected a whole number above 0 or null" in capsys.readouterr().err
