"""From a YAML's data section to ``datasets`` splits: from the hub, csv, tab, json, parquet or text."""

import glob
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
ORANGE_TYPES = {"", "c", "continuous", "d", "discrete", "s", "string", "t", "time"}
PANDAS_ARGUMENTS = (
    "sep",
    "delimiter",
    "skiprows",
    "encoding",
    "quoting",
    "quotechar",
    "escapechar",
    "comment",
)


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
        source: Files (a name, a glob pattern, a URL or a list of them) where the name ends in a known suffix,
            else the name of a split of the dataset at ``path``, slices such as ``train[:10%]`` included.
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
            "name: give a file or set data.path to a dataset of the hub"
        )
    return _load_hub(source, key, path, name, load_args or {})


def check_columns(rows: "Dataset", columns: Mapping[str, str], key: str) -> None:
    """Refuses rows that lack a column.

    Args:
        rows: The rows.
        columns: Each column that is needed, and the configuration key that names it.
        key: The configuration key of the rows.

    Raises:
        RecipeError: A column is missing; names those there are.
    """
    for column, argument in columns.items():
        if column not in rows.column_names:
            near = get_close_matches(column, rows.column_names, 1)
            raise RecipeError(
                f"{argument} is '{column}', but {key} has no such column: it has {', '.join(rows.column_names)}"
                + (f"; did you mean '{near[0]}'?" if near else "")
            )


def check_text(rows: "Dataset", column: str, key: str) -> None:
    """Refuses a column that does not hold text.

    Args:
        rows: The rows.
        column: The column, which ``data.text`` names.
        key: The configuration key of the rows.

    Raises:
        RecipeError: It holds something else.
    """
    feature = rows.features[column]
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise RecipeError(f"data.text: column '{column}' of {key} holds {feature}, not text: name a column of texts")


def suffix(file: str) -> str:
    """The suffix that tells a file's format, in lower case (``.csv`` of ``a.CSV.gz``)."""
    path = Path(file.split("?", maxsplit=1)[0])
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
    reader = READERS[ending]
    if reader == "csv":
        load_args = _delimited_args(files, key, ending, load_args)
    return _load(key, f"'{files[0]}'", reader, data_files=files, split="train", **load_args)


def _existing(pattern: str, key: str) -> list[str]:
    if "://" in pattern:
        return [pattern]
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    if glob.has_magic(pattern) and (matches := sorted(glob.glob(pattern, recursive=True))):
        return matches
    raise RecipeError(f"{key}: there is no file '{pattern}' (looked from {os.getcwd()}): correct the path")


def _delimited_args(files: list[str], key: str, ending: str, load_args: dict[str, Any]) -> dict[str, Any]:
    """Arguments that read delimited text as it stands: strings all, ``NA`` a text and not a missing value."""
    import pandas
    from datasets import Features, Value

    args: dict[str, Any] = {
        "sep": SEPARATORS[ending],
        "encoding": "utf-8-sig",
        "keep_default_na": False,
        # Else pandas takes the first column for an index when rows have one field more than the header.
        "index_col": False,
        **load_args,
    }
    if "features" in args:
        return args
    pandas_args = {name: args[name] for name in PANDAS_ARGUMENTS if name in args}
    names = args.get("column_names") or args.get("names")
    if names:
        columns = list(names)
    else:
        try:
            head = pandas.read_csv(files[0], nrows=2, dtype=str, keep_default_na=False, index_col=False, **pandas_args)
        except (ValueError, OSError) as error:  # pandas' own errors and UnicodeDecodeError are ValueErrors
            raise RecipeError(f"{key}: '{files[0]}' cannot be read as a table: {_first_line(error)}") from error
        columns = [str(column) for column in head.columns]
        if ending == ".tab" and "skiprows" not in load_args and _has_orange_header(head.values.tolist()):
            args["skiprows"] = [1, 2]
    args["features"] = Features({column: Value("string") for column in columns})
    return args


def _has_orange_header(rows: list[list[str]]) -> bool:
    """Whether the two rows after the names are Orange's types (``string``) and flags (``class``)."""
    if len(rows) < 2:
        return False
    types, flags = rows
    known_flags = {"", "class", "c", "meta", "m", "ignore", "i", "skip", "weight", "w", "string", "basket"}
    return (
        all(cell in ORANGE_TYPES for cell in types)
        and any(types)
        and all(word in known_flags or "=" in word for cell in flags for word in (cell.split() or [""]))
    )


def _load_hub(split: str, key: str, path: str, name: str | None, load_args: dict[str, Any]) -> "Dataset":
    where = f"'{path}'" + (f" ({name})" if name else "")
    return _load(key, where, path, name, split=split, **load_args)


def _load(key: str, where: str, *args: Any, **kwargs: Any) -> "Dataset":
    import datasets
    import huggingface_hub
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    # The hub's client reports each of its five retries, and datasets what it raises: the sentences below say
    # it once.
    huggingface_hub.logging.set_verbosity_error()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        return datasets.load_dataset(*args, **kwargs)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise RecipeError(
            f"{key}: the dataset {where} is neither a local folder nor reachable on the Hugging Face hub: "
            f"check data.path, data.name and the network ({_first_line(error)})"
        ) from error
    except (DatasetsError, ValueError, TypeError, OSError) as error:
        if "corresponds to no data" in str(error):
            raise RecipeError(f"{key}: {where} has no rows: give a file or split that has") from error
        raise RecipeError(f"{key}: {where} cannot be loaded: {_first_line(error)}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
