"""From a YAML's data section to ``datasets`` splits: from the hub, csv, tab, json, parquet or text."""

import glob
import json
import os
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.data.damage import DAMAGED, cannot_decode, check_json, first_line
from recipes.data.delimited import reading
from recipes.messages import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def load_split(
    source: str | list[str],
    *,
    key: str,
    path: str | None = None,
    name: str | None = None,
    load_args: dict[str, Any] | None = None,
) -> "Dataset":
    """Loads one split from files or from a dataset of the hub, through ``datasets`` and its cache.

    Args:
        source: Files (a name, a glob pattern, a URL or a list of them) if the name ends in a known suffix, else the
            name of a split of the dataset at ``path``, including slices such as ``train[:10%]``.
        key: The configuration key that ``source`` stands under, for error messages (``data.train``).
        path: A dataset's name on the hub or its folder.
        name: The configuration of the dataset at ``path`` (``mrpc`` of ``nyu-mll/glue``).
        load_args: More arguments for :func:`datasets.load_dataset`, such as ``{sep: ";"}`` or
            ``{revision: main}``.

    Returns:
        The split, memory-mapped. Columns of csv, tsv and tab files are strings, never guessed types.

    Raises:
        RecipeError: If a file is missing, empty or unreadable, or the hub or the split cannot be reached.
    """
    if isinstance(source, list) or suffix(source) in READERS:
        return _load_files(source, key, load_args or {})
    if path is None:
        endings = ", ".join(READERS)
        raise RecipeError(
            f"{key} is '{source}', which is neither a file ({endings}) nor, without data.path, a split's "
            f"name: give a file{_fraction(source)} or set data.path to a dataset of the hub"
        )
    return _load_hub(source, key, path, name, load_args or {})


def _fraction(source: str) -> str:
    """The fraction that a percentage stands for, for a message."""
    percent = source.removesuffix("%").strip()
    return f", the fraction {int(percent) / 100}" if source.endswith("%") and percent.isdecimal() else ""


def check_columns(rows: "Dataset", columns: Mapping[str, str], key: str, source: Any = None) -> None:
    """Raises an error for rows that lack a column.

    Args:
        rows: The rows.
        columns: Each column that is needed, and the configuration key that names it.
        key: The configuration key of the rows.
        source: What they were read from, to suggest ``load_args`` that read them.

    Raises:
        RecipeError: A column is missing; the message names the existing ones.
    """
    for column, argument in columns.items():
        if column not in rows.column_names:
            raise RecipeError(
                f"{argument} is '{column}', but {key} has no such column: it has {', '.join(rows.column_names)}"
                + _column_hint(column, rows.column_names, source)
            )


def _column_hint(column: str, names: list[str], source: Any) -> str:
    first = source[0] if isinstance(source, list) and source else source
    delimited = isinstance(first, str) and READERS.get(suffix(first)) == "csv"
    if delimited:
        for sep in (";", "\t", "|", ","):
            if any(column in (part.strip() for part in name.split(sep)) for name in names):
                return f"; set data.load_args {{sep: {json.dumps(sep)}}}, which seems to stand between its columns"
    near = get_close_matches(column, names, 1)
    if near:
        return f"; did you mean '{near[0]}'?"
    if isinstance(first, str) and READERS.get(suffix(first)) == "json" and len(names) == 1:
        return f"; if that key holds the rows, set data.load_args {{field: {names[0]}}}"
    return "; name the columns of a file without a header with data.load_args {column_names: [...]}" * delimited


def check_text(rows: "Dataset", column: str, key: str) -> None:
    """Raises an error for a column that does not hold text.

    Args:
        rows: The rows.
        column: The column, which ``data.text`` names.
        key: The configuration key of the rows.

    Raises:
        RecipeError: It holds something else.
    """
    feature = rows.features[column]
    if isinstance(feature, dict):
        raise RecipeError(
            f"data.text: column '{column}' of {key} holds objects with {len(feature)} keys, not text: name a column "
            "of texts; of a file that is one object with a key for each column, write each row as an object (pandas: "
            'to_json(orient="records", lines=True))'
        )
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise RecipeError(f"data.text: column '{column}' of {key} holds {feature}, not text: name a column of texts")


def suffix(file: str) -> str:
    """The suffix that determines a file's format, in lower case (``.csv`` of ``a.CSV.gz``)."""
    path = Path(file.split("?", maxsplit=1)[0] if "://" in file else file)
    return Path(path.stem if path.suffix.lower() in COMPRESSIONS else path.name).suffix.lower()


def _load_files(source: str | list[str], key: str, load_args: dict[str, Any]) -> "Dataset":
    patterns = [source] if isinstance(source, str) else source
    files = [file for pattern in patterns for file in _existing(pattern, key)]
    if not files:
        raise RecipeError(f"{key} is an empty list: give at least one file")
    endings = {suffix(file) for file in files}
    if len(endings) > 1 or not endings <= READERS.keys():
        raise RecipeError(
            f"{key} mixes or has unknown formats ({', '.join(sorted(endings))}): give files of one of "
            f"{', '.join(READERS)}"
        )
    ending = endings.pop()
    reader, expected = READERS[ending], None
    if reader == "csv":
        how = reading(files, key, ending, load_args)
        load_args, expected = how.args, how.rows
    elif reader == "json":
        for file in files:
            if "://" not in file:
                check_json(file, key, load_args.get("encoding"))
    on_lost_cells = "ignore" if expected is not None else "error"
    try:
        rows = _load_files_as(reader, files, key, load_args, on_lost_cells)
    except RecipeError:
        if len(files) > 1:
            _name_odd_file(reader, files, key, load_args)
        raise
    if expected is not None and len(rows) != expected:
        raise RecipeError(
            f"{key}: '{files[0]}' has {expected} rows by its lines, but pandas reads {len(rows)}: look for stray "
            "quotation marks or carriage returns"
        )
    return rows


def _load_files_as(reader: str, files: list[str], key: str, load_args: dict[str, Any], on_lost_cells: Any) -> "Dataset":
    # datasets treats names as glob patterns.
    names = [file if "://" in file else glob.escape(file) for file in files]
    with warnings.catch_warnings():
        # pandas only warns when it drops cells; if the lines were checked, those are empty.
        warnings.filterwarnings(on_lost_cells, message="Length of header or names does not match")
        return _load(key, f"'{files[0]}'", reader, data_files=names, split="train", **load_args)


def _name_odd_file(reader: str, files: list[str], key: str, load_args: dict[str, Any]) -> None:
    """Raises an error that names the file which cannot be read, or has other columns than the first one."""
    first: list[str] = []
    for file in files:
        columns = _load_files_as(reader, [file], key, load_args, "ignore").column_names
        first = first or columns
        if set(columns) != set(first):
            raise RecipeError(
                f"{key}: '{file}' has the columns {', '.join(columns)}, and '{files[0]}' has {', '.join(first)}: give "
                "files with the same columns"
            )


def _existing(pattern: str, key: str) -> list[str]:
    if "://" in pattern:
        return [pattern]
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    if glob.has_magic(pattern) and (matches := sorted(glob.glob(pattern, recursive=True))):
        return matches
    raise RecipeError(f"{key}: there is no file '{pattern}' (looked from {os.getcwd()}): correct the path")


def _load_hub(split: str, key: str, path: str, name: str | None, load_args: dict[str, Any]) -> "Dataset":
    where = f"'{path}'" + (f" ({name})" if name else "")
    return _load(key, where, path, name, split=split, **load_args)


def _load(key: str, where: str, *args: Any, **kwargs: Any) -> "Dataset":
    import datasets
    import huggingface_hub
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    # The hub's client logs each of its five retries, and datasets logs what it raises: the messages below say it
    # once.
    huggingface_hub.logging.set_verbosity_error()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        return datasets.load_dataset(*args, **kwargs)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise RecipeError(
            f"{key}: the dataset {where} is neither a local folder nor reachable on the Hugging Face hub: "
            f"check data.path, data.name and the network ({first_line(error)})"
        ) from error
    except (DatasetsError, ValueError, TypeError, KeyError, Warning, *DAMAGED) as error:
        if "corresponds to no data" in str(error):
            raise RecipeError(f"{key}: {where} has no rows: give a file or split that has") from error
        cause = _undecoded(error)
        if cause is not None:
            raise cannot_decode(key, where.strip("'"), cause) from error
        raise RecipeError(f"{key}: {where} cannot be loaded: {first_line(error)}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)


def _undecoded(error: BaseException | None) -> UnicodeError | None:
    while error is not None and not isinstance(error, UnicodeError):
        error = error.__cause__
    return error
