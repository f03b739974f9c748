"""The differences between this environment and the recorded one."""

import copy
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from recipes.checksums import file_sha256
from recipes.reproduce.environment import differences, missing_devices
from recipes.runs.provenance import provenance

SETTINGS = {"trainer": {"precision": None}, "model": {}, "data": {}}


@pytest.fixture
def recorded() -> dict:
    return copy.deepcopy(provenance(SETTINGS, "a: 1\n", torch.device("cuda" if torch.cuda.is_available() else "cpu")))


def test_the_same_environment_has_no_differences(recorded: dict) -> None:
    assert list(differences(recorded)) == []


def test_a_package_of_another_version_and_a_missing_one_are_named(recorded: dict) -> None:
    here = recorded["packages"]["torch"]
    recorded["packages"] |= {"torch": "1.0", "gone": "2.0"}

    assert list(differences(recorded)) == [
        f"package torch is {here}, recorded 1.0",
        "package gone is absent, recorded 2.0",
    ]


def test_many_changed_packages_are_counted(recorded: dict) -> None:
    recorded["packages"] |= {f"gone{i}": "1" for i in range(20)}

    assert list(differences(recorded))[-1] == "8 more packages"


def test_another_commit_cpu_and_lock_are_named(recorded: dict) -> None:
    recorded["git"]["commit"] = "0" * 40
    recorded["machine"]["processor"] = "Abacus"
    recorded["locks"]["cpu.txt"] = "f" * 64

    found = list(differences(recorded))

    assert [difference.split(" is ")[0] for difference in found] == ["git commit", "machine processor", "lock cpu.txt"]
    assert found[1].endswith("recorded Abacus")
    assert found[2].endswith("recorded ffffffffffff...")


@pytest.mark.parametrize(
    ("processes", "accelerator", "devices"),
    [(4, "NVIDIA H100", 2), (2, "NVIDIA H100", None), (1, "NVIDIA H100", None), (4, None, None)],
    ids=["more than here", "as many as here", "one", "of a CPU"],
)
def test_devices_that_this_machine_lacks_are_a_difference(
    processes: int, accelerator: str | None, devices: int | None, recorded: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    recorded["processes"], recorded["machine"]["accelerator"] = processes, accelerator

    assert missing_devices(recorded) == devices
    assert (f"machine devices is 2, recorded {processes}" in list(differences(recorded))) == (devices is not None)


def test_settings_that_were_changed_after_the_run_are_named(recorded: dict) -> None:
    recorded["config"] = "a: 2\n"

    (found,) = differences(recorded)

    assert found.startswith("the report's config sha256 is ")
    assert found.endswith(": the settings were changed after the run")


def test_changed_and_missing_data_are_named(recorded: dict, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1", encoding="utf-8")
    recorded["assets"] = {
        f"{tmp_path}/a.csv": "0" * 64,
        f"{tmp_path}/b.csv": "0" * 64,
        "${wheel:no-such-wheel,x}": "0" * 64,
        "${wheel:pytest,pytest/__init__.py}": file_sha256(Path(pytest.__file__)),
    }

    found = list(differences(recorded))

    assert len(found) == 3
    assert f"{tmp_path}/a.csv has sha256" in found[0]
    assert found[1] == f"{tmp_path}/b.csv is missing"
    assert found[2] == "${wheel:no-such-wheel,x} is missing"


def test_another_commit_of_a_repository_of_the_hub_is_named_with_how_to_pin_it(
    recorded: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--org--tiny" / "refs").mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("1" * 40)
    (tmp_path / "models--org--tiny" / "snapshots" / ("1" * 40)).mkdir(parents=True)
    recorded["assets"] = {
        "hub:model/org/tiny": "2" * 40,
        "hub:model/org/tiny@main": "1" * 40,
        "hub:dataset/org/texts": "3" * 40,
    }

    assert list(differences(recorded)) == [
        f"the model org/tiny of the hub is at commit 111111111111..., recorded 222222222222... (org/tiny@{'2' * 40} "
        "pins one)",
        "the dataset org/texts of the hub is not in the cache; it was at commit 333333333333...",
    ]
