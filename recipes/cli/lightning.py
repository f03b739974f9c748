"""The one LightningCLI of all recipes: from the command line to a trained model in a run's folder.

It knows no task: ``model`` and ``data`` are the classes that the YAML names.
"""

import signal
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningDataModule, LightningModule, Trainer, __version__
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from recipes import resolvers
from recipes.cli.class_paths import find_class
from recipes.cli.command_line import CommandLine
from recipes.cli.given import plain_keys
from recipes.cli.interpolation import explain_interpolation
from recipes.cli.jsonargparse_internals import arguments_of
from recipes.cli.lent_arguments import take_nothing_over
from recipes.cli.mistakes import explain, refuse_empty_groups, refuse_null, sentence
from recipes.cli.monitor_mode import complete_modes
from recipes.cli.parser import RecipeParser, parser_settings, words_for
from recipes.cli.unforeseen import Circumstances, explain_error
from recipes.cli.unwritable_defaults import leave_out_unwritable_defaults
from recipes.messages import RecipeError, TrainingDiverged, TrainingHopeless, tell
from recipes.ranges import PositiveInt
from recipes.recipe import Recipe
from recipes.runs import slurm
from recipes.runs.config import RecordConfig
from recipes.runs.folder import RunFolder, check_exists, claim, config_name, give_back, next_folder, runs_root
from recipes.training import checkpoints, ckpt_path
from recipes.training.defaults import default_callbacks, loggers_of
from recipes.training.precision import other_precision
from recipes.training.resume import how_to_resume
from recipes.training.unsupported import refuse_settings
from recipes.training.unsupported_strategies import refuse_other_number_of_processes, refuse_strategy

CHECKPOINT_PATH = (
    "A .ckpt file, the folder of a run, or 'best' or 'last' for the newest run of the same --config. fit "
    "resumes from it, the other commands load it. From the folder of a run, fit loads the last checkpoint, the "
    "others the best."
)
WEIGHTS_ONLY = "Whether a checkpoint may hold only tensors and plain values, and no objects that could run code."


class RecipeCLI(LightningCLI):
    """Fits, validates, tests or predicts with the model and the data that the configuration names.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        command_line: The options of the command.

    Attributes:
        command_parser: The parser of the command.
        checkpoint: The checkpoint that ``--ckpt_path`` names; None for none.
        run_folder: Where this run writes; None with ``trainer.fast_dev_run``.

    Raises:
        RecipeError: The command line, a file or this machine does not allow the command; the message says why.
    """

    def __init__(self, command: str, command_line: CommandLine) -> None:
        self.command, self.command_line = command, command_line
        self.command_parser: RecipeParser
        self.checkpoint: str | None = None
        self.run_folder: RunFolder | None = None
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
                parser_kwargs=parser_settings(command),
                args=words_for(command, command_line),
            )
        except (RecipeError, TrainingDiverged, TrainingHopeless):
            self._leave_no_empty_folder()
            raise
        except Exception as error:
            told = explain_error(error, self._circumstances())
            self._leave_no_empty_folder()
            raise told from error
        except BaseException as error:
            self._leave_no_empty_folder()
            if isinstance(error, SystemExit) and self._interrupted():
                self._end_as_stopped(error)
            raise

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The given command alone: building a parser for each of the others takes time."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def _circumstances(self) -> Circumstances:
        """What is known of this run, to explain an error."""
        command = getattr(self, "subcommand", None)
        settings = self.config.get(command) if command else None
        made = getattr(self, "config_init", None)
        trainer = getattr(self, "trainer", None)
        return Circumstances(
            doing=f"recipes {command}" if command else "reading the settings",
            settings=settings.as_dict() if settings else {},
            made=made[command].as_dict() if made else None,
            trainer=trainer,
            folder=self._folder(),
            runs=runs_root(settings["trainer"]["default_root_dir"] if settings and "trainer" in settings else None),
            resume=self._where_it_stopped() if isinstance(trainer, Trainer) else "",
            rank=int(getattr(rank_zero_only, "rank", 0)),
        )

    def _folder(self) -> Path | None:
        """The run's folder, on the other ranks as they have learnt it from the first one."""
        if is_first_rank():
            return self.run_folder.path if self.run_folder else None
        recorder = self._recorder() if hasattr(self, "trainer") else None
        return recorder.folder if recorder else None

    def _recorder(self) -> RecordConfig | None:
        """The trainer's callback that has written ``config.yaml``."""
        return next((c for c in getattr(self.trainer, "callbacks", []) if isinstance(c, RecordConfig)), None)

    def _leave_no_empty_folder(self) -> None:
        if self.run_folder is not None and is_first_rank():
            give_back(self.run_folder)

    def _interrupted(self) -> bool:
        """Whether Lightning has ended the training because of Ctrl-C."""
        return hasattr(self, "trainer") and self.trainer.interrupted

    def _end_as_stopped(self, error: SystemExit) -> NoReturn:
        """Says how to resume; the exit status is 130 after Ctrl-C, else 128 and the number of the signal."""
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
        return how_to_resume(self.trainer) if self.subcommand == "fit" else ""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser of the command, or the one around it; ``--config`` takes the files that are already read."""
        kwargs.setdefault("dump_header", [f"lightning=={__version__}"])
        parser = RecipeParser(**kwargs)
        parser.add_config_argument(self.command_line.files)
        if parser.command:
            parser.given = self.command_line.given
            self.command_parser = parser
        return parser

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's parser, with the recipes' help texts for ``--ckpt_path`` and ``--weights_only``."""
        super().setup_parser(*args, **kwargs)
        for argument in arguments_of(self.command_parser):
            if argument.dest == "ckpt_path":
                argument.help = CHECKPOINT_PATH
            elif argument.dest == "weights_only":
                argument.help = WEIGHTS_ONLY
                # With null, Lightning loads a checkpoint from a URL in a way that can run code.
                self.command_parser.set_defaults({"weights_only": True})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``threads``, and ``checkpoint``: which checkpoints ``fit`` keeps."""
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="Threads that torch computes with on the CPU. Sums over another number of threads round "
            "differently, so a run repeats bit for bit only with the same number. Null: as many as torch chooses, "
            "which is recorded in the run's config.yaml.",
        )
        parser.add_class_arguments(checkpoints.BestCheckpoint, "checkpoint", skip={"dirpath", "save_last"})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the command line; a mistake becomes a :class:`RecipeError`."""
        assert isinstance(args, list)
        command, given = self.command, self.command_line.given
        refuse_empty_groups(self.command_parser, given)
        if not self.command_line.is_complete:
            explain(self.command_parser, given)
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            explain(self.command_parser, given)
            raise RecipeError(sentence(str(error), command)) from error
        except OmegaConfBaseException as error:
            raise explain_interpolation(error, command, given) from error
        refuse_null(self.command_parser, given)
        for note in take_nothing_over(given, self.config[command]):
            tell(note)
        leave_out_unwritable_defaults(self.config)
        self._find_checkpoint(command)

    def _find_checkpoint(self, command: str) -> None:
        """Finds the checkpoint of ``--ckpt_path``, and loads from it the arguments of the model that were not given.

        Lightning would let the arguments in the checkpoint replace those given. It therefore sees no ``ckpt_path``
        until the classes are instantiated.
        """
        settings = self.config[command]
        requeued = slurm.run_of_requeued_job(*self._run_group(command)) if command == "fit" else None
        if requeued is not None:
            tell(f"job {slurm.job_id()} was requeued: its run resumes from {requeued}")
            settings["ckpt_path"] = str(requeued)
        if not settings.get("ckpt_path"):
            if command != "fit":
                tell("without --ckpt_path the model has the weights that training starts from, not those of a run")
            return
        root, name = self._run_group(command)
        path = ckpt_path.resolve(settings["ckpt_path"], command, root, name)
        settings["ckpt_path"] = None
        self.checkpoint = path
        if not Path(path).is_file():
            return
        model = settings["model"]
        given = {
            key.split(".")[1] for source in self.command_line.given for key in plain_keys(source.settings, "model")
        }
        checkpoint = checkpoints.load(path)
        checkpoints.check_contents(path, checkpoint, command)
        own = model["init_args"].as_dict()
        adopted, notes = checkpoints.adopt(path, checkpoint, model["class_path"], own, given)
        finished = checkpoints.nothing_left(checkpoint, settings["trainer"]) if command == "fit" else None
        for note in [*notes, *([finished] if finished else [])]:
            tell(note)
        if adopted:
            changed = {command: {"model": {"class_path": model["class_path"], "init_args": adopted}}}
            try:
                self.config = self.parser.parse_object(changed, self.config)
            except ArgumentError as error:
                raise RecipeError(f"--ckpt_path {path}: {sentence(str(error), command)}") from error

    def _run_group(self, command: str) -> tuple[Path, str]:
        """The folder of all runs, and the name of this run's group."""
        first = next((file.path for file in self.command_line.files.values()), None)
        return runs_root(self.config[command]["trainer"]["default_root_dir"]), config_name(first)

    def before_instantiate_classes(self) -> None:
        """Sets threads, a precision that the CPU can afford, and the model's own metric where no setting names one."""
        settings = self.config[self.subcommand]
        if settings["threads"] is not None:
            torch.set_num_threads(settings["threads"])
        settings["threads"] = torch.get_num_threads()
        replaced = other_precision(settings["trainer"])
        if replaced is not None:
            settings["trainer"]["precision"], reason = replaced
            tell(reason)
        checkpoint, own = settings["checkpoint"], self._own_metric(settings)
        has_validation = settings["data"].get("init_args", {}).get("validation", "given") is not None
        if checkpoint["monitor"] is None and has_validation and settings["trainer"]["limit_val_batches"] != 0:
            for monitor, mode in own.items():
                checkpoint["monitor"], checkpoint["mode"] = monitor, mode
        if self.subcommand == "fit":
            complete_modes(settings, self.command_line.given, own)

    def _own_metric(self, settings: Any) -> dict[str, str]:
        """The mode of the model's own metric, by its name; empty for a model that is no recipe's."""
        model_class, _ = find_class(settings["model"]["class_path"], (LightningModule,))
        return {model_class.monitor: model_class.monitor_mode} if issubclass(model_class, Recipe) else {}

    def instantiate_classes(self) -> None:
        """Instantiates the data, the model and the trainer."""
        self.config[self.subcommand]["ckpt_path"] = self.checkpoint
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Instantiates the trainer, with the recipes' loggers and callbacks, which write to the folder of the run."""
        made = self.config_init[self.subcommand]
        settings = made["trainer"]
        refuse_settings(settings)
        if isinstance(made.get("model"), Recipe):
            refuse_strategy(settings["strategy"])
        if not settings["fast_dev_run"]:
            root, name = self._run_group(str(self.subcommand))
            self.run_folder = claim(root, name) if is_first_rank() else next_folder(root, name)
            kwargs["default_root_dir"] = str(self.run_folder.path)
            kwargs["logger"] = loggers_of(self.run_folder, settings)
        kwargs["callbacks"] = default_callbacks(str(self.subcommand), {**settings, **kwargs}, made["checkpoint"])
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            if "No supported" in str(error):
                raise RecipeError(
                    f"trainer.accelerator is '{settings['accelerator']}', and torch finds no such device "
                    "on this machine: use auto or cpu"
                ) from error
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(f"trainer: {' '.join(str(error).split())}") from error
        refuse_other_number_of_processes(trainer)
        checkpoints.write_whole_files(trainer, self.run_folder.path if self.run_folder else None)
        return trainer

    def before_fit(self) -> None:
        """Lets a recipe look at its model before the first step of a run that is not resumed."""
        if isinstance(self.model, Recipe) and self.checkpoint is None:
            self.model.before_training(self.trainer, self.datamodule)

    def settings(self) -> dict[str, Any]:
        """All settings of this run, with paths as they are on this machine."""
        return self.config[self.subcommand].as_dict()

    def after_fit(self) -> None:
        """Tests the best checkpoint, saves the model and writes the report, if the module is a recipe's."""
        if self.run_folder is None:
            return
        if is_first_rank():
            check_exists(self.run_folder.path)
        if not isinstance(self.model, Recipe):
            name = type(self.model).__name__
            tell(f"{name} is trained; only subclasses of recipes.recipe.Recipe write model/ and a report")
            return
        from recipes.cli.finish import finish

        recorder = self._recorder()
        recorded = recorder.text if recorder else ""
        finish(self.trainer, self.model, self.datamodule, self.settings(), recorded)


def is_first_rank() -> bool:
    """Whether this process is rank 0, or the one that launches the others."""
    return getattr(rank_zero_only, "rank", 0) == 0
