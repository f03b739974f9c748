"""Delimited text (csv, tsv, Orange .tab): each line is checked before pandas reads the file with the same arguments."""

import csv
from dataclasses import dataclass
from typing import Any

from recipes.data.damage import DAMAGED, cannot_decode, first_line
from recipes.data.delimited_lines import Ambiguous, Counted, Malformed, Quotes, count, is_rfc4180, pandas_args
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
        args, counted = _choose_quoting(files, key, args) if choose else (args, _count_all(files, key, args))
        rows = counted.rows
        if counted.ends_with_cr:
            # Else pandas loses an empty cell at the beginning of a line.
            args = {**args, "lineterminator": "\r"}
    columns = _common_columns(files, key, args)
    checked = dict(args)
    if ending == ".tab" and "skiprows" not in load_args and _have_orange_headers(files, key, args):
        args["skiprows"] = [1, 2]
    if len(columns) == 1 and "skip_blank_lines" not in load_args:
        # A blank line is a row of a single column, unless it is above the header.
        blank = {**args, "skip_blank_lines": False}
        if all(_head(file, key, blank)[0] == columns for file in files):
            args = blank
    if rows is not None and args != checked:
        rows = _count_all(files, key, args).rows
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


def _head(file: str, key: str, args: dict[str, Any], rows: int = 0) -> tuple[list[str], list[list[str]]]:
    """The columns of a file, and its first rows."""
    import pandas

    try:
        head = pandas.read_csv(file, nrows=rows, dtype=str, **pandas_args(args))
    except UnicodeError as error:
        raise cannot_decode(key, file, error) from error
    except pandas.errors.EmptyDataError as error:
        raise RecipeError(f"{key}: '{file}' is empty: expected a line of column names, and rows below") from error
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


def _have_orange_headers(files: list[str], key: str, args: dict[str, Any]) -> bool:
    """Whether all files have Orange's two rows below the names; a :class:`RecipeError` if only some have."""
    found = {file: _has_orange_header(_head(file, key, args, 2)[1]) for file in files}
    if len(set(found.values())) > 1:
        with_them, without = (next(file for file, has in found.items() if has is wanted) for wanted in (True, False))
        raise RecipeError(
            f"{key}: '{with_them}' has Orange's two rows of types below the names and '{without}' has not: add them "
            "there, or give files of one kind"
        )
    return any(found.values())


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
    settings = pandas_args(args)
    return (
        not any(args.get(name) for name in CHECKED_ALONE)
        and isinstance(settings["sep"], str)
        and len(settings["sep"]) == 1
        and settings["quoting"] in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE)
        and settings["on_bad_lines"] == "error"
        and (settings["header"] in ("infer", None) or isinstance(settings["header"], int))
        and (settings["skiprows"] is None or isinstance(settings["skiprows"], int | list))
    )


def _choose_quoting(files: list[str], key: str, args: dict[str, Any]) -> tuple[dict[str, Any], Counted]:
    """Quotation marks that enclose cells, or plain characters if they cannot.

    Raises:
        RecipeError: They can be either, and the rows would differ.
    """
    plain = {**args, "quoting": csv.QUOTE_NONE}
    try:
        return args, _sum(files, key, args, quotes=Quotes.ENCLOSE)
    except Ambiguous as error:
        if all(is_rfc4180(file, args) for file in files):
            try:
                _sum(files, key, plain, quotes=Quotes.PLAIN)
            except Malformed:
                return args, _count_all(files, key, args)
            raise RecipeError(f"{key}: {error}") from None
    except Malformed:
        pass
    try:
        counted = _sum(files, key, plain)
    except Malformed:
        return args, _count_all(files, key, args)
    tell(
        f"{key} has quotation marks that do not enclose cells: they are read as plain characters, as with "
        "data.load_args {quoting: 3}"
    )
    return plain, counted


def _count_all(files: list[str], key: str, args: dict[str, Any]) -> Counted:
    try:
        return _sum(files, key, args)
    except Malformed as error:
        raise RecipeError(f"{key}: {error}") from None


def _sum(files: list[str], key: str, args: dict[str, Any], quotes: Quotes = Quotes.AS_GIVEN) -> Counted:
    counted = [count(file, key, args, quotes) for file in files]
    endings = [file.ends_with_cr for file in counted]
    if len(set(endings)) > 1:
        raise Malformed(
            f"the lines of '{files[endings.index(True)]}' end with carriage returns, and those of "
            f"'{files[endings.index(False)]}' do not: give files with the same line ends"
        )
    return Counted(sum(file.rows for file in counted), endings[0])
