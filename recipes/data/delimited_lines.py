"""The lines of delimited text: each is checked before pandas reads the file with the same arguments."""

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import IO, Any

from recipes.data.damage import DAMAGED, cannot_decode, first_line, open_decompressed


class Malformed(Exception):  # noqa: N818 - becomes a RecipeError, or another way to read the file
    """A line that does not match the table; the message is the end of a sentence that names key and file."""


class Ambiguous(Malformed):
    """A cell of several lines, each of which would also be a whole row."""


class Quotes(Enum):
    """What quotation marks must be.

    Attributes:
        AS_GIVEN: What the arguments say.
        ENCLOSE: They enclose whole cells, and no cell spans complete rows.
        PLAIN: They are plain characters, and every line has all columns.
    """

    AS_GIVEN = 0
    ENCLOSE = 1
    PLAIN = 2


@dataclass(frozen=True)
class Counted:
    """What the lines of a file are.

    Attributes:
        rows: Number of rows.
        ends_with_cr: Whether lines end with a carriage return alone, as on old Macs.
    """

    rows: int
    ends_with_cr: bool


def pandas_args(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments that ``datasets`` passes to ``pandas.read_csv``, without a limit of rows."""
    from datasets.packaged_modules.csv.csv import CsvConfig

    known = {field.name for field in fields(CsvConfig)}
    settings = CsvConfig(**{name: value for name, value in args.items() if name in known}).pd_read_csv_kwargs
    return {name: value for name, value in settings.items() if name not in ("chunksize", "nrows", "skipfooter")}


def count(file: str, key: str, args: dict[str, Any], quotes: Quotes = Quotes.AS_GIVEN) -> Counted:
    """Reads a file line by line, and counts its rows.

    Args:
        file: The file.
        key: The configuration key of the file.
        args: The arguments that pandas will read it with.
        quotes: What quotation marks must be.

    Raises:
        Malformed: A line does not match the table.
        RecipeError: The file cannot be decoded or decompressed.
    """
    settings = pandas_args(args)
    names = settings.get("names")
    header = (None if names else 0) if settings["header"] == "infer" else settings["header"]
    skip = settings["skiprows"] or 0
    width = len(names) if names else None
    rows, seen = 0, 0
    strict = quotes == Quotes.ENCLOSE
    ends = _LineEnds(file, settings)
    try:
        with _open(file, settings) as text:
            for number, record in enumerate(_records(text, file, settings, strict)):
                ends.check(record)
                if number < skip if isinstance(skip, int) else number in skip:
                    continue
                if record.is_blank and settings["skip_blank_lines"]:
                    continue
                seen += 1
                if header is not None and seen <= header + 1:
                    if seen == header + 1:
                        width = width or len(record.cells)
                        _refuse_duplicates(record, file, bool(names))
                        if quotes == Quotes.PLAIN and any(_is_enclosed(cell) for cell in record.cells):
                            raise Malformed(f"the header of '{file}' has quotation marks")
                    continue
                _check(record, file, width or len(record.cells), settings, quotes)
                width = width or len(record.cells)
                rows += 1
    except UnicodeError as error:
        raise cannot_decode(key, file, error) from error
    except (*DAMAGED, csv.Error) as error:
        raise Malformed(f"'{file}' cannot be read as a table: {first_line(error)}") from error
    return Counted(rows, bool(ends.style == "\r"))


@dataclass(frozen=True)
class _Record:
    cells: list[str]
    line: int
    lines: list[str]

    @property
    def end(self) -> str:
        """The character after which the next line begins."""
        return "\r" if self.lines[-1].endswith("\r") else "\n"

    @property
    def is_blank(self) -> bool:
        return len(self.lines) == 1 and not self.lines[0].strip(" \r\n\ufeff")


class _LineEnds:
    """Checks that a file has one kind of line ends: pandas ends a row at a carriage return wherever it is."""

    def __init__(self, file: str, settings: dict[str, Any]) -> None:
        self.file, self.blank_lines_are_rows = file, not settings["skip_blank_lines"]
        self.style: str | None = None
        self._before: _Record | None = None

    def check(self, record: _Record) -> None:
        """Checks the end of the record before this one; two carriage returns and a newline are one end."""
        if self._before is not None:
            doubled = self._before.end == "\r" and record.lines == ["\r\n"] and not self.blank_lines_are_rows
            end = "\n" if doubled else self._before.end
            self.style = self.style or end
            if end != self.style:
                raise Malformed(
                    f"line {self._before.line + len(self._before.lines) - 1} of '{self.file}' ends with "
                    f"{self._before.end!r}, and the lines before it with {self.style!r}: a carriage return within a "
                    "text would split it, so remove it, put the text in quotation marks, or set data.load_args "
                    '{lineterminator: "\\n"}'
                )
        self._before = record


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


def _check(record: _Record, file: str, width: int, settings: dict[str, Any], quotes: Quotes) -> None:
    sep = settings["sep"]
    if quotes == Quotes.PLAIN and len(record.cells) < width:
        raise Malformed(f"line {record.line} of '{file}' has {len(record.cells)} fields, but there are {width} columns")
    if len(record.lines) > 1 or (settings["quotechar"] and record.lines[0].count(settings["quotechar"]) % 2):
        _check_lines(record, file, width, settings, quotes == Quotes.ENCLOSE)
    # pandas drops empty cells after the last column; any other cell would be lost.
    if len(record.cells) > width and any(record.cells[width:]):
        has_marks = '"' in "".join(record.lines) and settings["quoting"] != csv.QUOTE_NONE
        raise Malformed(
            f"line {record.line} of '{file}' has {len(record.cells)} fields, but there are {width} columns: put a text "
            f"with {sep!r} in it in quotation marks"
            + (", or set data.load_args {quoting: 3} if quotation marks are plain characters" if has_marks else "")
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
        and closed
        and len(record.lines) > 1 < width
        and all(line.count(settings["sep"]) == width - 1 for line in record.lines)
    ):
        raise Ambiguous(
            f"the quotation marks in lines {record.line} to {record.line + len(record.lines) - 1} of '{file}' can "
            "enclose one cell or belong to the texts of several rows: set data.load_args {quoting: 0} if they enclose "
            "cells, or {quoting: 3} if they are plain characters"
        )
    if not closed:
        raise Malformed(_unclosed(record.line, file, len(record.lines)))


def _unclosed(line: int, file: str, lines: int) -> str:
    return (
        f"a quotation mark in line {line} of '{file}' is not closed, and would make one cell of {lines} lines: close "
        "it, or set data.load_args {quoting: 3} if quotation marks are plain characters"
    )


def is_rfc4180(file: str, args: dict[str, Any]) -> bool:
    """Whether each cell with a quotation mark is enclosed in them, and those within it are doubled."""
    settings = pandas_args(args)
    cell = rf'(?:"(?:[^"]|"")*"|[^"{re.escape(settings["sep"])}\r\n]*)'
    whole = re.compile(rf"\ufeff?{cell}(?:{re.escape(settings['sep'])}{cell})*[\r\n]*")
    with _open(file, settings) as text:
        return all(whole.fullmatch("".join(record.lines)) for record in _records(text, file, settings, False))


def _is_enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _refuse_duplicates(header: _Record, file: str, named: bool) -> None:
    names = [name.removeprefix("\ufeff") for name in header.cells]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice and not named:
        raise Malformed(f"'{file}' has {names.count(twice[0])} columns '{twice[0]}': rename all but one")


def _open(file: str, settings: dict[str, Any]) -> IO[str]:
    opened = open_decompressed(file)
    encoding, errors = settings["encoding"] or "utf-8-sig", settings["encoding_errors"] or "strict"
    return io.TextIOWrapper(opened, encoding=encoding, errors=errors, newline="")
