"""The command line is read once and in one way; so is each configuration file."""

import sys
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from recipes.cli import command_line
from recipes.cli.command_line import NEGATIVE_NUMBER, CommandLine, is_option
from recipes.cli.config_files import CONFIGS, ConfigFile
from recipes.cli.given import MISSING
from recipes.cli.main import main
from recipes.cli.parser import words_for
from recipes.compare import plan, writing
from recipes.messages import RecipeError
from tests.recipes import fake_fit


def read(*words: str) -> list[tuple[str, str | None]]:
    """The options in a command line, with their values."""
    return [(option.name, option.value) for option in CommandLine.parse(words).options]


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)


# Which word is what


def test_a_value_follows_its_option_or_an_equals_sign() -> None:
    assert read("--a", "1", "--b=2", "--c", "--e=f=g", "--f=") == [
        ("--a", "1"),
        ("--b", "2"),
        ("--c", None),
        ("--e", "f=g"),
        ("--f", ""),
    ]


@pytest.mark.parametrize("value", ["-1", "-1.5", "-.5", "-1e-3", "-5.", "-inf", "-.inf", "-", "", "-a b", "[-1, 2]"])
def test_a_negative_number_is_a_value(value: str) -> None:
    assert read("--a", value, "--b", "x") == [("--a", value), ("--b", "x")]


@pytest.mark.parametrize("word", ["--b", "-b", "--no_b", "--b=x y", "--a.b+", "-1b", "--"])
def test_another_word_that_begins_with_a_dash_is_an_option(word: str) -> None:
    assert is_option(word)


@pytest.mark.parametrize("words", [["-c", "{a: 1}"], ["-c{a: 1}"], ["-c={a: 1}"], ["--config", "{a: 1}"]])
def test_config_has_a_short_form(words: list[str]) -> None:
    assert read(*words) == [("--config", "{a: 1}")]


@pytest.mark.parametrize("option", ["--help", "-h", "--print_config", "--print_config=skip_default"])
def test_options_without_a_value_take_no_word(option: str) -> None:
    assert [name for name, _ in read(option, "--a", "1")] == [option.partition("=")[0], "--a"]


@pytest.mark.parametrize("words", [["a"], ["--a", "1", "2"], ["--print_config", "a"], ["--a", "1", "--"]])
def test_a_word_without_an_option_is_refused(words: list[str]) -> None:
    with pytest.raises(RecipeError, match=f"'{words[-1]}' belongs to no option"):
        CommandLine.parse(words)


KNOWN = ("--text", "--group.text", "--group.number", "--group.yes", "--list", "--list+", "--config", "-c")
DASHES = st.from_regex(r"-{0,2}[a-c0-9.e=\[\] -]{0,6}", fullmatch=True)
VALUES = DASHES | st.sampled_from(["1", "-1", "-1.5", "-1e-3", "true", "null", "a b", "-a b", "[a, b]", "{a: 1}", ""])
WORDS = st.lists(
    st.tuples(st.sampled_from(KNOWN), VALUES).map(list)
    | st.tuples(st.sampled_from(KNOWN), VALUES).map(lambda pair: ["=".join(pair)])
    | st.sampled_from([*KNOWN, "--no_group.yes", "--other"]).map(lambda word: [word])
    | VALUES.map(lambda word: [word]),
    max_size=4,
).map(lambda parts: [word for part in parts for word in part])


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, print_config=None)
    parser.add_argument("-c", "--config", type=str)
    for name, kind in (("text", str), ("group.text", str), ("group.number", float | None), ("group.yes", bool)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--list", type=list[str] | str)
    return parser


PARSER = parser()


def parsed(words: list[str]) -> Any:
    """What jsonargparse makes of a command line; None if it refuses it."""
    try:
        return PARSER.parse_args(words).as_dict()
    except ArgumentError:
        return None


def our_words(words: list[str]) -> list[str] | None:
    """A command line as it is handed to jsonargparse; None if it is refused before. Files are not looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "load_config", lambda name: ConfigFile(Path(name), "", {}, {}))
        try:
            read_line = CommandLine.parse(words)
        except RecipeError:
            return None
    return words_for("fit", read_line)[1:] if read_line.is_complete else None


def read_the_same(words: list[str]) -> None:
    """Checks that jsonargparse reads our words as it reads those that were typed."""
    for word in words:
        name, sign, value = word.partition("=")
        # argparse takes these for values, because it knows that there is no such option.
        assume(not (word.startswith("-") and sign and " " in value and name not in KNOWN and word[:2] != "-c"))
    ours = our_words(words)
    result = parsed(ours) if ours is not None else None
    if result is None or not any(NEGATIVE_NUMBER.fullmatch(word) for word in words):
        assert result == parsed(words)
    else:
        assert parsed(words) in (None, result)  # -1e-3 is no number to argparse


@given(WORDS)
@settings(max_examples=100)
def test_every_word_is_read_as_jsonargparse_reads_it(words: list[str]) -> None:
    read_the_same(words)


@pytest.mark.slow
@given(WORDS)
@settings(max_examples=2000)
def test_every_word_of_many_command_lines_is_read_as_jsonargparse_reads_it(words: list[str]) -> None:
    read_the_same(words)


# What it means


def test_options_become_nested_settings() -> None:
    words = ["--model.optimizer.lr", "0.1", "--trainer.callbacks=[{class_path: X}]", "--help", "--data.size"]
    assert [source.settings for source in CommandLine.parse(words).given] == [
        {"model": {"optimizer": {"lr": "0.1"}}},
        {"trainer": {"callbacks": [{"class_path": "X"}]}},
        {"data": {"size": MISSING}},
    ]


def test_files_and_options_keep_their_order(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1\n", encoding="utf-8")
    read_line = CommandLine.parse(["--b", "2", "--config", str(file), "-c", "{c: 3}"])
    assert [source.settings for source in read_line.given] == [{"b": "2"}, {"a": 1}, {"c": 3}]
    assert list(read_line.files) == [str(file)]


def test_a_file_that_is_already_read_is_not_read_again() -> None:
    file = ConfigFile(Path("not/there.yaml"), "a: 1\n", {"a": 1}, {("a",): 1})
    read_line = CommandLine.parse(["--config", "not/there.yaml"], [file])
    assert list(read_line.files.values()) == [file]
    assert len(read_line.given) == 2


def test_each_value_is_passed_on_in_the_word_of_its_option() -> None:
    words = ["-c", "{a: 1}", "--b", "-1e-3", "--c+", "x y", "--model.help", "tiny.TinyModel"]
    assert words_for("fit", CommandLine.parse(words)) == [
        "fit",
        "--config={a: 1}",
        "--b=-1e-3",
        "--c+=x y",
        "--model.help",
        "tiny.TinyModel",
    ]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--model.optimizer.beta1=null", '--config={"model": {"optimizer": {"beta1": null}}}'),
        ("--data.a.b=[~, 1]", '--config={"data": {"a": {"b": [~, 1]}}}'),
        ("--model.dropout=null", "--model.dropout=null"),
        ("--model.init_args.dropout=null", "--model.init_args.dropout=null"),
        ("--trainer.callbacks.patience=null", "--trainer.callbacks.patience=null"),
        ("--model.optimizer.lr=1", "--model.optimizer.lr=1"),
        ("--model.optimizer.name=", "--model.optimizer.name="),
        ("--model.optimizer.name=[", "--model.optimizer.name=["),
    ],
)
def test_a_null_two_classes_deep_is_passed_on_as_yaml(option: str, words: str) -> None:
    assert words_for("fit", CommandLine.parse([option])) == ["fit", words]


# How often a file is opened


class Opens:
    """The paths of the files that this process opens. An audit hook cannot be removed, so this one can pause."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.counting = False
        sys.addaudithook(self._count)

    def _count(self, event: str, args: tuple[Any, ...]) -> None:
        if self.counting and event == "open":
            self.paths.append(str(args[0]))


@pytest.fixture(scope="module")
def opens() -> Opens:
    return Opens()


@pytest.fixture
def opened(opens: Opens) -> Iterator[list[str]]:
    """The paths of the files that this process opens during a test."""
    opens.paths.clear()
    opens.counting = True
    yield opens.paths
    opens.counting = False


def times(opened: list[str], name: str) -> int:
    return sum(Path(path).name == name for path in opened)


def test_fit_opens_a_configuration_file_once(tiny_recipe: Path, opened: list[str]) -> None:
    (tiny_recipe / "more.yaml").write_text("trainer: {max_epochs: 1}\n", encoding="utf-8")
    opened.clear()
    assert main(["fit", "--config", "tiny.yaml", "-c", "more.yaml", "--config=tiny.yaml"]) == 0
    assert (times(opened, "tiny.yaml"), times(opened, "more.yaml")) == (1, 1)


def test_a_refused_configuration_file_is_opened_once(tiny_recipe: Path, opened: list[str]) -> None:
    assert main(["fit", "--config", "tiny.yaml", "--model.widht", "3"]) == 2
    assert times(opened, "tiny.yaml") == 1


def test_estimate_opens_a_configuration_file_once(tiny_model: Path, wires_csv: Path, opened: list[str]) -> None:
    recipe = {
        "model": {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}},
        "data": {
            "class_path": "recipes.TextClassificationData",
            "init_args": {"text": "headline", "label": "desk", "train": str(wires_csv), "max_length": 16},
        },
    }
    Path("some.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    Path("own.yaml").write_text((CONFIGS / "optimizer/adafactor.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    opened.clear()
    assert main(["estimate", "--config", "some.yaml", "--optimizer", "./own.yaml", "adamw"]) == 0
    assert (times(opened, "some.yaml"), times(opened, "own.yaml"), times(opened, "adamw.yaml")) == (1, 1, 1)


def test_compare_opens_a_configuration_file_once(monkeypatch: pytest.MonkeyPatch, opened: list[str]) -> None:
    monkeypatch.setattr(plan, "FIT", [sys.executable, fake_fit.__file__])
    monkeypatch.setattr(writing, "draw", lambda result, outcomes, file: file.touch())
    Path("some.yaml").write_text("data: {}\n", encoding="utf-8")
    opened.clear()
    assert main(["compare", "--config", "some.yaml", "--optimizers", "adamw", "adafactor", "--seeds", "1", "2"]) == 0
    assert (times(opened, "some.yaml"), times(opened, "adamw.yaml"), times(opened, "adafactor.yaml")) == (1, 1, 1)
