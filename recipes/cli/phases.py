"""What the program was doing when an error was raised, read from the functions that its traceback went through."""

from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple


class Phase(NamedTuple):
    """What a function does.

    Attributes:
        file: The end of the name of its file.
        functions: The names of the functions; empty for all in that file.
        doing: The subject of a sentence; ``{step}`` is the number of the step, ``{done}`` that of the steps done,
            ``{epoch}`` that of the epoch.
    """

    file: str
    functions: tuple[str, ...]
    doing: str


TRAINING_STEP = "training step {step}"
SANITY_CHECK = "the validation before training"
AFTER_ANOTHER = "ending the run"
PHASES = (
    Phase("recipes/cli/lightning.py", ("parse_arguments",), "reading the settings"),
    Phase("lightning/pytorch/cli.py", ("instantiate_classes",), "creating the classes of the settings"),
    Phase("recipes/cli/lightning.py", ("instantiate_trainer",), "creating the trainer"),
    Phase("pytorch/trainer/trainer.py", ("_run",), "setting up the run"),
    Phase("connectors/data_connector.py", ("prepare_data",), "preparing the data"),
    Phase("recipes/recipe.py", ("prepare_data", "setup"), "preparing the data"),
    Phase("pytorch/trainer/call.py", ("_call_configure_model",), "building the model"),
    Phase("core/optimizer.py", ("_init_optimizers_and_lr_schedulers",), "creating the optimizer"),
    Phase("connectors/checkpoint_connector.py", ("resume_start",), "loading the checkpoint"),
    Phase(
        "connectors/checkpoint_connector.py",
        ("restore_datamodule", "restore_model", "restore_callbacks", "restore_training_state"),
        "resuming from the checkpoint",
    ),
    Phase("pytorch/trainer/trainer.py", ("_run_sanity_check",), SANITY_CHECK),
    Phase("loops/fit_loop.py", ("setup_data",), "preparing the training batches"),
    Phase("loops/fit_loop.py", ("on_run_start",), "the start of the training"),
    Phase("loops/fit_loop.py", ("on_advance_start",), "the start of epoch {epoch}"),
    Phase("loops/fit_loop.py", ("on_advance_end",), "the end of epoch {epoch}"),
    Phase("loops/fit_loop.py", ("on_run_end",), "the end of the training after step {done}"),
    Phase("loops/training_epoch_loop.py", ("advance",), TRAINING_STEP),
    Phase("loops/evaluation_loop.py", ("run",), "evaluation"),
    Phase("loops/prediction_loop.py", ("run",), "prediction"),
    Phase("callbacks/model_checkpoint.py", ("_save_checkpoint",), "saving a checkpoint after step {done}"),
    Phase("pytorch/trainer/trainer.py", ("save_checkpoint",), "saving a checkpoint after step {done}"),
    Phase("logger_connector/logger_connector.py", ("log_metrics",), "logging the metrics of step {done}"),
    Phase("pytorch/loggers/csv_logs.py", (), "writing metrics.csv"),
    Phase("fabric/loggers/csv_logs.py", (), "writing metrics.csv"),
    Phase("recipes/runs/config.py", ("save_config",), "writing config.yaml"),
    Phase("pytorch/trainer/call.py", ("_call_teardown_hook",), "the end of the run"),
    Phase("pytorch/trainer/trainer.py", ("_teardown",), "the end of the run"),
    Phase("pytorch/trainer/call.py", ("_interrupt",), AFTER_ANOTHER),
    Phase("recipes/cli/finish.py", ("finish",), "writing the report"),
    Phase("recipes/models/pretrained.py", ("save",), "saving the model"),
    Phase("recipes/runs/plot.py", ("draw",), "drawing report.png"),
)
"""From the outermost to the innermost of what a traceback goes through; the innermost one found is named."""


def what_was_done(frames: Sequence[FrameType], default: str, trainer: Any = None) -> str:
    """Names what was done, such as ``training step 3``.

    Args:
        frames: The frames of a traceback, the outermost first.
        default: What was done if no frame says so.
        trainer: The trainer, if there is one; it knows the step.
    """
    found = [phase for frame in frames for phase in PHASES if _is_in(frame, phase)]
    doing = found[-1].doing if found else default
    if doing == "evaluation":
        sanity = any(phase.doing == SANITY_CHECK for phase in found)
        doing = SANITY_CHECK if sanity else _evaluation(frames)
    if doing == TRAINING_STEP and any("on_train_batch_end" in _called(frame) for frame in frames):
        doing = "the end of training step {done}"
    step = getattr(trainer, "global_step", 0)
    return doing.format(step=step + 1, done=step, epoch=getattr(trainer, "current_epoch", 0) + 1)


def is_creating(frames: Sequence[FrameType]) -> bool:
    """Whether classes of the settings were being created, or the optimizer was."""
    return _goes_through(frames, "creating the classes of the settings", "creating the optimizer")


def is_before_training(frames: Sequence[FrameType]) -> bool:
    """Whether a run was being set up."""
    return _goes_through(frames, "setting up the run") and not any(
        frame.f_code.co_name == "_run_stage" for frame in frames
    )


def is_after_another(frames: Sequence[FrameType]) -> bool:
    """Whether the run was being ended because of an error before this one."""
    return _goes_through(frames, AFTER_ANOTHER)


def _goes_through(frames: Sequence[FrameType], *doing: str) -> bool:
    return any(_is_in(frame, phase) for frame in frames for phase in PHASES if phase.doing in doing)


def file_of(frame: FrameType) -> str:
    """The file that a frame's code is from, with slashes on every system."""
    return frame.f_code.co_filename.replace("\\", "/")


def _is_in(frame: FrameType, phase: Phase) -> bool:
    code = frame.f_code
    return file_of(frame).endswith(phase.file) and (not phase.functions or code.co_name in phase.functions)


def _called(frame: FrameType) -> tuple[str, str | None]:
    """The name of a function, and that of the hook that it calls."""
    return frame.f_code.co_name, frame.f_locals.get("hook_name")


def _evaluation(frames: Sequence[FrameType]) -> str:
    """Whether the evaluation is a test or a validation, and of which step."""
    functions = {frame.f_code.co_name for frame in frames}
    if functions & {"_test_impl", "test"}:
        return "the test"
    return "validation after step {done}" if functions & {"_fit_impl"} else "validation"
