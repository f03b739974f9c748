"""The hidden matrices of a model, which Muon, GaLore and APOLLO treat differently from all other parameters."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

KEY = "hidden_matrices"
"""The option of a parameter group that says whether its parameters are hidden matrices."""


def split_groups(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Splits each group into hidden matrices and the rest, and marks them with the option :data:`KEY`.

    Hidden matrices are the two-dimensional parameters between the embeddings and the head. Embeddings are the weights
    of ``nn.Embedding``. The head of a model of transformers is everything outside of its ``base_model``; of another
    model, none is known, and its last matrix counts as hidden.

    Args:
        groups: Parameter groups.
        model: The model that the parameters are from.

    Returns:
        The groups without empty ones.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    body = getattr(model, "base_model", model)
    hidden = {id(each) for each in body.parameters() if each.ndim == 2 and id(each) not in embeddings}
    return _split(groups, hidden)


def marked(params: Iterable[Any]) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer's argument; where :data:`KEY` is not given, all matrices are hidden ones.

    Args:
        params: Parameters or parameter groups.
    """
    given = list(params)
    groups = [{"params": given}] if given and isinstance(given[0], Tensor) else [dict(group) for group in given]
    result: list[dict[str, Any]] = []
    for group in groups:
        group["params"] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        matrices = {id(each) for each in group["params"] if each.ndim == 2}
        result += [group] if KEY in group else _split([group], matrices)
    return result


def _split(groups: Sequence[Mapping[str, Any]], hidden: set[int]) -> list[dict[str, Any]]:
    split = [
        {**group, "params": [each for each in group["params"] if (id(each) in hidden) is is_hidden], KEY: is_hidden}
        for group in groups
        for is_hidden in (True, False)
    ]
    return [group for group in split if group["params"]]
