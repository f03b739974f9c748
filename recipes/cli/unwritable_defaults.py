"""Defaults that YAML cannot hold, such as ``torch.device("cpu")``: removed from the settings.

jsonargparse writes such a value as the text ``Unable to serialize instance ...``, or cannot write it: into the run's
``config.yaml`` and, where the settings hold a ``${...}``, into the arguments of the class.
"""

import inspect
from enum import Enum
from os import PathLike
from typing import Any

import yaml
from jsonargparse import Namespace, set_dumper

from recipes.cli.class_paths import find_class

TEXT = "Unable to serialize instance "
WRITABLE = (str, int, float, bool, list, tuple, set, dict, Namespace, PathLike, Enum, type(None))


class SettingsDumper(yaml.SafeDumper):
    """Also writes that text for values that YAML cannot represent."""


def _as_text(dumper: SettingsDumper, value: object) -> yaml.Node:
    return dumper.represent_str(f"{TEXT}{value}")


def dump(settings: Any) -> str:
    """Settings as YAML, in the order and the style of jsonargparse."""
    written = yaml.dump(settings, Dumper=SettingsDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return str(written)


SettingsDumper.add_multi_representer(object, _as_text)
set_dumper("yaml", dump)


def leave_out_unwritable_defaults(settings: Any) -> None:
    """Removes from the ``init_args`` of every class the defaults that YAML cannot hold.

    Args:
        settings: The settings; changed in place.
    """
    if isinstance(settings, list):
        for item in settings:
            leave_out_unwritable_defaults(item)
    elif isinstance(settings, Namespace | dict):
        arguments = settings.get("init_args")
        if isinstance(arguments, Namespace | dict) and isinstance(settings.get("class_path"), str):
            _leave_out(settings["class_path"], arguments)
        for name in list(_names(settings)):
            leave_out_unwritable_defaults(settings[name])


def _leave_out(class_path: str, arguments: Any) -> None:
    cls, _ = find_class(class_path, ())
    for name in list(_names(arguments)):
        value = arguments[name]
        as_text = isinstance(value, str) and value.startswith(TEXT)
        if as_text or (not isinstance(value, WRITABLE) and not callable(value) and _is_default(cls, name, value)):
            del arguments[name]


def _names(settings: Any) -> Any:
    return vars(settings) if isinstance(settings, Namespace) else settings


def _is_default(cls: Any, name: str, value: Any) -> bool:
    try:
        default = inspect.signature(cls).parameters[name].default
        return default is value or bool(type(default) is type(value) and default == value)
    except (TypeError, ValueError, KeyError, RuntimeError):
        return False
