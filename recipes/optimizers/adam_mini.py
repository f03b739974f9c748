"""Adam-mini: AdamW with one second moment for each attention head or each row of a matrix."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adam_mini import Adam_mini
from torch import nn
from torch.distributed.tensor import DTensor

ROLE = "name"
"""The option of a parameter group that chooses the library's rule: it looks for its own words in the name."""
PER_ELEMENT, PER_HEAD, PER_ROW, PER_TENSOR = "bias", "query_key", "linear", "norm"
QUERY_AND_KEY = {"q_proj", "k_proj", "q_lin", "k_lin", "query", "key", "wq", "wk", "q", "k"}
"""Names of the modules with a query's or a key's weight in transformers' models."""


class AdamMini(Adam_mini):
    """``adam_mini.Adam_mini`` with a second moment for each head, row, or whole tensor (arXiv 2406.16793).

    Weights of queries and keys have one second moment for each attention head; other matrices, embeddings and the head
    of the model among them, one for each row; norms one each; biases one for each element, as Adam has. The library
    finds this division in the parameters' names, which fit some models; here it follows from shapes and modules.

    Args:
        params: Parameters or parameter groups; a group's option ``name`` begins with its rule: ``query_key``,
            ``linear``, ``norm`` or ``bias``. Without it, matrices are ``linear`` and vectors ``bias``.
        lr: The learning rate.
        betas: Decay factors of the averages of gradients and squared gradients.
        eps: Added to the denominator of the update.
        weight_decay: Weights are multiplied by 1 - lr * weight_decay in each step.

    Raises:
        ValueError: An argument is out of range, or the parameters are sharded.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        given = list(params)
        groups = given if given and isinstance(given[0], Mapping) else [{"params": given}]
        ruled = [ruled for group in groups for ruled in ([dict(group)] if ROLE in group else _by_shape(group))]
        named = [(group[ROLE], each) for group in ruled for each in group["params"]]
        if any(isinstance(each, DTensor) for _, each in named):
            raise ValueError("Adam-mini does not support sharded parameters here: use a strategy that replicates them")
        super().__init__(named, lr, tuple(betas), eps, weight_decay, verbose=False)
        self.named_parameters = ()  # the library keeps them, and does not use them again
        self.check_block_name = False
        self.world_size = 1  # every process has whole parameters; else the library gathers norms from all devices
        options = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
        self.param_groups = [{**options, **group} for group in ruled]
        self.head_numel = next((group["head_numel"] for group in ruled if "head_numel" in group), 1)

    @staticmethod
    def split_groups(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
        """Splits groups by the rule of their parameters.

        Args:
            groups: Parameter groups.
            model: The model. ``model.config`` has the number of heads; without it, queries and keys are ``linear``.

        Returns:
            For each group, one for each rule; that of the heads has their number of elements, ``head_numel``.
        """
        head_numel = _head_numel(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        ruled: dict[str, dict[str, Any]] = {}
        for group in groups:
            for each in group["params"]:
                rule = _rule(names[id(each)], each, head_numel)
                name = f"{rule}_undecayed" if "weight_decay" in group else rule  # unique, for LearningRateMonitor
                options = {"head_numel": head_numel} if rule == PER_HEAD else {}
                ruled.setdefault(name, {**group, "params": [], ROLE: name, **options})["params"].append(each)
        return list(ruled.values())


def _head_numel(model: nn.Module) -> int | None:
    """The elements of one head's part of a query's or a key's weight; None if they are unknown."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()  # that of an encoder in another model has these sizes, not the outer one
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if not width or not heads:
        return None
    return int((getattr(config, "head_dim", None) or width // heads) * width)


def _rule(name: str, parameter: nn.Parameter, head_numel: int | None) -> str:
    *modules, leaf = name.split(".")
    if leaf == "bias":
        return PER_ELEMENT
    if parameter.ndim != 2:
        return PER_TENSOR
    of_heads = bool(modules) and modules[-1] in QUERY_AND_KEY and head_numel and not parameter.numel() % head_numel
    return PER_HEAD if of_heads else PER_ROW


def _by_shape(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    params = list(group["params"])
    split = {
        PER_ROW: [each for each in params if each.ndim == 2],
        PER_ELEMENT: [each for each in params if each.ndim != 2],
    }
    return [{**group, "params": each, ROLE: rule} for rule, each in split.items() if each]
