"""The fingerprints of a run, to compare it with others: the sha256 of its weights and of its metrics."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from recipes.checksums import file_sha256

METRICS = "metrics.csv"


@torch.no_grad()  # without it DTensor.to_local() would record a graph
def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """The sha256 over names, dtypes, shapes and bytes of all tensors, in the order of their names.

    It does not depend on the device, or on how the weights are divided into files. Of a DTensor, it covers the local
    shard.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        tensor = (value.to_local() if hasattr(value, "to_local") else value).detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def metrics_sha256(run: Path) -> str | None:
    """The sha256 of a run's ``metrics.csv``; None for a run without one."""
    file = run / METRICS
    return file_sha256(file) if file.is_file() else None
