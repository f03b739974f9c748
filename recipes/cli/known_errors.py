"""Errors of libraries with a known cause and remedy, and the message for each."""

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.cli.error_keys import Place, components
from recipes.messages import RecipeError, RunFailed

OUT_OF_MEMORY = (
    "the GPU is out of memory: lower data.batch_size (and raise trainer.accumulate_grad_batches to make up "
    "for it) or the length of the texts (data.max_length, data.block_size), or set trainer.precision to bf16-mixed; "
    "python -m recipes.estimate predicts what fits"
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded")
"""The message of libraries that are not written in Python and raise no OSError."""
REFUSALS = (
    (
        re.compile(r"^`val_check_interval` \((\d+)\) must be .* number of the training batches \((\w+)\)"),
        "trainer.val_check_interval is {_0}, and an epoch has {_1} batches: lower it, give a share of the epoch such "
        "as 0.5, or set trainer.check_val_every_n_epoch to null to count the batches of all epochs",
    ),
    (
        re.compile(r"^Early stopping conditioned on metric `(.*?)` which is not available\..* the following: (.*)$"),
        "{EarlyStopping}.monitor is '{_0}', and no metric of that name is logged: use one of {_1}",
    ),
    (
        re.compile(r"^'(\w+)' object has no attribute 'backbone'$"),
        "{BackboneFinetuning}: BackboneFinetuning freezes the attribute `backbone` of the model, and {_0} has none: "
        "leave the callback out",
    ),
    (
        re.compile(r"^When using the learning rate finder, either `model` or `model.hparams` should have one"),
        "{LearningRateFinder}: LearningRateFinder sets an attribute `lr` of the model, and in a recipe the learning "
        "rate is an argument of the optimizer: leave the callback out; python -m recipes.compare, with the recipe's "
        "--config, --optimizers and --sweep-lr x0.5 x1 x2, finds a rate by the validation metric",
    ),
)
"""Lightning's messages about incompatible settings, and the messages that replace them."""


def known_error(
    error: BaseException,
    doing: str,
    place: Place | None,
    settings: Mapping[str, Any],
    folder: Path | None,
    resume: str,
) -> RecipeError | RunFailed | None:
    """The message for an error with a known cause.

    Args:
        error: The error.
        doing: What was done, as the subject of a sentence.
        place: The object of the settings in which it was raised.
        settings: The settings of the command.
        folder: The folder of the run, if there is one.
        resume: How to resume once the cause is fixed; empty if there is nothing to resume from.

    Returns:
        A mistake that the user can fix, or the end of a run; None for an error that is not known.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from torch import OutOfMemoryError

    message = str(error)
    if isinstance(error, MisconfigurationException):
        if place and not message.startswith(f"{place.key}."):
            message = f"{place.key}: {message}"
        return RecipeError(" ".join(message.split()))
    if isinstance(error, OutOfMemoryError):
        return RunFailed(f"{OUT_OF_MEMORY} ({message.partition(' GPU ')[0].strip()})")
    if message.startswith("Error(s) in loading state_dict"):
        first = message.splitlines()[1].strip() if len(message.splitlines()) > 1 else message
        return RecipeError(
            f"--ckpt_path: the checkpoint's weights are not those of this model ({first}): give the configuration that "
            "it was trained with, config.yaml in the folder of its run"
        )
    for pattern, sentence in REFUSALS:
        if found := pattern.search(" ".join(message.split())):
            return RecipeError(sentence.format_map(_callbacks(settings, found.groups())))
    then = f"; then {resume}" if resume else ""
    if full := next((cause for cause in _chain(error) if _is_full(cause)), None):
        file = getattr(full, "filename", None) or folder
        where = f" that {file} is on" if file else ""
        return RunFailed(f"{doing} failed, for the disk{where} is full: free some space{then}")
    if isinstance(error, OSError | RuntimeError) and folder is not None and not folder.is_dir():
        return RunFailed(f"{doing} failed, for the run's folder {folder} has been removed or moved during the run")
    return None


class _Keys(dict[str, str]):
    """The key of each callback by the name of its class; of one that is not given, the name."""

    def __missing__(self, name: str) -> str:
        return name


def _callbacks(settings: Mapping[str, Any], groups: Sequence[str]) -> dict[str, str]:
    keys = {component.made_by.__name__: component.key for component in components(settings)}
    return _Keys(keys | {f"_{i}": group for i, group in enumerate(groups)})


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(words in str(error) for words in FULL_IN_WORDS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
