"""The compare command as tests call it, on ``some.yaml`` in the working folder, and what it leaves."""

import json
from pathlib import Path
from typing import Any

import yaml

from recipes.cli.main import main
from tests.recipes import fake_fit

ROOT = Path(__file__).resolve().parents[3]
FAKE = str(Path(fake_fit.__file__))


def recipe(**data: Any) -> None:
    Path("some.yaml").write_text(yaml.safe_dump({"data": data}), encoding="utf-8")


def compare(*args: str, timing_rounds: int = 0, widen: int | None = None) -> int:
    more = ["--timing-rounds", str(timing_rounds), *([] if widen is None else ["--widen", str(widen)])]
    return main(["compare", "--config", "some.yaml", "--optimizers", *args, *more])


def calls() -> list[str]:
    """The runs so far, in order, as ``optimizer rate seed``; clears the list."""
    file = Path("calls.txt")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def comparison(out: str = "runs/compare-some") -> dict[str, Any]:
    return json.loads(Path(out, "comparison.json").read_text(encoding="utf-8"))


def row(name: str) -> dict[str, Any]:
    return next(row for row in comparison()["optimizers"] if row["name"] == name)
