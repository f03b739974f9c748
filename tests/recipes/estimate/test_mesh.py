"""The estimate for one of several processes, against what real ones hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_adafactor import Adafactor, measure_state
from lightning_adafactor.prediction import predict_state
from recipes.estimate.mesh import Processes, fake_processes, gathered, local, processes_of, sharded
from recipes.messages import RecipeError
from recipes.sharding.blocks import shard_blocks
from recipes.sharding.tensor_parallel import divide_gradients, parallelize
from tests.lightning_adafactor.sharded import processes

SIZES = {"vocab_size": 301, "hidden_size": 18, "intermediate_size": 35, "num_attention_heads": 2, "head_dim": 10}
OPTIMIZERS: dict[str, Any] = {
    "Adafactor": lambda params: Adafactor(params, beta1=0.9),
    "AdamW": torch.optim.AdamW,
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
}
MODEL_PARALLEL = "lightning.pytorch.strategies.ModelParallelStrategy"


def model(**sizes: Any) -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **sizes}, num_hidden_layers=3, max_position_embeddings=16))


def states_after_a_step(params: list[nn.Parameter]) -> dict[str, int]:
    """Bytes of each optimizer's state on this process, after a step one after the other."""
    found = {}
    for name, make in OPTIMIZERS.items():
        optimizer = make(params)
        optimizer.step()
        found[name] = measure_state(optimizer.state).bytes
    return found


def held() -> dict[str, int]:
    """Bytes that this process holds after a step of FSDP2, and those of a block while it is computed."""
    whole = model()
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    shard_blocks(whole, mesh, MixedPrecisionPolicy())
    block, blocks = whole.model.layers[1], []
    block.mlp.register_forward_pre_hook(
        lambda *_: blocks.append(sum(each.untyped_storage().nbytes() for each in block.parameters()))
    )
    whole(input_ids=torch.arange(8).reshape(1, 8)).logits.sum().backward()
    params = list(whole.parameters())
    found = {
        "parameters": sum(local(each).numel() * 4 for each in params),
        "gradients": sum(local(each.grad).numel() * 4 for each in params),
        "block": blocks[0],
    }
    return found | states_after_a_step(params)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_the_estimate_of_fsdp2_is_what_real_processes_hold_to_the_byte(number: int, tmp_path: Path) -> None:
    real = processes.run(held, number, tmp_path)[0]

    with torch.device("meta"):
        whole = model()
    with fake_processes(Processes(number)):
        mine = sharded(whole, Processes(number))
        params = list(mine.parameters())
        found = {"parameters": sum(local(each).numel() * 4 for each in params)}
        found["gradients"] = found["parameters"]
        block = [each for name, each in mine.named_parameters() if ".layers.1." in name]
        found["block"] = sum(local(each).numel() * number * 4 for each in block)
        found |= {name: predict_state(make, [{"params": params}]).bytes for name, make in OPTIMIZERS.items()}

    assert found == real


DIVISIBLE = {"vocab_size": 304, "intermediate_size": 36, "hidden_size": 20}


def held_by_tensor_parallelism(tied: bool) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state that this process holds after a step."""
    mine = model(**DIVISIBLE, tie_word_embeddings=tied)
    parallelize(mine, init_device_mesh("cpu", (distributed.get_world_size(),)))
    divide_gradients(mine)
    mine(input_ids=torch.arange(8).reshape(1, 8)).logits.sum().backward()
    params = list(mine.parameters())
    found = {
        "parameters": sum(local(each).numel() * 4 for each in params),
        "gradients": sum(local(each.grad).untyped_storage().nbytes() for each in params),
    }
    return found | states_after_a_step(params)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_the_estimate_of_tensor_parallelism_is_what_a_process_holds_to_the_byte(tied: bool, tmp_path: Path) -> None:
    real = processes.run(held_by_tensor_parallelism, 2, tmp_path, tied)[0]

    with torch.device("meta"):
        whole = model(**DIVISIBLE, tie_word_embeddings=tied)
    with fake_processes(Processes(1, 2)):
        params = list(sharded(whole, Processes(1, 2)).parameters())
        found = {"parameters": sum(local(each).numel() * 4 for each in params)}
        found["gradients"] = found["parameters"]
        found |= {name: predict_state(make, [{"params": params}]).bytes for name, make in OPTIMIZERS.items()}

    assert found == real


def test_two_units_that_follow_each_other_are_gathered_together() -> None:
    with torch.device("meta"):
        whole = model()
    block = sum(each.numel() for each in whole.model.layers[0].parameters())
    with fake_processes(Processes(2)):
        found = gathered(sharded(whole, Processes(2)), 2, torch.bfloat16, torch.float32)

    padding = 18 * 2  # two matrices of 35 rows
    ends = 302 * 18
    assert found.largest == 2 * max(ends, block + padding)
    assert found.parameters == 2 * (ends + block + padding + 18)  # the last norm is in no unit
    assert found.gradients == (2 + 4) * max(ends, block + padding)


def test_tensor_parallelism_divides_what_is_gathered_too() -> None:
    with torch.device("meta"):
        whole = model(**DIVISIBLE)
    elements = sum(each.numel() for each in whole.parameters())
    norms = 7 * 20
    with fake_processes(Processes(2, 2)):
        mine = sharded(whole, Processes(2, 2))
        found = gathered(mine, 2, None, None)

        assert sum(local(each).numel() for each in mine.parameters()) == (elements - norms) / 4 + norms / 2
    assert found.largest == 4 * 152 * 20


def test_one_process_gathers_nothing() -> None:
    with torch.device("meta"):
        assert gathered(model(), 1, None, None).total == 0


def settings(strategy: Any, devices: Any, nodes: int = 1) -> dict[str, Any]:
    return {"strategy": strategy, "devices": devices, "num_nodes": nodes, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("strategy", "devices", "nodes", "expected"),
    [
        ("auto", "auto", 1, Processes()),
        ("auto", 4, 1, Processes(4, replicated=True)),
        ("ddp", "2", 3, Processes(6, replicated=True)),
        ("ddp_find_unused_parameters_true", [0, 1], 1, Processes(2, replicated=True)),
        (
            {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"gradient_as_bucket_view": True}},
            2,
            1,
            Processes(2, replicated=True, gradient_as_bucket_view=True),
        ),
        ({"class_path": MODEL_PARALLEL, "init_args": {}}, 4, 2, Processes(2, 4)),
        (
            {"class_path": MODEL_PARALLEL, "init_args": {"data_parallel_size": 8, "tensor_parallel_size": 1}},
            8,
            1,
            Processes(8),
        ),
        ("xla", 4, 1, None),
        ({"class_path": "my.RingStrategy"}, 4, 1, None),
    ],
)
def test_the_settings_of_a_trainer_name_the_processes(
    strategy: Any, devices: Any, nodes: int, expected: Processes | None
) -> None:
    assert processes_of(settings(strategy, devices, nodes)) == expected


@pytest.mark.parametrize(
    "strategy", ["deepspeed_stage_3", "fsdp", {"class_path": "lightning.pytorch.strategies.FSDPStrategy"}]
)
def test_a_strategy_that_fit_refuses_is_not_estimated_either(strategy: Any) -> None:
    with pytest.raises(RecipeError, match=r"which flattens parameters.*use FSDP2"):
        processes_of(settings(strategy, 4))


def test_a_mesh_that_contradicts_the_devices_is_refused() -> None:
    strategy = {"class_path": MODEL_PARALLEL, "init_args": {"data_parallel_size": 4, "tensor_parallel_size": 2}}
    with pytest.raises(RecipeError, match=r"data_parallel_size 4 times tensor_parallel_size 2 is 8, but .* is 4"):
        processes_of(settings(strategy, 4))
