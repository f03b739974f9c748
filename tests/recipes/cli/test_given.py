"""Settings as they were given."""

from recipes.cli.given import flatten, plain_keys


def test_nested_settings_are_flattened_to_dotted_keys() -> None:
    assert list(flatten({"a": {"b": 1, "c": [2], "d": {}}})) == [("a.b", 1), ("a.c", [2]), ("a.d", {})]


def test_keys_of_a_group_may_be_typed_without_init_args() -> None:
    settings = {"model": {"class_path": "M", "init_args": {"o": {"init_args": {"lr": 1}}}}, "data": {"x": 1}}
    assert list(plain_keys(settings, "model")) == ["model.class_path", "model.o.lr"]
