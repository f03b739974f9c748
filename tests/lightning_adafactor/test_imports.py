"""Modules that importing the library imports."""

import subprocess
import sys

import pytest

import lightning_adafactor

IMPORTED = "import sys, lightning_adafactor; print(*sys.modules)"


def test_optimizer_alone_does_not_import_lightning_or_transformers() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in run.stdout.split()}
    assert "torch" in imported
    assert imported.isdisjoint({"lightning", "pytorch_lightning", "transformers", "datasets", "triton"})


def test_every_exported_name_can_be_imported_and_is_listed() -> None:
    for name in lightning_adafactor.__all__:
        assert getattr(lightning_adafactor, name).__name__ == name
        assert name in dir(lightning_adafactor)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Adafactory'"):
        lightning_adafactor.Adafactory  # noqa: B018
