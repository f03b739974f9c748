"""``${wheel:...}``."""

from importlib.metadata import version
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recipes import resolvers
from recipes.messages import RecipeError


def test_a_file_of_an_installed_wheel_is_found() -> None:
    path = Path(resolvers.wheel("pytest", "pytest/__init__.py"))
    assert path.read_text(encoding="utf-8").startswith("# PYTHON_ARGCOMPLETE_OK")


def test_a_folder_of_an_installed_wheel_is_found() -> None:
    assert Path(resolvers.wheel("pytest", "pytest")).is_dir()


def test_a_missing_wheel_is_named_with_the_remedy() -> None:
    with pytest.raises(RecipeError, match="'no-such-wheel' is not installed: run `make setup`"):
        resolvers.wheel("no-such-wheel", "model")


def test_a_missing_path_is_named_with_the_wheel_and_its_version() -> None:
    with pytest.raises(RecipeError, match=rf"pytest {version('pytest')} holds no 'pytest/nothing'"):
        resolvers.wheel("pytest", "pytest/nothing")


def test_yaml_can_refer_to_a_wheel() -> None:
    resolvers.register()
    resolvers.register()
    config = OmegaConf.create("file: ${wheel:pytest,pytest}/__init__.py")
    assert Path(config.file).is_file()
