"""Finding and reading YAML files."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from recipes.cli import config_files
from recipes.cli.config_files import find_config, key_name, load_config, parse_config, read_config
from recipes.messages import RecipeError


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``configs/`` beside it, in which there are two files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_files, "CONFIGS", tmp_path / "shipped")
    (tmp_path / "shipped/optimizer").mkdir(parents=True)
    (tmp_path / "shipped/cls.yaml").touch()
    (tmp_path / "shipped/optimizer/adamw.yaml").touch()
    return tmp_path


def test_the_working_folder_comes_first(folders: Path) -> None:
    assert find_config("cls.yaml") == folders / "shipped/cls.yaml"
    Path("cls.yaml").touch()
    assert find_config("cls.yaml") == Path("cls.yaml")


def test_a_name_with_a_folder_is_looked_for_in_both_places_too(folders: Path) -> None:
    assert find_config("optimizer/adamw.yaml") == folders / "shipped/optimizer/adamw.yaml"


def test_an_absolute_path_is_taken_as_it_is(folders: Path) -> None:
    with pytest.raises(RecipeError, match="no such file in"):
        find_config(str(folders / "cls.yaml"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("csl.yaml", "cls.yaml"), ("cls", "cls.yaml"), ("cls.yml", "cls.yaml"), ("adamw.yaml", "optimizer/adamw.yaml")],
)
def test_a_missing_file_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=rf"--config {name}: no such file in .*; did you mean {meant}\?"):
        find_config(name)


def test_where_nothing_is_near_all_shipped_files_are_named() -> None:
    with pytest.raises(RecipeError, match=r"there are cls\.yaml, optimizer/adamw\.yaml"):
        find_config("xyzzy.yaml")


def test_the_line_of_every_key_is_known() -> None:
    path = Path("a.yaml")
    path.write_text("a:\n  b: 1\n\n  c:\n  - d: 2\n  - e\n", encoding="utf-8")
    config = read_config(path)
    assert config.settings == {"a": {"b": 1, "c": [{"d": 2}, "e"]}}
    assert config.lines == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 0, "d"): 5,
        ("a", "c", 1): 6,
    }


def test_a_block_may_be_merged_into_several_others() -> None:
    path = Path("a.yaml")
    path.write_text("a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\nc:\n  <<: *a\n", encoding="utf-8")
    assert read_config(path).settings == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}


def test_keys_that_begin_with_x_hold_anchors_and_are_no_settings() -> None:
    text = "x-common: &c {y: '1e-3', z: 1e-3}\n'x-list': [1, &word w]\na:\n  <<: *c\n  x-b: *word\n"
    Path("a.yaml").write_text(text, encoding="utf-8")
    config = read_config(Path("a.yaml"))
    assert config.settings == {"a": {"y": "1e-3", "z": "1e-3", "x-b": "w"}}
    assert config.lines[("a", "x-b")] == 5
    assert yaml.safe_load(config.text) == config.settings
    assert "y: '1e-3'" in config.text
    assert "z: 1e-3" in config.text


def test_keys_are_written_in_dotted_form() -> None:
    assert key_name(("trainer", "callbacks", 0, "class_path")) == "trainer.callbacks[0].class_path"


def test_the_text_is_kept_without_a_byte_order_mark() -> None:
    Path("a.yaml").write_text("\ufeffa: 1\n", encoding="utf-8")
    config = load_config("a.yaml")
    assert (config.path, config.text, config.settings) == (Path("a.yaml"), "a: 1\n", {"a": 1})


MULTIPLIED = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise("abcdef")
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a: 1\nb: [", "x, line 2 is not valid YAML: "),
        ("a: \x00", "x is not valid YAML: unacceptable character"),
        ("a: 2020-99-99", "x is not valid YAML: month must be in 1..12"),
        ("a: 1\nb:\n  c: 1\n  c: 2", r"x, line 4: key 'b\.c' was given on line 3 too; keep one"),
        ("a: " + "[" * 5000, "x is nested too deeply"),
        (MULTIPLIED, "x has more than 100000 keys and list items, with anchors expanded"),
    ],
    ids=["a bracket left open", "a control character", "no date", "a key twice", "too deep", "too large"],
)
def test_yaml_that_cannot_be_used_is_refused(text: str, answer: str) -> None:
    with pytest.raises(RecipeError, match=answer):
        parse_config(text, "x")
