"""The one LightningCLI of all recipes: from the command line to a trained model in a run's folder.

It knows no task: ``model`` and ``data`` are whatever classes the YAML names.
"""

import importlib
import signal
import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import ActionConfigFile, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning import LightningDataModule, LightningModule, Trainer, __version__
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from recipes import resolvers
from recipes.cli.command_line import given_in
from recipes.cli.commands import COMMANDS, OWN_COMMANDS
from recipes.cli.config_files import find_config, is_inline, read_config
from recipes.cli.given import Given, kept_arguments, plain_keys
from recipes.cli.interpolation import absolute_in, explain_interpolation
from recipes.cli.mistakes import explain, refuse_empty_groups, sentence
from recipes.messages import RecipeError, tell
from recipes.recipe import Recipe
from recipes.runs.config import RecordConfig, recorded_config
from recipes.runs.folder import RunFolder, claim, config_name, give_back, next_folder, runs_root
from recipes.training import checkpoints
from recipes.training.defaults import default_callbacks, loggers_of

# The parser resolves ${...} once, after all files and options; without this, references inside a file would
# be looked for above the subcommand. It is a setting of the whole process, read when a file is parsed.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

USAGE = "--config FILE [--config FILE ...] [--KEY VALUE ...]"
CHECKPOINT_PATH = (
    "A .ckpt file, the folder of a run, or 'best' or 'last' for the newest run of the same --config. fit "
    "goes on from it, the other commands load it. Of a run's folder, fit takes the last checkpoint, the "
    "others the best."
)
WEIGHTS_ONLY = "Whether a checkpoint may hold only tensors and plain values, and no objects that could run code."
EPILOG = (
    "The settings of a recipe: --model.help recipes.TextClassifier, --data.help "
    "recipes.TextClassificationData; those of an optimizer: --model.help recipes.TextClassifier "
    "--model.optimizer.help torch.optim.AdamW. A run writes to runs/NAME/version_N/, NAME being that of the "
    "first --config and N a new number each time. The folder of all runs is trainer.default_root_dir, else "
    "the variable RUNS_DIR, else runs."
)


class RecipeParser(LightningArgumentParser):
    """Lightning's parser without the many lines of usage that argparse puts before a class's help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("usage", SUPPRESS)
        super().__init__(*args, **kwargs)


class FindConfigFile(ActionConfigFile):
    """``--config`` that looks in the working folder and in ``configs/``."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Puts the settings of a file on top of those given so far."""
        if not is_inline(values):
            path = find_config(values)
            read_config(path)
            values = str(path)
        super().__call__(parser, cfg, values, option_string)


class RecipeCLI(LightningCLI):
    """Fits, validates, tests or predicts with the model and the data that the configuration names.

    Args:
        args: The command line, beginning with the subcommand.

    Attributes:
        run_folder: Where this run writes; None with ``trainer.fast_dev_run``.

    Raises:
        RecipeError: Something on the command line, in a file or on this machine is not as it has to be.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.run_folder: RunFolder | None = None
        self._given: list[Given] = []
        resolvers.register()
        try:
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=RecordConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=42,
                auto_configure_optimizers=False,
                parser_class=RecipeParser,
                parser_kwargs=self._parser_settings(),
                args=list(args),
            )
        except BaseException as error:
            self._leave_no_empty_folder()
            if isinstance(error, SystemExit) and self._interrupted():
                self._end_as_stopped(error)
            raise

    def _leave_no_empty_folder(self) -> None:
        if self.run_folder is not None and is_first_rank():
            give_back(self.run_folder)

    def _interrupted(self) -> bool:
        """Whether Lightning has ended the process because of Ctrl-C."""
        return hasattr(self, "trainer") and self.trainer.interrupted

    def _end_as_stopped(self, error: SystemExit) -> NoReturn:
        """Says where to go on; the exit status is 130 after Ctrl-C, else 128 and the number of the signal."""
        where = self._where_it_stopped()
        if not isinstance(error, SIGTERMException):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt(where) from None
        last = self._last_checkpoint()
        signum = signal.Signals((last and last.stopped_by) or signal.SIGTERM)
        if is_first_rank():
            print(f"\nstopped by {signum.name}{f': {where}' if where else ''}", file=sys.stderr)
        raise SystemExit(128 + signum) from None

    def _last_checkpoint(self) -> checkpoints.LastCheckpoint | None:
        return next((c for c in self.trainer.checkpoint_callbacks if isinstance(c, checkpoints.LastCheckpoint)), None)

    def _where_it_stopped(self) -> str:
        last = self._last_checkpoint()
        if self.subcommand != "fit" or last is None or not last.path:
            return ""
        return f"go on with --ckpt_path {last.path}"

    @classmethod
    def _parser_settings(cls) -> dict[str, Any]:
        commands = ",".join(cls.subcommands())
        settings: dict[str, Any] = {
            "prog": "python -m recipes",
            "description": "Fine-tunes transformers with little optimizer memory, from YAML files.",
            "usage": f"python -m recipes {{{commands}}} {USAGE}",
            "epilog": _own_commands(),
            "parser_mode": "omegaconf+",
            "allow_abbrev": False,
            "exit_on_error": False,
        }
        for command in cls.subcommands():
            settings[command] = {
                "usage": f"python -m recipes {command} {USAGE}",
                "description": COMMANDS[command],
                "epilog": EPILOG,
                "allow_abbrev": False,
            }
        return settings

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose --config looks in the working folder and in configs/."""
        kwargs.setdefault("dump_header", [f"lightning=={__version__}"])
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=FindConfigFile,
            help="YAML file, looked for in the working folder and then in configs/. Several are laid on "
            "top of each other from left to right, and so are the options between and after them.",
        )
        return parser

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's parser, with the recipes' own words for the commands and for ``--ckpt_path``."""
        super().setup_parser(*args, **kwargs)
        subcommands = self.parser._subcommands_action
        assert subcommands is not None
        for listed in subcommands._choices_actions:
            listed.help = COMMANDS[listed.dest]
        for parser in self._subcommand_parsers.values():
            for action in parser._actions:
                if action.dest == "ckpt_path":
                    action.help = CHECKPOINT_PATH
                elif action.dest == "weights_only":
                    action.help = WEIGHTS_ONLY
                    # Left open, Lightning loads what it fetches from an address in a way that can run code.
                    parser.set_defaults({"weights_only": True})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``threads``, and ``checkpoint``: which checkpoints ``fit`` keeps."""
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="Threads that torch computes with on the processor. Sums over another number of threads round "
            "differently, so a run repeats bit for bit only with the same number. Null: as many as torch chooses, "
            "and noted in the run's config.yaml.",
        )
        parser.add_class_arguments(checkpoints.BestCheckpoint, "checkpoint", skip={"dirpath", "save_last"})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the command line, and answers a mistake with a sentence."""
        assert isinstance(args, list)
        command, options = args[0], args[1:]
        subparser = self._subcommand_parsers.get(command)
        self._given = list(given_in(options))
        if subparser is not None:
            refuse_empty_groups(subparser, self._given)
        try:
            self.config = parser.parse_args([command, *(absolute_in(command, option) for option in options)])
        except ArgumentError as error:
            if subparser is not None:
                explain(subparser, self._given)
            raise RecipeError(sentence(str(error), command)) from error
        except OmegaConfBaseException as error:
            raise explain_interpolation(error, command, self._given) from error
        for note in kept_arguments(self._given, self.config[command].as_dict()):
            tell(note)

    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint that is meant; takes from it what was not given of the model's settings."""
        command = self.config["subcommand"]
        settings = self.config[command]
        if not settings.get("ckpt_path"):
            if command != "fit":
                tell("without --ckpt_path the model is used as it is made, not as a run of this recipe has trained it")
            return
        root, name = self._run_group()
        settings["ckpt_path"] = path = checkpoints.resolve(settings["ckpt_path"], command, root, name)
        if not Path(path).is_file():
            return
        model = settings["model"]
        given = {key.split(".")[1] for source in self._given for key in plain_keys(source.settings, "model")}
        checkpoint = checkpoints.load(path)
        checkpoints.check_contents(path, checkpoint, command)
        own = model["init_args"].as_dict()
        adopted, notes = checkpoints.adopt(path, checkpoint, model["class_path"], own, given)
        finished = checkpoints.nothing_left(checkpoint, settings["trainer"]) if command == "fit" else None
        for note in [*notes, *([finished] if finished else [])]:
            tell(note)
        if adopted:
            settings = {command: {"model": {"class_path": model["class_path"], "init_args": adopted}}}
            try:
                self.config = self.parser.parse_object(settings, self.config)
            except ArgumentError as error:
                raise RecipeError(f"--ckpt_path {path}: {sentence(str(error), command)}") from error

    def _run_group(self) -> tuple[Path, str]:
        """The folder of all runs, and the name of this run's group."""
        settings = self.config[self.config["subcommand"]]
        first = next((given.file.path for given in self._given if given.file), None)
        return runs_root(settings["trainer"]["default_root_dir"]), config_name(first)

    def before_instantiate_classes(self) -> None:
        """Sets the threads; lets the model say what makes a checkpoint the best one, where no setting does."""
        settings = self.config[self.subcommand]
        if settings["threads"] is not None:
            torch.set_num_threads(settings["threads"])
        settings["threads"] = torch.get_num_threads()
        checkpoint = settings["checkpoint"]
        if checkpoint["monitor"] is None and settings["trainer"]["limit_val_batches"] != 0:
            module, _, name = settings["model"]["class_path"].rpartition(".")
            model_class = getattr(importlib.import_module(module), name)
            if issubclass(model_class, Recipe):
                checkpoint["monitor"], checkpoint["mode"] = model_class.monitor, model_class.monitor_mode

    def instantiate_classes(self) -> None:
        """Makes the data, the model and the trainer."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse reports whatever a class refuses as a value that fits none of its types.
            for cause in _causes(error):
                if isinstance(cause, RecipeError | MisconfigurationException):
                    raise cause from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer with the recipes' loggers and callbacks, all writing to this run's folder."""
        settings = self._get(self.config_init, "trainer")
        if not settings["fast_dev_run"]:
            root, name = self._run_group()
            self.run_folder = claim(root, name) if is_first_rank() else next_folder(root, name)
            kwargs["default_root_dir"] = str(self.run_folder.path)
            kwargs["logger"] = loggers_of(self.run_folder, settings)
        kwargs["callbacks"] = default_callbacks(
            str(self.subcommand), {**settings, **kwargs}, self._get(self.config_init, "checkpoint")
        )
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            if "No supported" in str(error):
                raise RecipeError(
                    f"trainer.accelerator is '{settings['accelerator']}', and torch finds no such device "
                    "on this machine: use auto or cpu"
                ) from error
            raise
        except ValueError as error:
            raise RecipeError(f"trainer: {' '.join(str(error).split())}") from error
        checkpoints.write_whole_files(trainer)
        return trainer

    def before_fit(self) -> None:
        """Lets a recipe look at its model before the first step of a run that is not resumed."""
        if isinstance(self.model, Recipe) and not self._get(self.config_init, "ckpt_path"):
            self.model.before_training(self.trainer, self.datamodule)

    def settings(self) -> dict[str, Any]:
        """All settings of this run, with paths as they are on this machine."""
        return self.config[self.subcommand].as_dict()

    def recorded_config(self) -> str:
        """All settings of this run, as in its ``config.yaml``."""
        return recorded_config(self._parser(self.subcommand), self.config[self.subcommand])

    def after_fit(self) -> None:
        """Tests the best checkpoint, saves the model and writes the report, if the module is a recipe's."""
        if self.run_folder is None:
            return
        if not isinstance(self.model, Recipe):
            tell(f"{type(self.model).__name__} is trained; it is no recipes.recipe.Recipe: no model/ and no report")
            return
        from recipes.cli.finish import finish

        finish(self.trainer, self.model, self.datamodule, self.settings(), self.recorded_config())


def _own_commands() -> str:
    """The end of the help: the commands with a --help of their own."""
    sentences = (
        f"{name}: {command.description[0].lower()}{command.description[1:]}" for name, command in OWN_COMMANDS.items()
    )
    return f"Commands with a --help of their own: {' '.join(sentences)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_first_rank() -> bool:
    """Whether this process is rank 0, or the one that will start the others."""
    return getattr(rank_zero_only, "rank", 0) == 0
