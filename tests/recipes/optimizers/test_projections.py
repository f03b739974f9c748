"""GaLore's and APOLLO's projections in the optimizer's state."""

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

galore = pytest.importorskip("recipes.optimizers.galore", reason="needs the extra optimizers", exc_type=ImportError)
apollo = pytest.importorskip("recipes.optimizers.apollo", reason="needs the extra optimizers", exc_type=ImportError)
ADAPTERS = [galore.GaLoreAdamW, apollo.APOLLOAdamW]


def stepped(adapter: type[Optimizer], layer: nn.Linear, steps: int = 1, **settings: object) -> Optimizer:
    optimizer = adapter(layer.parameters(), rank=2, **settings)
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        for parameter in layer.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("adapter", "settings", "shape"),
    [
        (galore.GaLoreAdamW, {}, (2, 8)),
        (galore.GaLoreAdamW, {"proj_type": "reverse_std"}, (16, 2)),
        (apollo.APOLLOAdamW, {}, (2, 8)),
        (apollo.APOLLOAdamW, {"proj": "svd", "scale_type": "tensor"}, (2, 8)),
    ],
)
def test_the_state_has_the_projection_alone_and_no_memory_beyond_it(
    adapter: type[Optimizer], settings: dict[str, str], shape: tuple[int, int]
) -> None:
    layer = nn.Linear(8, 16)
    state = stepped(adapter, layer, **settings).state[layer.weight]

    assert "projector" not in state
    assert state["projection"].shape == shape
    assert state["projection"].untyped_storage().nbytes() == 4 * shape[0] * shape[1]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_projection_changes_after_its_number_of_steps(adapter: type[Optimizer]) -> None:
    layer = nn.Linear(8, 16)
    first, second, third = (
        stepped(adapter, layer, steps, update_proj_gap=2).state[layer.weight]["projection"] for steps in (1, 2, 3)
    )

    assert torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_rank_below_1_is_refused(adapter: type[Optimizer]) -> None:
    with pytest.raises(ValueError, match="rank is 0 and update_proj_gap 200: both must be at least 1"):
        adapter(nn.Linear(2, 2).parameters(), rank=0)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_step_is_the_librarys(adapter: type[Optimizer]) -> None:
    layer, other = nn.Linear(8, 16), nn.Linear(8, 16)
    other.load_state_dict(layer.state_dict())
    optimizer = adapter(layer.parameters(), rank=2, update_proj_gap=2)
    (library,) = (base for base in adapter.__bases__ if base.__module__.partition(".")[0].endswith("_torch"))
    groups = [{**group, "params": []} for group in optimizer.param_groups]
    groups[0]["params"], groups[1]["params"] = [other.weight], [other.bias]
    raw = library(groups, no_deprecation_warning=True)

    for seed in range(5):
        for parameters, taking in ((layer.parameters(), optimizer), (other.parameters(), raw)):
            generator = torch.Generator().manual_seed(seed)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            taking.step()

    torch.testing.assert_close(layer.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-7)
