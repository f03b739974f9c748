"""Files and hub names become the same rows whatever their format, and what is wrong with them is said."""

from pathlib import Path

import pandas
import pytest
from datasets import ClassLabel, Dataset

from recipes.data.sources import load_split, suffix
from recipes.data.splitting import split_off
from recipes.messages import RecipeError

ROWS = pandas.DataFrame(
    {"title": ["one, two", 'a "quoted" word', "three\nlines", "NA"], "kind": ["x", "y", "x", "null"]}
)


def write(frame: pandas.DataFrame, file: Path) -> str:
    writers = {
        ".csv": lambda: frame.to_csv(file, index=False),
        ".tsv": lambda: frame.to_csv(file, index=False, sep="\t"),
        ".json": lambda: frame.to_json(file, orient="records"),
        ".jsonl": lambda: frame.to_json(file, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(file),
    }
    writers[suffix(file.name)]()
    return str(file)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "a.csv.gz", "A.CSV"])
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    dataset = load_split(write(ROWS, tmp_path / name), key="data.train")

    assert dataset.to_pandas().to_dict("list") == ROWS.to_dict("list")


def test_columns_of_numbers_in_a_csv_stay_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("zip,n\n01234,1.50\n99999,2\n", encoding="utf-8")

    assert load_split(str(tmp_path / "a.csv"), key="data.train")[0] == {"zip": "01234", "n": "1.50"}


def test_orange_types_and_flags_are_not_rows(tmp_path: Path) -> None:
    text = "Topic\tText\nd\tstring\nclass\tinclude=True\nwheat\tgrain rose\ncorn\tgrain fell\n"
    (tmp_path / "a.tab").write_text(text, encoding="utf-8")

    assert load_split(str(tmp_path / "a.tab"), key="data.train")["Topic"][:] == ["wheat", "corn"]


def test_a_tab_file_with_names_alone_keeps_all_its_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tab").write_text("Topic\tText\nwheat\tgrain rose\ncorn\tgrain fell\n", encoding="utf-8")

    assert len(load_split(str(tmp_path / "a.tab"), key="data.train")) == 2


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,kind\nx,y\n", encoding="utf-8-sig")

    assert load_split(str(tmp_path / "a.csv"), key="data.train").column_names == ["title", "kind"]


def test_load_args_reach_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title;kind\nx;y\n", encoding="utf-8")

    assert load_split(str(tmp_path / "a.csv"), key="data.train", load_args={"sep": ";"})[0] == {
        "title": "x",
        "kind": "y",
    }


def test_a_list_and_a_pattern_of_files_are_joined_in_order(tmp_path: Path) -> None:
    files = [write(ROWS.iloc[[row]], tmp_path / f"part{row}.csv") for row in range(3)]

    listed = load_split(files, key="data.train")
    globbed = load_split(str(tmp_path / "part*.csv"), key="data.train")

    assert listed["title"][:] == globbed["title"][:] == ROWS["title"][:3].tolist()


def test_a_split_of_a_dataset_folder_is_loaded_by_its_name(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "train.csv")
    write(ROWS[:2], tmp_path / "test.csv")

    assert len(load_split("test", key="data.test", path=str(tmp_path))) == 2
    assert len(load_split("train[:75%]", key="data.train", path=str(tmp_path))) == 3


MISTAKES: dict[str, tuple[dict, list[str]]] = {
    "missing file": ({"source": "no/such.csv"}, ["no/such.csv", "no file"]),
    "pattern without files": ({"source": "no/such*.csv"}, ["no/such*.csv", "no file"]),
    "empty list": ({"source": []}, ["empty list"]),
    "empty file": ({"source": "empty.csv"}, ["empty.csv", "is empty"]),
    "other encoding": ({"source": "latin.csv"}, ["latin.csv", "utf-8"]),
    "broken json": ({"source": "broken.json"}, ["broken.json", "cannot be loaded"]),
    "broken parquet": ({"source": "broken.parquet"}, ["broken.parquet", "cannot be loaded"]),
    "mixed formats": ({"source": ["folder/train.csv", "broken.json"]}, [".csv", ".json", "mixes"]),
    "split without path": ({"source": "train"}, ["'train'", "data.path"]),
    "unknown split": ({"source": "dev", "path": "folder"}, ["dev", "train"]),
    "unreachable hub": (
        {"source": "train", "path": "nyu-mll/glue", "name": "mrpc"},
        ["nyu-mll/glue", "network"],
    ),
    "unknown argument": ({"source": "folder/train.csv", "load_args": {"color": 1}}, ["color"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_a_sentence(
    arguments: dict, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").touch()
    Path("latin.csv").write_bytes("title,kind\ncaf\u00e9,x\n".encode("latin-1"))
    Path("broken.json").write_text("{", encoding="utf-8")
    Path("broken.parquet").write_text("PAR", encoding="utf-8")
    Path("folder").mkdir()
    write(ROWS, Path("folder/train.csv"))

    with pytest.raises(RecipeError) as raised:
        load_split(key="data.train", **arguments)

    message = str(raised.value)
    assert message.startswith("data.train")
    assert "\n" not in message
    assert all(word in message for word in words), message


def labeled(counts: dict[str, int]) -> Dataset:
    labels = [label for label, count in counts.items() for _ in range(count)]
    dataset = Dataset.from_dict({"row": list(range(len(labels))), "labels": labels})
    return dataset.cast_column("labels", ClassLabel(names=list(counts)))


def test_the_same_rows_are_split_off_for_the_same_seed_and_none_is_lost() -> None:
    dataset = labeled({"a": 50, "b": 50})

    rest, share = split_off(dataset, 0.2, key="data.validation", seed=1)
    again = split_off(dataset, 0.2, key="data.validation", seed=1)[1]
    other = split_off(dataset, 0.2, key="data.validation", seed=2)[1]

    assert share["row"][:] == again["row"][:] != other["row"][:]
    assert sorted(rest["row"][:] + share["row"][:]) == list(range(100))


def test_splitting_keeps_the_proportions_of_the_labels() -> None:
    _, share = split_off(labeled({"a": 180, "b": 20}), 0.1, key="data.validation", seed=0, stratify_by="labels")

    assert sorted(share["labels"][:]) == [0] * 18 + [1] * 2


def test_a_label_with_one_row_stays_in_the_rest() -> None:
    for seed in range(5):
        rest, share = split_off(
            labeled({"a": 20, "b": 20, "c": 1}), 0.5, key="data.test", seed=seed, stratify_by="labels"
        )

        assert 2 in rest["labels"][:]
        assert len(share) == 20


def test_a_share_smaller_than_the_number_of_labels_is_split_off_at_random() -> None:
    rest, share = split_off(labeled(dict.fromkeys("abcdef", 4)), 0.1, key="data.test", seed=0, stratify_by="labels")

    assert (len(rest), len(share)) == (22, 2)


@pytest.mark.parametrize("seed", range(5))
def test_each_label_keeps_a_row_in_the_rest_where_fewer_rows_than_labels_are_split_off(seed: int) -> None:
    rows = labeled(dict.fromkeys("abcdefgh", 1) | {"i": 3, "j": 3})
    rest, share = split_off(rows, 0.07, key="data.test", seed=seed, stratify_by="labels")

    assert len(share) == 1
    assert {*rest["labels"][:]} == set(range(10))


@pytest.mark.parametrize("seed", range(5))
def test_each_label_keeps_a_row_in_the_rest_where_most_rows_are_split_off(seed: int) -> None:
    rest, share = split_off(labeled({"a": 96, "b": 2, "c": 2}), 0.8, key="data.test", seed=seed, stratify_by="labels")

    assert len(share) == 80
    assert {*rest["labels"][:]} == {0, 1, 2}


def test_labels_that_lose_all_rows_to_another_split_are_counted(capsys: pytest.CaptureFixture) -> None:
    rest, _ = split_off(labeled(dict.fromkeys("abcdefgh", 1)), 0.25, key="data.test", seed=0, stratify_by="labels")

    assert len(rest) == 6
    assert "data.test: no row of 2 of the 8 labels is left to train on" in capsys.readouterr().err


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, 0.01])
def test_a_share_that_leaves_a_side_empty_is_refused(fraction: float) -> None:
    with pytest.raises(RecipeError, match=r"data\.validation is"):
        split_off(labeled({"a": 10, "b": 10}), fraction, key="data.validation", seed=0)
