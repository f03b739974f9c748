"""The peak memory of a run: of the tensors on a GPU, else of the whole process."""

import torch


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: on CUDA that of the tensors, else the resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
