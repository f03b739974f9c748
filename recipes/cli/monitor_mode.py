"""Gives callbacks that monitor a metric its direction, where no setting names one: Lightning's default is ``min``."""

from collections.abc import Iterable, Mapping
from typing import Any

from recipes.cli.given import Given
from recipes.messages import RecipeError
from recipes.runs.metric_mode import mode_of


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
    if _is_given_for_early_stopping(sources):
        return
    callbacks = settings["trainer"].get("callbacks") or []
    for number, callback in enumerate(callbacks if isinstance(callbacks, list) else [callbacks]):
        if _stops_early(callback["class_path"]):
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


def _is_given_for_early_stopping(sources: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an ``EarlyStopping`` has a mode in a file, or in an option after the one that names its class."""
    last = ""
    for source in sources:
        trainer = source.get("trainer")
        for key, value in trainer.items() if isinstance(trainer, Mapping) else ():
            if key.rstrip("+") != "callbacks":
                continue
            if isinstance(value, str):
                last = value
            elif isinstance(value, Mapping) and "class_path" not in value:
                if _stops_early(last) and _names_mode(value):
                    return True
            else:
                entries = value if isinstance(value, list) else [value]
                own = [each for each in entries if isinstance(each, Mapping) and _stops_early(each.get("class_path"))]
                if _names_mode(own):
                    return True
    return False


def _stops_early(class_path: str | None) -> bool:
    return (class_path or "").rpartition(".")[2] == "EarlyStopping"


def _names_mode(settings: Any) -> bool:
    """Whether a key ``mode`` is in the settings, at any depth."""
    if isinstance(settings, Mapping):
        return any(key.rpartition(".")[2] == "mode" or _names_mode(value) for key, value in settings.items())
    return isinstance(settings, list) and any(map(_names_mode, settings))
