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
        for name, parameter in pl_module.named_parameters():
            gradient = loaded["gradients"].get(name)
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


def _unfinished_gradients(trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
    """The gradients of an unfinished accumulation, averaged over ranks; else none."""
    if not is_accumulating(trainer):
        return {}
    gradients = {}
    sharded = is_sharded(pl_module)
    for name, parameter in pl_module.named_parameters():
        if parameter.grad is not None:
            gradient = whole_gradient(parameter.grad)
            averaged = trainer.world_size == 1 or sharded  # FSDP2 averages in each backward pass
            gradients[name] = gradient if averaged else trainer.strategy.reduce(gradient, reduce_op="mean")
    return gradients
