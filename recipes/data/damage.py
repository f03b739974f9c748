"""Error messages for corrupted files and other encodings, and a check for JSON that would crash its parser."""

import codecs
import lzma
import os
import re
import zlib
from typing import IO

from recipes.messages import RecipeError

DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Exceptions from reading a truncated or corrupted file, compressed or not."""
MOST_NESTED = 512
"""Levels of JSON. At some tens of thousands, pyarrow's parser crashes the process without an exception."""

_JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_CHUNK = 1 << 24


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, or of the one that caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_decompressed(file: str) -> IO[bytes]:
    """Opens a local file, decompressed if its name says that it is compressed."""
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem().open(os.path.abspath(file), "rb", compression="infer")


def cannot_decode(key: str, file: str, error: UnicodeError) -> RecipeError:
    """The error for a file in another encoding, with the ``load_args`` that reads it."""
    encoding = "latin-1"
    try:
        with open(file, "rb") as opened:
            if opened.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                encoding = "utf-16"
    except OSError:
        pass
    named = getattr(error, "encoding", "utf-8")
    return RecipeError(
        f"{key}: '{file}' is not in the encoding {named} ({first_line(error)}): name its own, such as "
        f"data.load_args {{encoding: {encoding}}}"
    )


def check_json(file: str, key: str, encoding: str | None) -> None:
    """Rejects JSON that is nested deeper than :data:`MOST_NESTED`, or is not in UTF-8.

    Args:
        file: A local file, compressed or not.
        key: The configuration key of the file.
        encoding: The encoding that the user named; None for UTF-8, which pyarrow assumes.

    Raises:
        RecipeError: It is nested deeper, in another encoding, or corrupted.
    """
    try:
        with open_decompressed(file) as opened:
            if encoding is None:
                decoder = codecs.getincrementaldecoder("utf-8")()
                while chunk := opened.read(_CHUNK):
                    decoder.decode(chunk)
                decoder.decode(b"", final=True)
                opened.seek(0)
            if _may_be_deep(opened):
                opened.seek(0)
                _refuse_deep(opened.read(), key, file)
    except UnicodeError as error:
        raise cannot_decode(key, file, error) from error
    except DAMAGED as error:
        raise RecipeError(f"{key}: '{file}' cannot be loaded: {first_line(error)}") from error


def _refuse_deep(text: bytes, key: str, file: str) -> None:
    depth = deepest = 0
    for token in _JSON_TOKEN.finditer(text):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        deepest = max(deepest, depth)
    if deepest > MOST_NESTED:
        raise RecipeError(
            f"{key}: '{file}' is nested {deepest:,} levels deep, and {MOST_NESTED} are read: give rows of plain values"
        )


def _may_be_deep(opened: IO[bytes]) -> bool:
    """Counts all brackets, also those within texts: seconds for a gigabyte."""
    import numpy

    weight = numpy.zeros(256, dtype=numpy.int32)
    weight[list(b"[{")], weight[list(b"]}")] = 1, -1
    depth = lowest = 0
    while chunk := opened.read(_CHUNK):
        depths = depth + weight[numpy.frombuffer(chunk, dtype=numpy.uint8)].cumsum()
        lowest = min(lowest, int(depths.min()))
        if int(depths.max()) - lowest > MOST_NESTED:
            return True
        depth = int(depths[-1])
    return False
