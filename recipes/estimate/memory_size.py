"""Amounts of memory as people write them: ``24GB``, ``80 GiB``, ``16000MB``."""

import re

from recipes.messages import RecipeError

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def parse_size(text: str, option: str) -> int:
    """Reads an amount of memory.

    Args:
        text: A number and a unit: B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024), in any case.
        option: What it was given for, for error messages.

    Returns:
        Bytes.

    Raises:
        RecipeError: It is no such amount, or not above 0.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]+)\s*", text)
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise RecipeError(
            f"{option} {text}: expected a number and a unit, such as 24GB or 24000MB (powers of 1000) or 22.5GiB (of "
            "1024)"
        )
    return round(float(match[1]) * unit)


def shown_size(size: float) -> str:
    """An amount in MB (MiB, as all figures of the recipes), or in GB (GiB) from 10 of them on."""
    if abs(size) >= 10 * 2**30:
        return f"{size / 2**30:,.1f} GB"
    return f"{size / 2**20:,.0f} MB" if abs(size) >= 100 * 2**20 else f"{size / 2**20:,.2f} MB"
