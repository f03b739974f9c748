"""What two runs are compared by: a sha256 of a model's weights, and one of a run's metrics."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

METRICS = "metrics.csv"


@torch.no_grad()  # without it DTensor.to_local() would record a graph
def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """The sha256 of names, dtypes, shapes and bytes of all tensors, in the order of their names.

    It does not depend on the device or on how a folder divides weights into files. Of a DTensor, the part that this
    process holds counts.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        tensor = (value.to_local() if hasattr(value, "to_local") else value).detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as ``sha256sum`` prints it; of a folder, that of its files' names and sums."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def metrics_sha256(run: Path) -> str | None:
    """The sha256 of a run's ``metrics.csv``; None for a run that has logged nothing."""
    file = run / METRICS
    return file_sha256(file) if file.is_file() else None
