"""Gives callbacks that monitor a metric its direction, where no setting names one: Lightning's default is ``min``."""

from collections.abc import Iterable, Mapping
from typing import Any

from recipes.cli.given import Given
from recipes.messages import RecipeError
from recipes.runs.metric_mode import mode_of

EARLY_STOPPING = ("EarlyStopping", "lightning.pytorch.callbacks.EarlyStopping")


def complete_modes(settings: Any, given: Iterable[Given], own: Mapping[str, str]) -> None:
    """Sets ``mode`` of the checkpoints and of ``EarlyStopping`` by the name of the metric, unless it was given.

    Args:
        settings: The settings of a command, which are changed.
        given: The settings as they were given.
        own: The mode of the model's own metric, by its name.

    Raises:
        RecipeError: The name does not say which values are better, and no setting does.
    """
    sources = [source.settings for source in given]
    if settings["checkpoint"]["monitor"] is not None and not _names_mode([each.get("checkpoint") for each in sources]):
        _complete(settings["checkpoint"], own, "checkpoint")
    named = [value for each in sources for key, value in _items(each.get("trainer")) if key.startswith("callbacks")]
    if _names_mode(named):
        return
    callbacks = settings["trainer"].get("callbacks") or []
    for number, callback in enumerate(callbacks if isinstance(callbacks, list) else [callbacks]):
        if callback.get("class_path") in EARLY_STOPPING:
            _complete(callback["init_args"], own, f"trainer.callbacks[{number}]")


def _complete(arguments: Any, own: Mapping[str, str], key: str) -> None:
    monitor = str(arguments["monitor"])
    mode = own.get(monitor) or mode_of(monitor)
    if mode is None:
        raise RecipeError(
            f"{key}.monitor is '{monitor}', and its name does not say whether higher values are better: set {key}.mode "
            "to max or min"
        )
    arguments["mode"] = mode


def _items(settings: Any) -> Iterable[tuple[str, Any]]:
    return settings.items() if isinstance(settings, Mapping) else ()


def _names_mode(settings: Any) -> bool:
    """Whether a key ``mode`` is in the settings, at any depth."""
    if isinstance(settings, Mapping):
        return any(key.rpartition(".")[2] == "mode" or _names_mode(value) for key, value in settings.items())
    return isinstance(settings, list) and any(map(_names_mode, settings))
