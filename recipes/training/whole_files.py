"""Files that are written atomically, each with its sha256 in a file beside it."""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from recipes.checksums import file_sha256


class _Summed:
    """A file that computes the sha256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def sum_of(path: Path) -> Path:
    """The file with the sha256 of a file: ``last.ckpt.sha256``, as ``sha256sum --check`` reads it."""
    return path.with_name(f"{path.name}.sha256")


def write(content: Any, path: Path) -> None:
    """Writes with :func:`torch.save` under a temporary name beside the target, syncs it and renames it.

    The process may be killed at any moment: the file is then the old one or the new one. Until it is renamed, its
    checksum file holds both sums, so that each of them is valid.

    Args:
        content: What :func:`torch.save` takes.
        path: The file. Its folder is created if it does not exist.

    Raises:
        OSError: It cannot be written. The old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            summed = _Summed(file)
            torch.save(content, summed)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        new = summed.digest.hexdigest()
        old = _sums(path) if path.is_file() else []
        if path.is_file() and not old:
            old = [file_sha256(path)]
        _write_sums([new, *old], path)
        os.replace(part, path)
        _write_sums([new], path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_whole(path: Path) -> bool:
    """Whether a file has the sha256 in its checksum file; true where there is none."""
    sums = _sums(path)
    return not sums or file_sha256(path) in sums


def _sums(path: Path) -> list[str]:
    file = sum_of(path)
    if not file.is_file():
        return []
    return [line.split()[0] for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _write_sums(sums: list[str], path: Path) -> None:
    part = path.with_name(f".{path.name}.sha256.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(f"{value}  {path.name}\n" for value in sums)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, sum_of(path))
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # a rename is on the disk once its folder is
    finally:
        os.close(folder)
