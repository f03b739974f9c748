"""Messages for users: mistakes and outcomes as exceptions, and notes on standard error."""

import sys


class RecipeError(Exception):
    """A mistake in the configuration, the data or the environment that the user can fix.

    The message is one sentence that names the key or file, the value found there and what was expected.
    :func:`recipes.cli.main.main` prints it without a traceback and exits with status 2.
    """


class TrainingDiverged(Exception):  # noqa: N818 - an outcome of a training, not a mistake in its settings
    """The training loss became NaN or infinite; the run stops and keeps its last good checkpoint.

    :func:`recipes.cli.main.main` prints the message without a traceback and exits with status 1.
    """


class TrainingHopeless(Exception):  # noqa: N818 - an outcome, too
    """A training is far behind another one of the same sweep, and is stopped to save time.

    :func:`recipes.cli.main.main` prints the message without a traceback and exits with status 1.
    """


class RunFailed(Exception):  # noqa: N818 - the end of a command, not a mistake of its own
    """An unexpected error, in a sentence; its ``__cause__`` is the error itself.

    :func:`recipes.cli.main.main` prints the message, without a traceback unless it is a bug of this project.

    Args:
        message: What was done, the key that led there, and the library's message.
        status: The exit status: 1, or 2 where the user can fix it.
        is_bug: Whether it is a bug of this project.
    """

    def __init__(self, message: str, status: int = 1, is_bug: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.is_bug = is_bug


def tell(message: str) -> None:
    """Prints ``note: message`` on standard error, from the first process only."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # takes seconds: imported only if there is a note

    if getattr(rank_zero_only, "rank", 0) == 0:
        print(f"note: {message}", file=sys.stderr)
