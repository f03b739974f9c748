"""The optimizers of configs/optimizer/ by name."""

import sys

import pytest

from recipes.cli.optimizer_files import choose


def test_the_library_that_an_adapter_needs_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "recipes.optimizers.galore", raising=False)
    monkeypatch.setitem(sys.modules, "galore_torch", None)

    assert choose("galore").missing_module == "galore_torch"


def test_an_adapter_whose_library_is_there_misses_none() -> None:
    assert choose("muon").missing_module is None
