"""Memory sizes, parsed (``24GB``, ``80 GiB``, ``16000MB``) and formatted."""

from recipes.messages import RecipeError


def parse_size(text: str, option: str) -> int:
    """Parses a memory size.

    Args:
        text: A number and a unit: kB, MB, GB (powers of 1000) or KiB, MiB, GiB (of 1024), in upper or lower case.
        option: The option that it was given to, for error messages.

    Returns:
        Bytes.

    Raises:
        RecipeError: It is not a size, or less than a byte.
    """
    from accelerate.utils import convert_file_size_to_int  # loads torch

    try:
        size = convert_file_size_to_int(text.strip().upper())  # it takes a lower-case b for bits
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise RecipeError(
            f"{option} {text}: expected a number and a unit, such as 24GB or 24000MB (powers of 1000) or 22.5GiB (of "
            "1024)"
        )
    return size


def shown_size(size: float) -> str:
    """A size in MB (2**20 bytes, as in all figures of the recipes), or in GB (2**30 bytes) from 10 GB on."""
    if abs(size) >= 10 * 2**30:
        return f"{size / 2**30:,.1f} GB"
    return f"{size / 2**20:,.0f} MB" if abs(size) >= 100 * 2**20 else f"{size / 2**20:,.2f} MB"
