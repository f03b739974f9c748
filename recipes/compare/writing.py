"""Writes ``comparison.json``, ``.md`` and ``.png``, each as a whole; keeps those of another command."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.compare.plot import draw
from recipes.compare.runs import Outcome
from recipes.compare.tables import markdown

STEM = "comparison"
SUFFIXES = (".json", ".md", ".png")


def write(result: Mapping[str, Any], outcomes: Sequence[Outcome], folder: Path) -> None:
    """Writes a comparison.

    Args:
        result: The result of :func:`recipes.compare.results.comparison`.
        outcomes: The runs, for their loss curves.
        folder: The folder to write to.
    """
    _keep_other(result, folder)
    _replace(folder / f"{STEM}.json", json.dumps(result, indent=2) + "\n")
    _replace(folder / f"{STEM}.md", markdown(dict(result)))
    draw(dict(result), outcomes, folder / f"{STEM}.png")


def _replace(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _keep_other(result: Mapping[str, Any], folder: Path) -> None:
    """Renames the comparison of another command: comparison_1.md and so on."""
    try:
        before = json.loads((folder / f"{STEM}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(before, dict) or before.get("command") == result["command"]:
        return
    number = 1
    while any((folder / f"{STEM}_{number}{suffix}").exists() for suffix in SUFFIXES):
        number += 1
    for suffix in SUFFIXES:
        file = folder / f"{STEM}{suffix}"
        if file.exists():
            file.rename(folder / f"{STEM}_{number}{suffix}")
    renamed = folder / f"{STEM}_{number}.md"
    if renamed.exists():  # its chart was renamed with it
        text = renamed.read_text(encoding="utf-8")
        renamed.write_text(text.replace(f"({STEM}.png)", f"({STEM}_{number}.png)"), encoding="utf-8")
