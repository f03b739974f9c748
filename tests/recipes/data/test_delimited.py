"""No row of a delimited file is dropped, merged or invented, and what does not fit is told with its line."""

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.data.sources import check_columns, load_split
from recipes.messages import RecipeError

TABLE = "text,label\nthe film is good,pos\nthe film is bad,neg\n"


def rows_of(file: Path, content: str | bytes, load_args: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = load_split(str(file), key="data.train", load_args=load_args)
    return [tuple(row.values()) for row in rows]


def refusal(file: Path, content: str | bytes, load_args: dict[str, Any] | None = None) -> str:
    with pytest.raises(RecipeError) as raised:
        rows_of(file, content, load_args)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(("before", "line"), [("", 2), ("the film is good,pos\n", 3)], ids=["first", "second"])
def test_a_row_of_too_many_fields_is_reported_with_its_line(before: str, line: int, tmp_path: Path) -> None:
    content = f"text,label\n{before}the film is good, really,pos\nthe film is bad,neg\n"

    message = refusal(tmp_path / "a.csv", content)

    assert f"line {line} of" in message
    assert "3 fields" in message


@pytest.mark.parametrize(
    "load_args", [{"comment": "#"}, {"sep": r"\s*,\s*", "engine": "python"}], ids=["comments", "a pattern"]
)
def test_cells_are_not_lost_where_pandas_alone_reads_the_lines(load_args: dict[str, Any], tmp_path: Path) -> None:
    assert "loss of data" in refusal(tmp_path / "a.csv", "text,label\ngood, really,pos\nbad,neg\n", load_args)


def test_empty_cells_after_the_last_column_are_left_out(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.csv", "text,label\ngood,pos,\nbad,neg,\n") == [("good", "pos"), ("bad", "neg")]


@pytest.mark.parametrize(
    "lines",
    [
        ['"good\tpos', "bad\tneg"],
        ['"good\tpos', 'bad"\tneg', 'a 5" disk\tpos'],
        ['"good\tpos', '"bad\tneg', 'fine\t"pos'],
        ['a 5" disk\tpos', '"Good" film\tneg'],
    ],
    ids=["unclosed", "closed in a later row", "several", "within"],
)
def test_quotation_marks_that_enclose_no_cell_of_a_tsv_are_plain_characters(lines: list[str], tmp_path: Path) -> None:
    content = "\n".join(["text\tlabel", *lines]) + "\n"

    assert rows_of(tmp_path / "a.tsv", content) == [tuple(line.split("\t")) for line in lines]


def test_cells_of_a_tsv_that_are_enclosed_keep_their_tabs_and_lines(tmp_path: Path) -> None:
    content = 'text\tlabel\n"three\nlines"\tpos\n"a\ttab and ""marks"""\tneg\n'

    assert rows_of(tmp_path / "a.tsv", content) == [("three\nlines", "pos"), ('a\ttab and "marks"', "neg")]


@pytest.mark.parametrize("cell", ["a\ttab\nand a line", "\t\n", "a\rreturn", "\r\n\t\r"])
@pytest.mark.parametrize("sep", [",", "\t"])
def test_a_file_with_all_cells_enclosed_keeps_every_character(cell: str, sep: str, tmp_path: Path) -> None:
    rows = [(cell, "pos"), (f"{cell}{sep}{cell}", "neg")]
    content = written([("text", "label"), *rows], sep, "\n", csv.QUOTE_ALL)

    assert rows_of(tmp_path / ("a.csv" if sep == "," else "a.tsv"), content) == rows


@pytest.mark.parametrize(
    ("quoting", "rows"),
    [(0, [("good\tpos\nbad", "neg")]), (3, [('"good', "pos"), ('bad"', "neg")])],
    ids=["enclosing", "plain"],
)
def test_marks_that_enclose_a_cell_or_belong_to_two_rows_are_answered_with_both_arguments(
    quoting: int, rows: list[tuple[str, str]], tmp_path: Path
) -> None:
    content = 'text\tlabel\n"good\tpos\nbad"\tneg\n'

    message = refusal(tmp_path / "a.tsv", content)

    assert "the quotation marks in lines 2 to 3 of" in message
    assert f"{{quoting: {quoting}}}" in message
    assert rows_of(tmp_path / "a.tsv", content, {"quoting": quoting}) == rows


def test_a_row_of_three_fields_shows_that_marks_enclose_cells(tmp_path: Path) -> None:
    rows = [("good\tpos\nbad", "neg"), ("a\ttab", "pos")]

    assert rows_of(tmp_path / "a.tsv", written([("text", "label"), *rows], "\t", "\n")) == rows


@pytest.mark.parametrize("sep", [",", "\t"])
def test_a_carriage_return_within_a_row_is_answered_with_the_argument_that_keeps_it(sep: str, tmp_path: Path) -> None:
    file, content = tmp_path / ("a.csv" if sep == "," else "a.tsv"), f"text{sep}label\ngood\rfilm{sep}pos\n"

    message = refusal(file, content)

    assert "line 2 of" in message
    assert '{lineterminator: "\\n"}' in message
    assert rows_of(file, content, {"lineterminator": "\n"}) == [("good\rfilm", "pos")]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\r\r\n"])
def test_every_kind_of_line_ends_is_read(end: str, tmp_path: Path) -> None:
    content = end.join(["text,label", "good,pos", ",neg", "bad,neg", ""])

    assert [(text or "", label) for text, label in rows_of(tmp_path / "a.csv", content)] == [
        ("good", "pos"),
        ("", "neg"),
        ("bad", "neg"),
    ]


def test_files_with_different_line_ends_are_reported(tmp_path: Path) -> None:
    for number, end in enumerate("\n\r"):
        (tmp_path / f"{number}.csv").write_bytes(TABLE.replace("\n", end).encode())

    with pytest.raises(RecipeError, match=r"lines of '.*1\.csv' end with carriage returns, and those of '.*0\.csv' do"):
        load_split(str(tmp_path / "*.csv"), key="data.train")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"good,pos\nbad,neg\n'),
        ("a.csv", 'text,label\n"good,pos\nthe "bad,neg\n'),
        ("a.csv", 'text,label\n"good,pos'),
        ("a.tsv", 'text\tlabel\n"good\tpos\nbad\tneg\tmore\n'),
    ],
    ids=["to the end", "to a later row", "in the last line", "beside a row of too many fields"],
)
def test_an_unclosed_quotation_mark_is_reported_with_its_line_and_the_argument(
    name: str, content: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path / name, content)

    assert "quotation mark in line 2 of" in message
    assert "load_args {quoting: 3}" in message


def test_the_argument_that_an_unclosed_mark_is_answered_with_reads_the_file(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.csv", 'text,label\n"good,pos\n', {"quoting": 3}) == [('"good', "pos")]


@pytest.mark.parametrize(
    ("content", "load_args"),
    [
        (TABLE.replace(",", ";"), {"delimiter": ";"}),
        (TABLE.replace(",", ";"), {"sep": ";"}),
        ("a comment\n" + TABLE, {"header": 1}),
        ("a comment\n" + TABLE, {"skiprows": 1}),
        (TABLE.partition("\n")[2], {"names": ["text", "label"]}),
        (TABLE.partition("\n")[2], {"column_names": ["text", "label"]}),
        (TABLE.replace("text,", "comment,"), {"names": ["text", "label"], "header": 0}),
        ("id," + TABLE.replace("\n", "\n1,", 2), {"usecols": ["text", "label"]}),
        (TABLE.encode("utf-16"), {"encoding": "utf-16"}),
        (TABLE.replace("\n", "\r"), {}),
        (TABLE, {"engine": "python"}),
    ],
    ids=str,
)
def test_head_and_rows_are_read_with_the_same_arguments(
    content: str | bytes, load_args: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = load_split(str(tmp_path / "a.csv"), key="data.train", load_args=load_args)

    assert rows.to_dict() == {"text": ["the film is good", "the film is bad"], "label": ["pos", "neg"]}


@pytest.mark.parametrize("load_args", [{"encoding_errors": "replace"}, {"encoding": "latin-1"}], ids=str)
def test_another_encoding_is_read_with_the_arguments_for_it(load_args: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.csv", "text,label\ncaf\u00e9,pos\n".encode("latin-1"), load_args)

    assert rows in ([("caf\ufffd", "pos")], [("caf\u00e9", "pos")])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_a_file_in_another_encoding_is_answered_with_the_argument_that_reads_it(
    name: str, encoding: str, tmp_path: Path
) -> None:
    content = '{"text": "caf\u00e9"}\n'.encode(encoding)

    assert f"data.load_args {{encoding: {encoding}}}" in refusal(tmp_path / name, content)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("text;label\ngood;pos\n", '{sep: ";"}'),
        ("text\tlabel\ngood\tpos\n", '{sep: "\\t"}'),
        ("good,pos\nbad,neg\n", "{column_names: [...]}"),
        ("texts,label\ngood,pos\n", "did you mean 'texts'"),
    ],
)
def test_a_missing_column_is_answered_with_the_argument_that_finds_it(content: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content, encoding="utf-8")
    rows = load_split(str(file), key="data.train")

    with pytest.raises(RecipeError) as raised:
        check_columns(rows, {"text": "data.text"}, "data.train", str(file))

    assert hint in str(raised.value)


def test_rows_below_a_key_of_json_are_answered_with_the_argument_that_finds_them(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"data": [{"text": "good"}]}', encoding="utf-8")
    rows = load_split(str(file), key="data.train")

    with pytest.raises(RecipeError, match=r"set data\.load_args \{field: data\}"):
        check_columns(rows, {"text": "data.text"}, "data.train", str(file))


def test_an_empty_file_is_reported(tmp_path: Path) -> None:
    assert "a.csv' is empty: expected a line of column names" in refusal(tmp_path / "a.csv", "")


def test_a_percentage_is_answered_with_the_fraction() -> None:
    with pytest.raises(RecipeError, match=r"give a file, the fraction 0\.2 or"):
        load_split("20%", key="data.validation")


def test_duplicate_columns_are_refused(tmp_path: Path) -> None:
    assert "2 columns 'text'" in refusal(tmp_path / "a.csv", "text,label,text\ngood,pos,bad\n")


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.gz", "a.jsonl.gz", "a.txt.gz"])
def test_a_truncated_file_is_reported(name: str, tmp_path: Path) -> None:
    assert "ended before" in refusal(tmp_path / name, gzip.compress(os.urandom(4000).hex().encode())[:1000])


@pytest.mark.parametrize(
    "content",
    [b"text\ngood\n", b"text,label\ncaf\xe9,pos\n", b'text,label\n"good,pos\n', b"text,label\na,b,c\n"],
    ids=["a column less", "another encoding", "an unclosed mark", "too many fields"],
)
@pytest.mark.parametrize("bad", ["1.csv", "2.csv"])
def test_of_several_files_the_one_that_is_wrong_is_named(content: bytes, bad: str, tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_bytes(content if name == bad else TABLE.encode())

    with pytest.raises(RecipeError) as raised:
        load_split(str(tmp_path / "*.csv"), key="data.train")

    assert f"{bad}' has no column" in str(raised.value) or str(raised.value).count(".csv'") == 1
    assert bad in str(raised.value)


@pytest.mark.parametrize("first", ["orange", "plain"])
def test_tab_files_of_which_only_some_have_types_below_the_names_are_refused(first: str, tmp_path: Path) -> None:
    orange = "text\tlabel\nstring\tdiscrete\nmeta\tclass\ngood\tpos\n"
    contents = [orange, "text\tlabel\nbad\tneg\n"]
    for number, content in enumerate(contents if first == "orange" else contents[::-1]):
        (tmp_path / f"{number}.tab").write_text(content, encoding="utf-8")

    with pytest.raises(RecipeError, match=r"has Orange's two rows of types below the names and '.*' has not"):
        load_split(str(tmp_path / "*.tab"), key="data.train")


@pytest.mark.parametrize("content", [b'{"text":', b'{"text": "caf\xe9"}'], ids=["broken", "another encoding"])
def test_of_several_json_files_the_one_that_is_wrong_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"text": "good"}\n', encoding="utf-8")
    (tmp_path / "2.jsonl").write_bytes(content)

    with pytest.raises(RecipeError, match=r"2\.jsonl"):
        load_split(str(tmp_path / "*.jsonl"), key="data.train")


@pytest.mark.parametrize("name", ["train[1].csv", "train?.csv", "tr*.csv", "[ab].csv"])
def test_a_file_named_like_a_pattern_is_read_itself(name: str, tmp_path: Path) -> None:
    for other in ("train1.csv", "a.csv"):
        (tmp_path / other).write_text("text,label\nno,no\n", encoding="utf-8")

    assert rows_of(tmp_path / name, "text,label\nyes,yes\n") == [("yes", "yes")]


def test_a_blank_line_is_a_row_of_a_single_column(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.csv", "text\ngood\n\nbad\n") == [("good",), ("",), ("bad",)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_that_is_nested_too_deep_is_refused(name: str, tmp_path: Path) -> None:
    content = '{"text": "[[[", "deep": ' + "[" * 100_000 + "]" * 100_000 + "}\n"

    assert "100,001 levels" in refusal(tmp_path / name, content)


def test_brackets_in_texts_are_no_levels_of_json(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.jsonl", '{"text": "' + "[" * 1000 + '"}\n') == [("[" * 1000,)]


CELLS = st.text(st.sampled_from('ab ,\t"\n\r\u00e9;'), max_size=6)
TABLES = st.lists(st.tuples(CELLS, st.sampled_from(["pos", "neg", "NA", "1.0"])), min_size=1, max_size=6)
LINES = st.lists(st.text(st.sampled_from('ab,\t"\r'), min_size=1, max_size=8), min_size=1, max_size=6)
QUOTINGS = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL])
SEPARATORS, ENDS = st.sampled_from(",\t"), st.sampled_from(["\n", "\r\n"])


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def written(rows: list[tuple[str, str]], sep: str, end: str, quoting: Any = csv.QUOTE_MINIMAL) -> str:
    """A table as the csv module of Python writes it."""
    file = io.StringIO()
    csv.writer(file, delimiter=sep, lineterminator=end, quoting=quoting).writerows(rows)
    return file.getvalue()


def check_written_table(rows: list[tuple[str, str]], sep: str, end: str, quoting: Any, folder: Path) -> None:
    """A table with all texts enclosed is read as written; of another one, no row is read otherwise."""
    content = written([("text", "label"), *rows], sep, end, quoting)
    file = folder / ("a.csv" if sep == "," else "a.tsv")
    try:
        found = rows_of(file, content)
    except RecipeError:
        assert quoting == csv.QUOTE_MINIMAL
        assert any(sign in text for text, _ in rows for sign in "\t\r")
        return
    reference = csv.reader(io.StringIO(content, newline=""), delimiter=sep)
    assert [(text or "", label) for text, label in found] == [tuple(row) for row in reference if row][1:]


def check_any_lines(lines: list[str], sep: str, folder: Path) -> None:
    """Either the rows of the csv module, or of plain lines, or a sentence."""
    content = "\n".join([f"text{sep}label", *lines]) + "\n"
    readings = [
        [row for row in csv.reader(io.StringIO(content, newline=""), delimiter=sep, quoting=quoting) if row][1:]
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE)
    ]
    expected = [
        [tuple([*row, "", ""][:2]) for row in rows] for rows in readings if not any(any(row[2:]) for row in rows)
    ]
    file = folder / ("a.csv" if sep == "," else "a.tsv")
    try:
        rows = [(text or "", label or "") for text, label in rows_of(file, content)]
    except RecipeError:
        return
    assert rows in expected


@fuzz(8)
@given(rows=TABLES, sep=SEPARATORS, end=ENDS, quoting=QUOTINGS)
def test_whatever_the_csv_module_writes_is_read_as_it_reads_it(
    rows: list[tuple[str, str]], sep: str, end: str, quoting: Any, tmp_path: Path
) -> None:
    check_written_table(rows, sep, end, quoting, tmp_path)


@fuzz(8)
@given(lines=LINES, sep=SEPARATORS)
def test_any_lines_are_read_as_the_csv_module_does_or_refused(lines: list[str], sep: str, tmp_path: Path) -> None:
    check_any_lines(lines, sep, tmp_path)


@fuzz(8)
@given(rows=st.lists(st.fixed_dictionaries({"text": st.text(max_size=8)}), min_size=1, max_size=6))
def test_any_lines_of_json_are_read_as_the_json_module_does(rows: list[dict[str, str]], tmp_path: Path) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert rows_of(tmp_path / "a.jsonl", content) == [(row["text"],) for row in rows]


@pytest.mark.slow
@fuzz(300)
@given(rows=TABLES, sep=SEPARATORS, end=ENDS, quoting=QUOTINGS)
def test_many_written_tables_are_read_as_the_csv_module_does(
    rows: list[tuple[str, str]], sep: str, end: str, quoting: Any, tmp_path: Path
) -> None:
    check_written_table(rows, sep, end, quoting, tmp_path)


@pytest.mark.slow
@fuzz(300)
@given(lines=LINES, sep=SEPARATORS)
def test_many_lines_are_read_as_the_csv_module_does_or_refused(lines: list[str], sep: str, tmp_path: Path) -> None:
    check_any_lines(lines, sep, tmp_path)
