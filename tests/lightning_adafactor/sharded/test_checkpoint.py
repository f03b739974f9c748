"""State that torch.distributed.checkpoint saves on one mesh and loads on another, and state of unsharded optimizers."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.sharded import state as sharded_state
from tests.lightning_adafactor.sharded import models, processes, shardings

FULL = StateDictOptions(full_state_dict=True)
BROADCAST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
OPTIONS = {"beta1": 0.9, "weight_decay": 0.01}
SAVED, LATER = range(2), range(2, 4)
LOADED_AS = {
    "fsdp2": "tensor parallel",
    "fsdp2 and tensor parallel": "fsdp2",
    "hsdp": "fsdp2",
    "tensor parallel": "tensor parallel",
}
"""How two processes shard what four have saved."""


def new(name: str) -> tuple[nn.Module, Adafactor]:
    sharding: Callable[[models.Model], models.Model] = models.SHARDINGS.get(name, models.unsharded)
    model = sharding(models.model())
    return model, Adafactor(model.named_parameters(), **OPTIONS)


def trained(name: str) -> tuple[nn.Module, Adafactor]:
    model, optimizer = new(name)
    models.train(model, optimizer, SAVED)
    return model, optimizer


def save(model: nn.Module, optimizer: Adafactor, folder: pathlib.Path) -> None:
    weights, state = get_state_dict(model, optimizer)
    checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def load(model: nn.Module, optimizer: Adafactor, folder: pathlib.Path) -> None:
    weights, state = get_state_dict(model, optimizer)
    checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def everything(model: nn.Module, optimizer: Adafactor) -> dict[str, Tensor]:
    """Weights and state, whole."""
    found = {}
    for name, param in model.named_parameters():
        found[name] = shardings.whole(param)
        found |= {f"{name} {key}": shardings.whole(value) for key, value in optimizer.state[param].items()}
    return found


def state_of(model: nn.Module, optimizer: Adafactor) -> dict[str, Tensor]:
    """State, whole."""
    return {key: value for key, value in everything(model, optimizer).items() if " " in key}


def off(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest relative difference; infinite if keys, shapes or dtypes differ."""
    if one.keys() != other.keys():
        return torch.inf
    largest = 0.0
    for key, value in one.items():
        if value.shape != other[key].shape or value.dtype != other[key].dtype:
            return torch.inf
        largest = max(largest, float((value - other[key]).norm() / (other[key].norm() or 1.0)))
    return largest


def is_sharded_alike(model: nn.Module, optimizer: Adafactor) -> bool:
    """Whether all state but numbers is on the mesh of its parameter, and placed as a new state is."""
    return all(
        value.device_mesh == param.device_mesh and value.placements == sharded_state.zeros(param, key).placements
        for param in model.parameters()
        for key, value in optimizer.state[param].items()
        if isinstance(param, DTensor) and key not in ("step", "RMS")
    )


def continued(model: nn.Module, optimizer: Adafactor) -> dict[str, Tensor]:
    models.train(model, optimizer, LATER)
    return everything(model, optimizer)


def of_four(folder: pathlib.Path) -> dict[str, Any]:
    """Loads what one process has saved; saves under each sharding, and loads that under another one."""
    found: dict[str, Any] = {}
    alone = everything(*trained("alone"))
    for name in LOADED_AS:
        fresh = new(name)
        load(*fresh, folder / "alone")
        found[f"alone to {name}"] = off(everything(*fresh), alone), is_sharded_alike(*fresh)
        found[f"alone, {name} continued"] = off(continued(*fresh), continued(*trained("alone"))), True

        mine = trained(name)
        before = everything(*mine)
        save(*mine, folder / name)
        if distributed.get_rank() == 0:
            torch.save(before, folder / f"{name}.pt")
        found[f"{name} saved"] = off(before, everything(*mine)), True
    return found


def of_two(folder: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for saved, name in LOADED_AS.items():
        fresh = new(name)
        load(*fresh, folder / saved)
        wanted = torch.load(folder / f"{saved}.pt")
        found[f"{saved} to {name}"] = off(everything(*fresh), wanted), is_sharded_alike(*fresh)
    save(*fresh, folder / "two")

    model, optimizer = trained("fsdp2")
    whole = get_optimizer_state_dict(model, optimizer, options=FULL)
    other, _ = new("fsdp2")
    for key, options in (("full", FULL), ("full, from rank 0", BROADCAST)):
        state = whole if options is FULL or distributed.get_rank() == 0 else {}
        other_optimizer = Adafactor(other.named_parameters(), **OPTIONS)
        before = [shardings.whole(param) for param in other.parameters()]
        set_optimizer_state_dict(other, other_optimizer, state, options=options)
        same = all(torch.equal(shardings.whole(new), old) for new, old in zip(other.parameters(), before, strict=True))
        found[key] = off(state_of(other, other_optimizer), state_of(model, optimizer)), same

    found["plain state_dict"] = of_unsharded(model)
    import transformers  # takes seconds, and four processes do not need it

    found["torch's"] = of_other_library(Adafactor, torch.optim.Adafactor)
    found["transformers'"] = of_other_library(TransformersAdafactor, transformers.Adafactor)
    found["initialized"] = initialization()
    return found


def of_unsharded(model: nn.Module) -> tuple[float, bool]:
    """Loads the state_dict of an unsharded optimizer without torch.distributed.checkpoint."""
    alone, saved = trained("alone")
    optimizer = Adafactor(model.named_parameters(), **OPTIONS)
    optimizer.load_state_dict(saved.state_dict())
    return off(state_of(model, optimizer), state_of(alone, saved)), is_sharded_alike(model, optimizer)


def of_other_library(kind: type[Adafactor], theirs: type[torch.optim.Optimizer]) -> tuple[float, bool]:
    """Loads what the original optimizer of an unsharded model has saved."""
    alone = models.model()
    saved = theirs(list(alone.parameters()))
    models.train(alone, saved, SAVED)
    reference = kind(alone.parameters())
    reference.load_state_dict(saved.state_dict())
    model = models.fsdp2(models.model())
    optimizer = kind(model.parameters())
    optimizer.load_state_dict(saved.state_dict())
    return off(state_of(model, optimizer), state_of(alone, reference)), is_sharded_alike(model, optimizer)


def initialization() -> tuple[float, bool]:
    """Lets torch.distributed.checkpoint create the state of an optimizer whose step size is not lr."""
    model = models.fsdp2(models.model())
    optimizer = TransformersAdafactor(model.named_parameters(), weight_decay=0.1)
    before = [shardings.whole(param) for param in model.parameters()]
    get_optimizer_state_dict(model, optimizer)
    same = all(torch.equal(shardings.whole(new), old) for new, old in zip(model.parameters(), before, strict=True))
    return 0.0, same and len(optimizer.state) == len(before) and optimizer.param_groups[0]["lr"] is None


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[float, bool]]]:
    """What four processes, then two, then one found, by rank."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(*trained("alone"), folder / "alone")
    found: dict[str, list[tuple[float, bool]]] = {}
    for size, function in ((4, of_four), (2, of_two)):
        ranks = processes.run(function, size, tmp_path_factory.mktemp(f"{size}"), folder)
        found |= {key: [rank[key] for rank in ranks] for key in ranks[0]}
    fresh = new("alone")
    load(*fresh, folder / "two")
    found["two to alone"] = [(off(everything(*fresh), torch.load(folder / "tensor parallel.pt")), True)]
    found["two to alone, continued"] = [(off(continued(*fresh), continued(*trained("alone"))), True)]
    return found


def test_state_is_the_same_bit_for_bit_after_saving_and_loading(results: dict[str, list[tuple[float, bool]]]) -> None:
    loaded = {
        key: ranks for key, ranks in results.items() if not key.endswith("continued") and not key.startswith("alone to")
    }
    assert len(loaded) == 4 + 4 + 6 + 1
    assert loaded == {key: [(0.0, True)] * len(ranks) for key, ranks in loaded.items()}


def test_a_checkpoint_of_one_process_goes_on_on_several(results: dict[str, list[tuple[float, bool]]]) -> None:
    of_alone = {key: ranks for key, ranks in results.items() if "alone to" in key}
    assert len(of_alone) == 4
    assert of_alone == {key: [(0.0, True)] * len(ranks) for key, ranks in of_alone.items()}


def test_training_goes_on_as_if_it_had_not_been_interrupted(results: dict[str, list[tuple[float, bool]]]) -> None:
    differences = {key: [rank[0] for rank in ranks] for key, ranks in results.items() if key.endswith("continued")}
    assert len(differences) == 1 + 4
    assert {key: ranks for key, ranks in differences.items() if not max(ranks) < 1e-5} == {}
