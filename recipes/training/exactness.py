"""Random states and accumulated gradients: what else a resumed run needs to equal an uninterrupted one."""

import random
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recipes.sharding.weights import is_sharded, placed_like, whole_gradient
from recipes.training.lightning_internals import is_accumulating

KEY = "recipes.training.exactness"


class ExactResume(Callback):
    """Saves the random states of every rank in checkpoints and, within an accumulation, the gradients so far.

    All of it is tensors and plain values, which ``torch.load`` reads with ``weights_only``. A checkpoint without it
    is loaded too. A rank that the interrupted run did not have keeps its own random state.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called on all ranks; the first one writes."""
        states: list[Any] = [random_state(trainer.strategy.root_device)]
        if trainer.world_size > 1:
            mine, states = states[0], [None] * trainer.world_size
            torch.distributed.all_gather_object(states, mine)
        checkpoint[KEY] = {"random": states, "gradients": _unfinished_gradients(trainer, pl_module)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps them until the training starts, since the setup before it draws random numbers."""
        self._loaded = checkpoint.get(KEY)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores them."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        if trainer.global_rank < len(loaded["random"]):
            set_random_state(loaded["random"][trainer.global_rank], trainer.strategy.root_device)
        gradients = _of_this_process(loaded["gradients"], trainer)
        for name, parameter in pl_module.named_parameters():
            gradient = gradients.get(name)
            if gradient is not None:
                parameter.grad = placed_like(gradient, parameter)


def random_state(device: torch.device) -> dict[str, Any]:
    """The random states of Python, NumPy, torch and, if used, the CUDA device."""
    import numpy

    version, numbers, gauss = random.getstate()
    legacy: Any = numpy.random.get_state()
    name, keys, position, has_gauss, cached = legacy
    return {
        "python": [version, torch.tensor(numbers, dtype=torch.long), gauss],
        "numpy": [name, torch.tensor(keys.tolist(), dtype=torch.long), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what :func:`random_state` has returned."""
    import numpy

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


Gradients = dict[str, Tensor]


def _unfinished_gradients(trainer: Trainer, pl_module: LightningModule) -> list[Gradients]:
    """The gradients of an unfinished accumulation, by process, on the first one; else none.

    DDP averages them in the last batch of an accumulation only: until then each process has its own. FSDP2 averages
    in each backward pass: they are the same, whole ones, for all processes.
    """
    if not is_accumulating(trainer):
        return []
    own = {name: parameter.grad for name, parameter in pl_module.named_parameters() if parameter.grad is not None}
    if trainer.world_size == 1 or is_sharded(pl_module):
        return [{name: whole_gradient(gradient) for name, gradient in own.items()}]
    names: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(names, set(own))
    gathered: list[Gradients] = [{} for _ in names]
    for name, parameter in pl_module.named_parameters():
        if not any(name in present for present in names):
            continue
        mine = own.get(name, torch.zeros_like(parameter)).detach()
        parts = [torch.empty_like(mine) for _ in names] if trainer.is_global_zero else None
        torch.distributed.gather(mine, parts)
        for rank, part in enumerate(parts or []):
            if name in names[rank]:
                gathered[rank][name] = part.cpu()
    return gathered


def _of_this_process(gradients: list[Gradients] | Gradients, trainer: Trainer) -> Gradients:
    """The gradients that this process continues with: its own, or the mean of all of another number of processes.

    Args:
        gradients: From :func:`_unfinished_gradients`; of an older version, the mean.
        trainer: The trainer.
    """
    if isinstance(gradients, dict):
        return gradients
    if len(gradients) == trainer.world_size:
        return gradients[trainer.global_rank]
    names = {name for part in gradients for name in part}
    return {
        name: torch.stack([part[name] for part in gradients if name in part]).sum(0) / len(gradients) for name in names
    }
