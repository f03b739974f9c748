"""Delimited text (csv, tsv, Orange .tab): each line is checked before pandas reads the file with the same arguments."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import IO, Any

from recipes.data.damage import DAMAGED, cannot_decode, first_line, open_decompressed
from recipes.messages import RecipeError, tell

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
ORANGE_TYPES = {"", "c", "continuous", "d", "discrete", "s", "string", "t", "time"}
ORANGE_FLAGS = {"", "class", "c", "meta", "m", "ignore", "i", "skip", "weight", "w", "string", "basket"}
CHECKED_ALONE = ("comment", "converters", "dialect", "engine", "lineterminator", "nrows", "skipfooter")
"""Arguments of pandas with which lines are not the rows of the table: only pandas checks such files."""


@dataclass(frozen=True)
class Reading:
    """How the rows of delimited files are read.

    Attributes:
        args: Arguments of ``load_dataset("csv", ...)``.
        rows: Number of rows in the files, to compare with what was read; None if unknown.
    """

    args: dict[str, Any]
    rows: int | None


class Malformed(Exception):  # noqa: N818 - becomes a RecipeError, or another way to read the file
    """A line that does not match the table; the message is the end of a sentence that names key and file."""


def reading(files: list[str], key: str, ending: str, load_args: dict[str, Any]) -> Reading:
    """Chooses how files are read verbatim: all columns as strings, ``NA`` as text and not as a missing value.

    Quotation marks in .tsv and .tab files are plain characters if they do not enclose whole cells.

    Args:
        files: The files, local ones or URLs.
        key: The configuration key of the files, for error messages.
        ending: The suffix of their names.
        load_args: Arguments that the user gave.

    Raises:
        RecipeError: A file cannot be read, has a line that does not match its header, or lacks a column of the others.
    """
    from datasets import Features, Value

    args = _with_defaults(ending, load_args)
    if "features" in args:
        return Reading(args, None)
    local = not any("://" in file for file in files)
    rows = None
    if local and _is_plain(args):
        choose = ending != ".csv" and not {"quoting", "quotechar", "escapechar"} & load_args.keys()
        args, rows = _choose_quoting(files, key, args) if choose else (args, _count_all(files, key, args))
    columns = _common_columns(files, key, args)
    counted = dict(args)
    if ending == ".tab" and "skiprows" not in load_args and _has_orange_header(_head(files[0], key, args, 2)[1]):
        args["skiprows"] = [1, 2]
    if len(columns) == 1 and "skip_blank_lines" not in load_args:
        # A blank line is a row of a single column, unless it is above the header.
        blank = {**args, "skip_blank_lines": False}
        if all(_head(file, key, blank)[0] == columns for file in files):
            args = blank
    if rows is not None and args != counted:
        rows = _count_all(files, key, args)
    args["features"] = Features({column: Value("string") for column in columns})
    return Reading(args, rows)


def _with_defaults(ending: str, load_args: dict[str, Any]) -> dict[str, Any]:
    args: dict[str, Any] = {
        "sep": SEPARATORS[ending],
        "encoding": "utf-8-sig",
        "keep_default_na": False,
        # Else pandas makes the first column an index if rows have one field more than the header.
        "index_col": False,
        **load_args,
    }
    for alias, name in (("delimiter", "sep"), ("column_names", "names")):
        value = args.pop(alias, None)
        if value is not None:
            args[name] = value
    return args


def _pandas_args(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments that ``datasets`` passes to ``pandas.read_csv``, without a limit of rows."""
    from datasets.packaged_modules.csv.csv import CsvConfig

    known = {field.name for field in fields(CsvConfig)}
    settings = CsvConfig(**{name: value for name, value in args.items() if name in known}).pd_read_csv_kwargs
    return {name: value for name, value in settings.items() if name not in ("chunksize", "nrows", "skipfooter")}


def _head(file: str, key: str, args: dict[str, Any], rows: int = 0) -> tuple[list[str], list[list[str]]]:
    """The columns of a file, and its first rows."""
    import pandas

    try:
        head = pandas.read_csv(file, nrows=rows, dtype=str, **_pandas_args(args))
    except UnicodeError as error:
        raise cannot_decode(key, file, error) from error
    except (*DAMAGED, ValueError, TypeError) as error:  # pandas' own errors are ValueErrors
        raise RecipeError(f"{key}: '{file}' cannot be read as a table: {first_line(error)}") from error
    return [str(column) for column in head.columns], head.values.tolist()


def _common_columns(files: list[str], key: str, args: dict[str, Any]) -> list[str]:
    columns = {file: _head(file, key, args)[0] for file in files}
    together = list(dict.fromkeys(column for names in columns.values() for column in names))
    for file, names in columns.items():
        missing = [column for column in together if column not in names]
        if missing:
            other = next(name for name, found in columns.items() if missing[0] in found)
            raise RecipeError(
                f"{key}: '{file}' has no column '{missing[0]}', which '{other}' has: give files with the same columns, "
                "or name those to read with data.load_args {usecols: [...]}"
            )
    return columns[files[0]]


def _has_orange_header(rows: list[list[str]]) -> bool:
    """Whether the two rows after the names are Orange's types (``string``) and flags (``class``)."""
    if len(rows) < 2:
        return False
    types, flags = ([cell if isinstance(cell, str) else "" for cell in row] for row in rows)
    return (
        all(cell in ORANGE_TYPES for cell in types)
        and any(types)
        and all(word in ORANGE_FLAGS or "=" in word for cell in flags for word in (cell.split() or [""]))
    )


def _is_plain(args: dict[str, Any]) -> bool:
    """Whether the csv module splits files as pandas does with these arguments."""
    settings = _pandas_args(args)
    return (
        not any(args.get(name) for name in CHECKED_ALONE)
        and isinstance(settings["sep"], str)
        and len(settings["sep"]) == 1
        and settings["quoting"] in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE)
        and settings["on_bad_lines"] == "error"
        and (settings["header"] in ("infer", None) or isinstance(settings["header"], int))
        and (settings["skiprows"] is None or isinstance(settings["skiprows"], int | list))
    )


def _choose_quoting(files: list[str], key: str, args: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Quotation marks that enclose cells, or plain characters if they cannot."""
    plain = {**args, "quoting": csv.QUOTE_NONE}
    try:
        return args, sum(_count(file, key, args, strict=True) for file in files)
    except Malformed:
        try:
            rows = sum(_count(file, key, plain) for file in files)
        except Malformed:
            return args, _count_all(files, key, args)
    tell(
        f"{key} has quotation marks that do not enclose cells: they are read as plain characters, as with "
        "data.load_args {quoting: 3}"
    )
    return plain, rows


def _count_all(files: list[str], key: str, args: dict[str, Any]) -> int:
    rows = 0
    for file in files:
        try:
            rows += _count(file, key, args)
        except Malformed as error:
            raise RecipeError(f"{key}: {error}") from None
    return rows


def _count(file: str, key: str, args: dict[str, Any], strict: bool = False) -> int:
    """Reads a file line by line, and counts its rows.

    Args:
        file: The file.
        key: The configuration key of the file.
        args: The arguments that pandas will read it with.
        strict: Whether quotation marks must enclose whole cells, and cells may not span complete lines.

    Raises:
        Malformed: A line does not match the table.
        RecipeError: The file cannot be decoded or decompressed.
    """
    settings = _pandas_args(args)
    names = settings.get("names")
    header = (None if names else 0) if settings["header"] == "infer" else settings["header"]
    skip = settings["skiprows"] or 0
    width = len(names) if names else None
    rows, seen = 0, 0
    try:
        with _open(file, settings) as text:
            for number, record in enumerate(_records(text, file, settings, strict)):
                if number < skip if isinstance(skip, int) else number in skip:
                    continue
                if record.is_blank and settings["skip_blank_lines"]:
                    continue
                seen += 1
                if header is not None and seen <= header + 1:
                    if seen == header + 1:
                        width = width or len(record.cells)
                        _refuse_duplicates(record, file, bool(names))
                    continue
                _check(record, file, width or len(record.cells), settings, strict)
                width = width or len(record.cells)
                rows += 1
    except UnicodeError as error:
        raise cannot_decode(key, file, error) from error
    except (*DAMAGED, csv.Error) as error:
        raise Malformed(f"'{file}' cannot be read as a table: {first_line(error)}") from error
    return rows


@dataclass(frozen=True)
class _Record:
    cells: list[str]
    line: int
    lines: list[str]

    @property
    def is_blank(self) -> bool:
        return len(self.lines) == 1 and not self.lines[0].strip(" \r\n\ufeff")


def _records(text: Iterable[str], file: str, settings: dict[str, Any], strict: bool) -> Iterator[_Record]:
    lines: list[str] = []

    def remembered() -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    reader = csv.reader(remembered(), **_csv_format(settings), strict=strict)
    start = 1
    limit = csv.field_size_limit(sys.maxsize)
    try:
        for cells in reader:
            yield _Record(cells, start, list(lines))
            start += len(lines)
            lines.clear()
    except csv.Error as error:
        raise Malformed(_unclosed(start, file, len(lines))) from error
    finally:
        csv.field_size_limit(limit)


def _csv_format(settings: dict[str, Any]) -> dict[str, Any]:
    names = ("quotechar", "escapechar", "doublequote", "skipinitialspace")
    quoting = csv.QUOTE_NONE if settings["quoting"] == csv.QUOTE_NONE else csv.QUOTE_MINIMAL
    return {"delimiter": settings["sep"], "quoting": quoting, **{name: settings[name] for name in names}}


def _check(record: _Record, file: str, width: int, settings: dict[str, Any], strict: bool) -> None:
    sep = settings["sep"]
    if len(record.lines) > 1 or (settings["quotechar"] and record.lines[0].count(settings["quotechar"]) % 2):
        _check_lines(record, file, width, settings, strict)
    # pandas drops empty cells after the last column; any other cell would be lost.
    if len(record.cells) > width and any(record.cells[width:]):
        quotes = '"' in "".join(record.lines) and settings["quoting"] != csv.QUOTE_NONE
        raise Malformed(
            f"line {record.line} of '{file}' has {len(record.cells)} fields, but there are {width} columns: put a text "
            f"with {sep!r} in it in quotation marks"
            + (", or set data.load_args {quoting: 3} if quotation marks are plain characters" if quotes else "")
        )


def _check_lines(record: _Record, file: str, width: int, settings: dict[str, Any], strict: bool) -> None:
    """Checks that a cell of several lines is enclosed in quotation marks, and not opened by a stray one."""
    closed = True
    try:
        list(csv.reader(record.lines, **_csv_format(settings), strict=True))
    except csv.Error as error:
        # pandas also reads text after a closing mark, such as "so" good, as part of the cell.
        closed = len(record.lines) == 1 and "unexpected end" not in str(error)
    if (
        strict
        and len(record.lines) > 1 < width
        and all(line.count(settings["sep"]) == width - 1 for line in record.lines)
    ):
        closed = False
    if not closed:
        raise Malformed(_unclosed(record.line, file, len(record.lines)))


def _unclosed(line: int, file: str, lines: int) -> str:
    return (
        f"a quotation mark in line {line} of '{file}' is not closed, and would make one cell of {lines} lines: close "
        "it, or set data.load_args {quoting: 3} if quotation marks are plain characters"
    )


def _refuse_duplicates(header: _Record, file: str, named: bool) -> None:
    names = [name.removeprefix("\ufeff") for name in header.cells]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice and not named:
        raise Malformed(f"'{file}' has {names.count(twice[0])} columns '{twice[0]}': rename all but one")


def _open(file: str, settings: dict[str, Any]) -> IO[str]:
    opened = open_decompressed(file)
    encoding, errors = settings["encoding"] or "utf-8-sig", settings["encoding_errors"] or "strict"
    return io.TextIOWrapper(opened, encoding=encoding, errors=errors, newline="")
