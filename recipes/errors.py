"""What a user can mend: raised anywhere in the recipes, printed as a sentence, exit code 2."""


class RecipeError(Exception):
    """A mistake in the configuration, the data or the environment that the user can mend.

    The message is one sentence that names the key or file, the value found there and what was expected.
    :func:`recipes.cli.main` prints it without a traceback and exits with status 2.
    """
