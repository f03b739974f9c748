"""Settings as they were given."""

from pathlib import Path
from typing import Any

from recipes.cli.config_files import ConfigFile
from recipes.cli.given import Given, flatten, kept_arguments, plain_keys


def test_nested_settings_are_flattened_to_dotted_keys() -> None:
    assert list(flatten({"a": {"b": 1, "c": [2], "d": {}}})) == [("a.b", 1), ("a.c", [2]), ("a.d", {})]


def test_keys_of_a_group_may_be_typed_without_init_args() -> None:
    settings = {"model": {"class_path": "M", "init_args": {"o": {"init_args": {"lr": 1}}}}, "data": {"x": 1}}
    assert list(plain_keys(settings, "model")) == ["model.class_path", "model.o.lr"]


def optimizer(cls: str, **init_args: Any) -> dict[str, Any]:
    spec = {"class_path": cls, "init_args": init_args}
    return {"model": {"class_path": "M", "init_args": {"optimizer": spec}}}


def from_file(settings: dict[str, Any]) -> Given:
    return Given(settings, ConfigFile(Path("cls.yaml"), "", settings, {}))


FIRST = optimizer("Adafactor", lr=0.1, d=1.0)


def test_an_argument_that_another_class_keeps_is_reported() -> None:
    given = [from_file(FIRST), Given({"model": {"optimizer": "AdamW"}})]
    assert list(kept_arguments(given, optimizer("AdamW", lr=0.1))) == [
        "model.optimizer is now AdamW and keeps lr = 0.1, which cls.yaml gave for Adafactor"
    ]


def test_the_class_may_also_be_given_by_its_class_path() -> None:
    given = [from_file(FIRST), Given({"model": {"optimizer": {"class_path": "AdamW"}}})]
    assert len(list(kept_arguments(given, optimizer("AdamW", lr=0.1)))) == 1


def test_an_argument_given_anew_is_not_reported() -> None:
    given = [from_file(FIRST), from_file(optimizer("AdamW", lr=0.1))]
    assert list(kept_arguments(given, optimizer("AdamW", lr=0.1))) == []


def test_the_same_class_given_twice_is_not_reported() -> None:
    given = [from_file(FIRST), Given({"model": {"optimizer": "Adafactor"}})]
    assert list(kept_arguments(given, FIRST)) == []
