"""Checkpoints written for tests, with and without a checksum."""

import os
from pathlib import Path
from typing import Any

import torch

from recipes.training.checkpoints import WholeFiles


def save(path: Path, age: int = 0, **content: Any) -> Path:
    """Writes a checkpoint that is ``age`` seconds old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, **content}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def written(path: Path, step: int = 1, **content: Any) -> Path:
    WholeFiles().save_checkpoint(
        {"state_dict": {"w": torch.full((64,), float(step))}, "global_step": step, **content}, path
    )
    return path
