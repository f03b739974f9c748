"""The optimizers of ``configs/optimizer/``, by name: what ``recipes.compare`` and ``recipes.estimate`` choose from."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recipes.cli.class_paths import library_of
from recipes.cli.config_files import CONFIGS, SUFFIXES, ConfigFile, find_config, read_config
from recipes.cli.given import Given
from recipes.messages import RecipeError

OPTIMIZER = ("model", "init_args", "optimizer")


@dataclass(frozen=True)
class Choice:
    """An optimizer to choose: a YAML file that is merged into the recipe.

    Attributes:
        name: Stem of the file, which names the optimizer.
        config: The file.
    """

    name: str
    config: ConfigFile

    @property
    def file(self) -> Path:
        """The path of the file."""
        return self.config.path

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the file."""
        return self.config.settings

    @property
    def class_path(self) -> str:
        """The optimizer's class."""
        return str(self._optimizer()["class_path"])

    @property
    def rate(self) -> float | None:
        """The file's learning rate; None if the optimizer computes its own, or if it is a ``${...}``."""
        value: Any = (self._optimizer().get("init_args") or {}).get("lr")
        try:
            return float(value)
        except (TypeError, ValueError):
            return None

    @property
    def missing_module(self) -> str | None:
        """The library of the class, or the one that an adapter of this project needs, if it is not installed."""
        module = self.class_path.rpartition(".")[0]
        library = module.partition(".")[0]
        if library and find_spec(library) is None:
            return library
        if library == __name__.partition(".")[0]:
            try:
                import_module(module)
            except ModuleNotFoundError as error:
                return library_of(error)
        return None

    def _optimizer(self) -> Mapping[str, Any]:
        return _optimizer_in(self.settings) or {}


def _optimizer_in(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    value: Any = settings
    for key in OPTIMIZER:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) and isinstance(value.get("class_path"), str) else None


def shipped() -> list[str]:
    """The names of the files in configs/optimizer/."""
    return sorted(file.stem for file in (CONFIGS / "optimizer").glob("*.yaml"))


def choose(name: str, option: str = "--optimizers") -> Choice:
    """The optimizer that a name on the command line refers to: a file of configs/optimizer/, or a path.

    Args:
        name: The word.
        option: The option that it follows, for error messages.

    Raises:
        RecipeError: There is no such file, or it names no optimizer.
    """
    if name.endswith(SUFFIXES) or "/" in name:
        path = find_config(name, option)
    else:
        path = CONFIGS / "optimizer" / f"{name}.yaml"
        if not path.is_file():
            known = shipped()
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"expected {', '.join(known)}, or the path of a YAML"
            raise RecipeError(f"{option} {name}: there is no optimizer of that name; {hint}")
    file = read_config(path)
    if _optimizer_in(file.settings) is None:
        place = Given({}, file).where(OPTIMIZER[:1])
        raise RecipeError(
            f"{option} {name}: {place}no class_path under {'.'.join(OPTIMIZER)}; see configs/optimizer/adamw.yaml"
        )
    return Choice(path.stem, file)
