"""Memory sizes are parsed and formatted."""

import pytest

from recipes.estimate.memory_size import parse_size, shown_size
from recipes.messages import RecipeError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24 gb", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("22.5gib", round(22.5 * 2**30)),
        ("16000MB", 16 * 10**9),
        ("512MiB", 2**29),
        (".5GB", 5 * 10**8),
        (" 1000 kB ", 10**6),
    ],
)
def test_a_size_is_parsed(text: str, size: int) -> None:
    assert parse_size(text, "--gpu-memory") == size


@pytest.mark.parametrize("text", ["", "24", "GB", "24G", "-1GB", "0GB", "24GB!", "nanGB", "infGB", "24 giga bytes"])
def test_an_invalid_size_is_an_error_that_names_the_option(text: str) -> None:
    with pytest.raises(RecipeError, match=r"^--gpu-memory .*expected a number and a unit, such as 24GB"):
        parse_size(text, "--gpu-memory")


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (2**20, "1.00 MB"),
        (526_264_752, "502 MB"),
        (714_432, "0.68 MB"),
        (9 * 2**30, "9,216 MB"),
        (24 * 10**9, "22.4 GB"),
        (-(2**28), "-256 MB"),
    ],
)
def test_a_size_is_shown_in_binary_units(size: int, shown: str) -> None:
    assert shown_size(size) == shown
