"""What one of several processes holds: the model is sharded as a run shards it, on the meta device, in this process.

torch's fake process group stands for the others. This process is the first one, which has the largest shards where a
dimension cannot be divided evenly.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from lightning_adafactor.sharded.layout import local
from recipes.estimate.torch_internals import FakeStore
from recipes.messages import RecipeError
from recipes.sharding.blocks import shard_blocks, units
from recipes.sharding.model import DATA, TENSOR
from recipes.sharding.tensor_parallel import parallelize
from recipes.training.unsupported_strategies import refuse_strategy

MODEL_PARALLEL = "ModelParallelStrategy"
KEY = "trainer.strategy.init_args"


@dataclass(frozen=True)
class Processes:
    """The processes of a run, one on each device.

    Attributes:
        data: Over how many the batches are divided: those that FSDP2 shards over or, with ``replicated``, DDP's.
        tensor: Over how many each matrix is divided.
        replicated: Whether each holds the whole model (DDP).
        gradient_as_bucket_view: Whether DDP's gradients lie in the buckets that it sums them in, without a copy.
    """

    data: int = 1
    tensor: int = 1
    replicated: bool = False
    gradient_as_bucket_view: bool = False

    @property
    def number(self) -> int:
        """How many they are."""
        return self.data * self.tensor

    @property
    def are_sharded(self) -> bool:
        """Whether each holds a part of the model."""
        return self.number > 1 and not self.replicated


def processes_of(trainer: Mapping[str, Any]) -> Processes | None:
    """The processes that a trainer's settings ask for; None for a strategy that the estimate does not know.

    Args:
        trainer: The settings, with a ``class_path`` for the strategy or its name.

    Raises:
        RecipeError: The sizes of the mesh contradict the number of devices, or recipes do not train with the strategy.
    """
    strategy, nodes = trainer["strategy"], int(trainer.get("num_nodes") or 1)
    devices = _number(trainer["devices"], str(trainer.get("accelerator")))
    path = strategy.get("class_path", "") if isinstance(strategy, Mapping) else strategy
    name = path if isinstance(path, str) else type(path).__name__
    short = name.rpartition(".")[2]
    arguments = strategy.get("init_args") or {} if isinstance(strategy, Mapping) else {}
    if short == MODEL_PARALLEL:
        given = [arguments.get(f"{dim}_size", "auto") for dim in (DATA, TENSOR)]
        data, tensor = (_size(size, auto) for size, auto in zip(given, (nodes, devices or 1), strict=True))
        if devices is not None and data * tensor != devices * nodes:
            raise RecipeError(
                f"{KEY}.{DATA}_size {data} times {TENSOR}_size {tensor} is {data * tensor}, but trainer.devices times "
                f"trainer.num_nodes is {devices * nodes}: make them equal"
            )
        return Processes(data, tensor)
    if short.startswith("ddp") or short == "DDPStrategy" or (short == "auto" and (devices or 1) * nodes > 1):
        views = bool(arguments.get("gradient_as_bucket_view"))
        return Processes((devices or 1) * nodes, replicated=True, gradient_as_bucket_view=views)
    if short in ("auto", "single_device", "SingleDeviceStrategy"):
        return Processes()
    refuse_strategy(name)
    return None


def _number(devices: Any, accelerator: str) -> int | None:
    """How many devices a node has; None for as many as there are."""
    if isinstance(devices, list | tuple):
        return len(devices)
    text = str(devices)
    if text.isdecimal():
        return int(text)
    if "," in text:
        return len([word for word in text.split(",") if word.strip()])
    return torch.cuda.device_count() or 1 if text == "-1" and accelerator != "cpu" else None


def _size(size: Any, auto: int) -> int:
    return auto if size == "auto" else int(size)


@contextmanager
def fake_processes(processes: Processes | None) -> Iterator[None]:
    """Lets this process be the first of several that do not exist; nothing where a model is not sharded."""
    if processes is None or not processes.are_sharded:
        yield
        return
    distributed.init_process_group("fake", rank=0, world_size=processes.number, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def sharded(model: nn.Module, processes: Processes) -> nn.Module:
    """A copy of a model on the meta device, sharded as :func:`recipes.sharding.model.sharded_model` shards it.

    Called, like all that is done with the copy, within :func:`fake_processes`.

    Raises:
        RecipeError: The model cannot be divided in this way.
    """
    model = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (processes.data, processes.tensor), mesh_dim_names=(DATA, TENSOR))
    if processes.tensor > 1:
        parallelize(model, mesh[TENSOR])
    if processes.data > 1:
        shard_blocks(model, mesh[DATA], MixedPrecisionPolicy())
    return model


@dataclass(frozen=True)
class Gathered:
    """Bytes that FSDP2 gathers on a device, at their peak.

    Attributes:
        largest: The parameters of the largest unit: a block, the embeddings, or the head.
        parameters: Those of two units that follow each other, for the next one is gathered ahead, and those outside of
            all units, which stay gathered from the forward to the backward pass.
        gradients: The whole gradients of the largest unit, and their copy that is reduced.
    """

    largest: int = 0
    parameters: int = 0
    gradients: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients


def gathered(model: nn.Module, data: int, gather: torch.dtype | None, reduce: torch.dtype | None) -> Gathered:
    """What FSDP2 gathers of a model.

    Args:
        model: From :func:`sharded`.
        data: Over how many processes FSDP2 shards.
        gather: The dtype of what is gathered; None for that of the parameters.
        reduce: The dtype in which gradients are summed; None for that of the gradients.
    """
    if data == 1:
        return Gathered()
    found = units(model)
    order = {id(module): place for place, module in enumerate(model.modules())}
    inner = {id(parameter) for unit in found for parameter in unit.parameters()}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    taken: set[int] = set()
    sizes: dict[int, tuple[int, int]] = {}
    for unit in found:  # inner ones first
        own = [parameter for parameter in unit.parameters() if id(parameter) not in taken]
        taken |= {id(parameter) for parameter in own}
        trained = [parameter for parameter in own if parameter.requires_grad]
        of_gradients = _whole_bytes(trained, data, gather) + _whole_bytes(trained, data, reduce or gather)
        sizes[order[id(unit)]] = _whole_bytes(own, data, gather), of_gradients
    in_order = [sizes[place][0] for place in sorted(sizes)]
    together = max((a + b for a, b in zip([0, *in_order], in_order, strict=False)), default=0)
    return Gathered(
        largest=max(in_order, default=0),
        parameters=together + _whole_bytes(rest, data, gather),
        gradients=max((of_gradients for _, of_gradients in sizes.values()), default=0),
    )


def _whole_bytes(parameters: list[nn.Parameter], data: int, dtype: torch.dtype | None) -> int:
    """Bytes of gathered tensors; all shards have the size of the first one, the last ones are padded."""
    return sum(local(parameter).numel() * data * (dtype or parameter.dtype).itemsize for parameter in parameters)
