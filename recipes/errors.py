"""What a user can mend: raised anywhere in the recipes, printed as a sentence by :func:`recipes.cli.main`."""


class RecipeError(Exception):
    """A mistake in the configuration, the data or the environment that the user can mend.

    The message is one sentence that names the key or file, the value found there and what was expected.
    :func:`recipes.cli.main` prints it without a traceback and exits with status 2.
    """


class TrainingDiverged(Exception):  # noqa: N818 - an outcome of a training, not a mistake in its settings
    """The training loss became NaN or infinite; the run stops and keeps its last good checkpoint.

    :func:`recipes.cli.main` prints the message without a traceback and exits with status 1.
    """
