"""The layers of a model from its inputs to its head, and how far below the head each parameter is."""

from collections.abc import Iterator

from torch import nn


def layers(model: nn.Module) -> list[list[nn.Module]]:
    """The layers, those next to the embeddings first: the entries of the outermost ``ModuleList``s.

    Lists of equal length within one module, as in XLM, which has one of attentions and one of feed-forward networks,
    are the parts of the same layers. An encoder's layers come before a decoder's.

    Args:
        model: The model.

    Returns:
        The modules of each layer, mostly one; empty for a model without such a list.
    """
    return [layer for layer in _layers(model) if any(next(part.parameters(), None) is not None for part in layer)]


def _layers(module: nn.Module) -> Iterator[list[nn.Module]]:
    lists = [list(child) for child in module.children() if isinstance(child, nn.ModuleList)]
    if len({len(entries) for entries in lists}) == 1:
        yield from (list(parts) for parts in zip(*lists, strict=True))
    else:
        yield from ([entry] for entries in lists for entry in entries)
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            yield from _layers(child)


def levels(model: nn.Module) -> tuple[list[int], int]:
    """Where each parameter stands between the embeddings and the head.

    Args:
        model: The model.

    Returns:
        For each of ``model.parameters()`` -1 for embeddings and what comes before the first layer, the number of its
        layer, or the number of layers for what comes after the last one; and the number of layers. A parameter
        between an encoder and a decoder belongs to the layer before it.
    """
    found = layers(model)
    inside = {
        id(parameter): number for number, layer in enumerate(found) for part in layer for parameter in part.parameters()
    }
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    result, current = [], -1
    for parameter in model.parameters():
        if id(parameter) in inside:
            current = inside[id(parameter)]
        elif id(parameter) in embeddings:
            result.append(-1)
            continue
        elif current == len(found) - 1 and found:
            current = len(found)
        result.append(current)
    return result, len(found)
