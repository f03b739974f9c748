"""Tensor parallelism: a model's matrices divided over processes that read the same rows, as transformers plans it."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from lightning_adafactor.sharded.layout import sum_partial_gradient
from recipes.messages import RecipeError
from recipes.sharding.blocks import end_of
from recipes.sharding.shared_weights import share, shared_names

STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
    "rowwise_rep": lambda: RowwiseParallel(input_layouts=Replicate()),
    "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
    # Norms of the queries and keys of this process's heads: they normalize the last dimension alone.
    "replicated_with_grad_allreduce": lambda: SequenceParallel(sequence_dim=1, use_local_output=True),
}
"""torch's style for each of transformers' that are supported."""

KEY = "trainer.strategy.init_args.tensor_parallel_size"


def parallelize(model: Any, mesh: DeviceMesh) -> None:
    """Divides the matrices of a model over the processes of a mesh, in place.

    What the plan of transformers does not name stays whole on each process, as do embeddings and head if their
    vocabulary cannot be divided evenly.

    Args:
        model: A model from transformers, on the meta device: nothing is communicated.
        mesh: A mesh of one dimension.

    Raises:
        RecipeError: The model has no plan or one that is not supported, or its sizes cannot be divided.
    """
    size = mesh.size()
    plan = plan_of(model, size)
    refuse_uneven(model, plan, size)
    shared = shared_names(model)
    parallelize_module(model, mesh, {name: STYLES[style]() for name, style in plan.items()}, src_data_rank=None)
    share(model, shared)


def divide_gradients(model: nn.Module) -> None:
    """Lets each process keep its part of an embedding's gradient, as soon as it is there.

    torch computes the whole gradient of a divided embedding on every process, and would keep it until the step. FSDP2
    divides the gradients of its parameters itself.

    Args:
        model: A model from :func:`parallelize`, with its final parameters.
    """

    def divide(weight: Tensor) -> None:
        gradient = weight.grad
        if isinstance(gradient, DTensor) and isinstance(weight, DTensor) and gradient.placements != weight.placements:
            weight.grad = gradient.redistribute(placements=weight.placements)

    for module in model.modules():
        if isinstance(module, nn.Embedding) and isinstance(module.weight, DTensor):
            module.weight.register_post_accumulate_grad_hook(divide)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sums gradients over processes where each has the part of its own heads, as of the norms of queries and keys.

    FSDP2 does so itself for the parameters that it shards. All processes call this, before the optimizer's step.
    """
    for parameter in parameters:
        sum_partial_gradient(parameter)


def plan_of(model: Any, size: int) -> dict[str, str]:
    """The style of each module that is divided, by name.

    Args:
        model: A model from transformers.
        size: The number of processes.

    Raises:
        RecipeError: The model has no plan, or one with styles that are not supported.
    """
    rules: dict[str, str] = getattr(model, "tp_plan", None) or {}
    plan = {
        name: rule[1]
        for name, _ in model.named_modules()
        if (rule := next((rule for rule in rules.items() if re.fullmatch(_pattern(rule[0]), name)), None))
    }
    ends = _ends(model)
    if not plan.keys() - ends.keys():
        raise RecipeError(
            f"{KEY} is {size}, but transformers has no plan to divide {type(model).__name__}: use FSDP2 "
            "(--config trainer/fsdp2.yaml), or a model with base_model_tp_plan in its configuration, such as Llama"
        )
    unknown = sorted({style for style in plan.values() if style not in STYLES} | _parameters_in(rules, model))
    if unknown:
        raise RecipeError(
            f"{KEY} is {size}, but the plan of {type(model).__name__} divides it in ways that are not supported "
            f"({', '.join(unknown)}): use FSDP2 (--config trainer/fsdp2.yaml)"
        )
    whole = [name for name, end in ends.items() if not _is_divisible(end, size)]
    if whole or not ends.keys() <= plan.keys():
        shared = len({id(end.weight) for end in ends.values()}) < len(ends)
        for name in ends if shared else whole:
            plan.pop(name, None)
    if whole:
        rank_zero_info(f"Tensor parallelism leaves {' and '.join(whole)} whole on each process.")
    return plan


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\*", r"\d+")


def _parameters_in(rules: dict[str, str], model: nn.Module) -> set[str]:
    """The styles of rules for single parameters, such as those of all experts of a layer together."""
    names = [name for name, _ in model.named_parameters()]
    return {style for rule, style in rules.items() if any(re.fullmatch(_pattern(rule), name) for name in names)}


def _ends(model: Any) -> dict[str, nn.Module]:
    """Embeddings and head, by name."""
    ends = (end_of(model, "get_input_embeddings"), end_of(model, "get_output_embeddings"))
    return {name: module for name, module in model.named_modules() if any(module is end for end in ends)}


def _is_divisible(end: Any, size: int) -> bool:
    """Whether the vocabulary divides; and torch would take the padding token's row for one in each shard."""
    return end.weight.shape[0] % size == 0 and getattr(end, "padding_idx", None) is None


def refuse_uneven(model: Any, plan: dict[str, str], size: int) -> None:
    """Raises a RecipeError if the number of processes does not divide the heads or the width of a matrix."""
    config = model.config.get_text_config()
    sizes = {name: getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")}
    if "colwise" in plan.values():
        for name, number in sizes.items():
            if isinstance(number, int) and number % size:
                raise _uneven(model, name, number, size)
    for name, style in plan.items():
        module: Any = model.get_submodule(name)
        number = getattr(module, "out_features" if style.startswith("colwise") else "in_features", None)
        if number is not None and number % size:
            raise _uneven(model, f"the width of {name}", number, size)


def _uneven(model: nn.Module, what: str, number: int, size: int) -> RecipeError:
    divisors = [str(divisor) for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= 64]
    return RecipeError(
        f"{KEY} is {size}, which does not divide {what} of {type(model).__name__}, {number}: use one that does "
        f"({', '.join(divisors)}), or FSDP2 (--config trainer/fsdp2.yaml)"
    )
