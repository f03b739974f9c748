"""Settings of the recipe that a comparison gives itself, and refuses on the command line or in a file."""

from collections.abc import Mapping, Sequence
from typing import Any

from recipes.cli.command_line import CommandLine
from recipes.cli.config_files import ConfigFile
from recipes.cli.given import Given
from recipes.messages import RecipeError

SETTINGS_OF_LENGTH = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
REFUSED = {
    "seed_everything": "use --seeds",
    "ckpt_path": "each run starts from the beginning",
    "trainer.fast_dev_run": "it writes no report to compare; for a short trial add --config trainer/quick.yaml",
    "trainer.default_root_dir": "use --out",
    "model.optimizer": "use --optimizers, and --sweep-lr for their learning rates",
    "model.init_args.optimizer": "use --optimizers, and --sweep-lr for their learning rates",
}
IN_FILES = ("ckpt_path", "trainer.fast_dev_run")
"""Those that a file may not have either. The command of a run overrides the others."""


def refuse_options(options: Sequence[str]) -> None:
    """Checks the options that apply to every run.

    Raises:
        RecipeError: One of them is not supported.
    """
    for option in CommandLine.parse(list(options)).options:
        for refused, remedy in REFUSED.items():
            if f"{option.key}.".startswith(f"{refused}."):
                raise RecipeError(f"{option.name} is not supported by compare: {remedy}")


def refuse_in_files(configs: Sequence[ConfigFile]) -> None:
    """Checks the recipe's files, of which a later one may take back what an earlier one sets.

    Raises:
        RecipeError: A run would resume, or write no report.
    """
    for key in IN_FILES:
        if (set_by := _set_by(key, configs)) is not None:
            raise RecipeError(f"{_where(key, set_by)} is not supported by compare: {REFUSED[key]}; set it to null")


def refuse_other_length(options: Sequence[str], configs: Sequence[ConfigFile]) -> None:
    """Checks that nothing but the budget ends a run. It overrides the steps and epochs of a file, but not the time.

    Raises:
        RecipeError: An option or a file has another length.
    """
    for option in CommandLine.parse(list(options)).options:
        if option.key in SETTINGS_OF_LENGTH:
            raise RecipeError(f"{option.name} contradicts the budget of steps or seconds: give one of them")
    if (set_by := _set_by("trainer.max_time", configs)) is not None:
        raise RecipeError(f"{_where('trainer.max_time', set_by)} contradicts the budget of steps or seconds: remove it")


def _set_by(key: str, configs: Sequence[ConfigFile]) -> ConfigFile | None:
    """The last file that has a key, if it sets it to anything but null, false or 0."""
    found = [(value, config) for config in configs if (value := _value(key, config.settings)) is not _ABSENT]
    return found[-1][1] if found and found[-1][0] else None


_ABSENT: Any = object()


def _value(key: str, settings: Mapping[str, Any]) -> Any:
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _where(key: str, config: ConfigFile) -> str:
    return f"{Given(config.settings, config).where(tuple(key.split('.')))}{key}"
