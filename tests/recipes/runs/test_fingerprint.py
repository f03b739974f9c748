"""Fingerprints are equal only for equal bits."""

import hashlib
from pathlib import Path

import pytest
import torch

from recipes.checksums import file_sha256
from recipes.runs.fingerprint import metrics_sha256, weights_sha256

WEIGHTS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones((), dtype=torch.bfloat16), "empty": torch.empty(0, 4)}


def test_equal_weights_have_the_same_fingerprint_in_any_order() -> None:
    copies = {name: tensor.clone() for name, tensor in reversed(WEIGHTS.items())}

    assert weights_sha256(copies) == weights_sha256(WEIGHTS)


@pytest.mark.parametrize(
    "other",
    [
        {**WEIGHTS, "b": WEIGHTS["b"].nextafter(torch.full((2, 3), 9.0))},
        {**WEIGHTS, "b": WEIGHTS["b"].reshape(3, 2)},
        {**WEIGHTS, "b": WEIGHTS["b"].view(torch.int32)},
        {"c" if name == "b" else name: tensor for name, tensor in WEIGHTS.items()},
    ],
    ids=["one ulp", "shape", "dtype", "name"],
)
def test_other_weights_have_another_fingerprint(other: dict[str, torch.Tensor]) -> None:
    assert weights_sha256(other) != weights_sha256(WEIGHTS)


def test_a_transposed_view_has_the_fingerprint_of_its_values() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)

    assert weights_sha256({"w": matrix.T}) == weights_sha256({"w": matrix.T.contiguous()})
    assert weights_sha256({"w": matrix.T}) != weights_sha256({"w": matrix.reshape(3, 2)})


def test_the_sha256_of_a_file_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n")

    assert metrics_sha256(tmp_path) == file_sha256(tmp_path / "metrics.csv")
    assert file_sha256(tmp_path / "metrics.csv") == hashlib.sha256(b"step,loss\n").hexdigest()


def test_a_run_without_logged_metrics_has_no_fingerprint_of_them(tmp_path: Path) -> None:
    assert metrics_sha256(tmp_path) is None


def test_the_sha256_of_a_folder_changes_with_a_byte_or_a_name_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "a.txt"
    file.write_text("one", encoding="utf-8")
    before = file_sha256(tmp_path)

    file.write_text("two", encoding="utf-8")
    changed = file_sha256(tmp_path)
    file.write_text("one", encoding="utf-8")
    file.rename(tmp_path / "deep" / "b.txt")

    assert len({before, changed, file_sha256(tmp_path)}) == 3
