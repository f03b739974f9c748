"""The key of the settings that an error was raised in: ``trainer.callbacks[0]``, ``model.optimizer``, ``data``."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import CO_VARARGS, isclass, isfunction, unwrap
from types import FrameType
from typing import Any

from recipes.cli.class_paths import find_class
from recipes.cli.phases import file_of

KINDS = (
    ("lightning.pytorch.callbacks", "ModelCheckpoint", "checkpoint"),
    ("lightning.pytorch.callbacks", "Callback", "trainer.callbacks"),
    ("lightning.pytorch.loggers", "Logger", "trainer.logger"),
    ("torch.optim", "Optimizer", "model.optimizer"),
    ("torch.optim.lr_scheduler", "LRScheduler", "model.schedule"),
    ("torch.utils.data", "DataLoader", "data"),
    ("torch.utils.data", "Dataset", "data"),
    ("lightning", "LightningDataModule", "data"),
    ("torch.nn", "Module", "model"),
)
"""Classes of objects that no class_path names, as (module, name), with the key that they come from."""
FUNCTIONS = (
    ("recipes/cli/lightning.py", "instantiate_trainer", "trainer"),
    ("pytorch/trainer/trainer.py", "_run", "trainer"),
    ("recipes/training/optimizer.py", "configure", "model.optimizer"),
    ("core/optimizer.py", "_init_optimizers_and_lr_schedulers", "model"),
    ("utils/data/dataloader.py", "__next__", "data"),
)
"""Functions that call what has no object of its own, as (file, name), with the key that it comes from."""
OF_EVERY_RUN = ("recipes.", "lightning_adafactor.")
"""The modules of the callbacks that every run has."""
CALLS = "pytorch/trainer/call.py"
"""Where Lightning calls callbacks: the one that it calls is the variable ``callback``."""


@dataclass(frozen=True)
class Component:
    """A class or function that the settings name.

    Attributes:
        key: Its key in the short form, without ``init_args``.
        made_by: The class or function.
        instance: What it has made; None if that is not known.
    """

    key: str
    made_by: Any
    instance: Any = None


def components(settings: Any, made: Any = None, key: str = "") -> Iterator[Component]:
    """Finds the classes and functions in settings.

    Args:
        settings: The settings, with a class_path for each class.
        made: The same with instances in place of them, as far as there are any.
        key: The key of the settings, in the short form.
    """
    if isinstance(settings, list):
        for i, item in enumerate(settings):
            same = isinstance(made, list) and len(made) >= len(settings)
            yield from components(item, made[i] if same else None, f"{key}[{i}]")
    elif isinstance(settings, Mapping):
        if isinstance(path := settings.get("class_path"), str):
            found, _ = find_class(path, ())
            if found is not None:
                yield Component(key, found, made)
            yield from components(settings.get("init_args") or {}, None, key)
            return
        for name, value in settings.items():
            below = made.get(name) if isinstance(made, Mapping) else None
            yield from components(value, below, f"{key}.{name}" if key else str(name))
    elif isfunction(settings):
        yield Component(key, settings)


@dataclass(frozen=True)
class Place:
    """Where an error was raised, seen from the settings.

    Attributes:
        key: The key that led there.
        function: The function of it, such as ``mine.Callback.on_train_start``; empty where no object is known.
    """

    key: str
    function: str = ""


def place_of(frames: Sequence[FrameType], settings: Mapping[str, Any], made: Any = None) -> Place | None:
    """The innermost object of the settings that a traceback goes through.

    Args:
        frames: The frames of the traceback, the outermost first.
        settings: The settings, with a class_path for each class.
        made: The same with instances in place of them, as far as there are any.

    Returns:
        Its place; None if the traceback goes through none.
    """
    known = list(components(settings, made))
    kinds = _kinds()
    for frame in reversed(frames):
        if place := _named(frame, known):
            return place
        if place := _of_a_kind(frame, kinds) or _called(frame):
            return place if _is_set(settings, place.key) else Place(place.key.partition(".")[0], place.function)
    return None


def _is_set(settings: Any, key: str) -> bool:
    for part in key.split("."):
        if isinstance(settings, Mapping) and part not in settings:
            settings = settings.get("init_args")
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings is not None


def _named(frame: FrameType, known: Sequence[Component]) -> Place | None:
    """What a class_path names: by its identity, else by its class or code."""
    for this in _objects(frame):
        for component in known:
            if component.instance is this:
                return Place(component.key, _function(frame, this))
        for component in known:
            is_other = component.instance is not None and isinstance(component.instance, type(this))
            if isclass(component.made_by) and type(this) is component.made_by and not is_other:
                return Place(component.key, _function(frame, this))
    for component in known:
        if getattr(unwrap(component.made_by), "__code__", None) is frame.f_code:
            return Place(component.key, f"{component.made_by.__module__}.{component.made_by.__qualname__}")
    return None


def _kinds() -> list[tuple[type, str]]:
    """The classes of :data:`KINDS`, as far as their modules are imported."""
    found = ((getattr(sys.modules.get(module), name, None), key) for module, name, key in KINDS)
    return [(cls, key) for cls, key in found if cls is not None]


def _of_a_kind(frame: FrameType, kinds: Sequence[tuple[type, str]]) -> Place | None:
    for this in _objects(frame):
        for cls, key in kinds:
            if isinstance(this, cls):
                if key == "trainer.callbacks" and type(this).__module__.startswith(OF_EVERY_RUN):
                    break  # which no key names: look further out
                return Place(key, _function(frame, this))
    return None


def _called(frame: FrameType) -> Place | None:
    file = file_of(frame)
    for end, name, key in FUNCTIONS:
        if file.endswith(end) and frame.f_code.co_name == name:
            return Place(key)
    return None


def _objects(frame: FrameType) -> Iterator[Any]:
    """The object whose method a frame is; in Lightning's calls the callback called."""
    code, values = frame.f_code, frame.f_locals
    first = None
    if code.co_argcount:
        first = values.get(code.co_varnames[0])
        first = first if hasattr(type(first), code.co_name) else None
    elif code.co_flags & CO_VARARGS and (given := values.get(code.co_varnames[code.co_kwonlyargcount])):
        first = given[0]
    called = values.get("callback") if file_of(frame).endswith(CALLS) else None
    for this in (first, values.get("self"), called):
        if this is not None:
            yield this


def _function(frame: FrameType, this: Any) -> str:
    """The method in which an object failed; of a frame that calls it, the method that is called."""
    cls = type(this)
    name = frame.f_code.co_name
    if file_of(frame).endswith(CALLS):
        name = frame.f_locals.get("hook_name") or name.removeprefix("_call_callbacks_")
    return f"{cls.__module__}.{cls.__qualname__}.{name}"
