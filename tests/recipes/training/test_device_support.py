"""An optimizer that a device does not support is an error; no other one replaces it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recipes.cli.main import main
from recipes.messages import RecipeError
from recipes.training.device_support import check_device_support


def a_library(name: str, step: Callable[[torch.optim.Optimizer], object]) -> type[torch.optim.Optimizer]:
    """An optimizer's class that seems to be from a library, with a given step."""

    def stepped(self: torch.optim.Optimizer, closure: object = None) -> None:
        step(self)

    return type("AdamW8bit", (torch.optim.SGD,), {"__module__": f"{name}.optim.adam", "step": stepped})


def refuse(optimizer: type[torch.optim.Optimizer]) -> None:
    check_device_support(optimizer, optimizer([nn.Parameter(torch.zeros(2, 2))]))


def failing(*_: object) -> None:
    raise RuntimeError("the compiled library was not loaded.\nMore about it")


def without_compiler(*_: object) -> None:
    raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")


def drawing(*_: object) -> None:
    torch.rand(1)


def test_a_step_that_fails_is_an_error_with_library_device_reason_and_remedy() -> None:
    with pytest.raises(RecipeError) as error:
        refuse(a_library("bitsandbytes", failing))
    assert str(error.value) == (
        "model.optimizer is bitsandbytes's AdamW8bit, which does not support this machine's cpu: "
        "the compiled library was not loaded; choose another optimizer, such as configs/optimizer/adafactor.yaml"
    )


def test_a_missing_compiler_has_a_remedy_of_its_own() -> None:
    with pytest.raises(RecipeError, match=r"install a compiler .*CXX"):
        refuse(a_library("torchao", without_compiler))


def test_optimizers_of_other_libraries_are_not_checked() -> None:
    steps = []
    refuse(a_library("mylib", steps.append))
    refuse(a_library("torchao", steps.append))
    assert [type(stepped).__module__ for stepped in steps] == ["torchao.optim.adam"]


def test_the_random_numbers_that_follow_are_the_same() -> None:
    before = torch.get_rng_state()
    refuse(a_library("torchao", drawing))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_parameters_of_the_model_are_not_changed() -> None:
    optimizer = a_library("torchao", torch.optim.SGD.step)
    parameter = nn.Parameter(torch.ones(2))
    check_device_support(optimizer, optimizer([parameter]))
    assert torch.equal(parameter, torch.ones(2))
    assert parameter.grad is None


def test_a_paged_state_is_an_error_where_bitsandbytes_would_fall_back_to_another() -> None:
    optimizers = pytest.importorskip("bitsandbytes.optim", exc_type=ImportError)

    def paged(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return optimizers.AdamW8bit(parameters, is_paged=True)

    with pytest.raises(RecipeError, match="Paged optimizers are not supported on CPU"):
        check_device_support(paged, paged([nn.Parameter(torch.zeros(2))]))


def on_a_gpu(library: str, **options: object) -> None:
    """Checks an optimizer of a library that compiles its kernels, with a parameter that seems to be on a GPU."""
    kind = type("Gefen", (torch.optim.SGD,), {"__module__": library})
    built = kind([nn.Parameter(torch.zeros(2))])
    built.param_groups = [{"params": [SimpleNamespace(device=torch.device("cuda"))], **options}]
    check_device_support(kind, built)


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nvcc is sought; nothing is there."""
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvcc"


@pytest.mark.parametrize(("library", "name"), [("gefen", "Gefen-X"), ("adafactor8bit", "adafactor8bit")])
def test_kernels_that_the_first_step_compiles_are_told_of(
    library: str, name: str, nvcc: Path, capsys: pytest.CaptureFixture
) -> None:
    nvcc.touch(0o755)
    on_a_gpu(f"{library}.optimizer")
    assert capsys.readouterr().err == (
        f"note: {name} compiles its CUDA kernels in its first step, unless an earlier run did: this takes minutes\n"
    )


@pytest.mark.usefixtures("nvcc")
def test_gefen_without_nvcc_is_refused_for_it_would_fall_back_to_other_operations() -> None:
    with pytest.raises(RecipeError, match=r"nvcc, which is neither in CUDA_HOME nor in PATH: install the CUDA toolkit"):
        on_a_gpu("gefen.gefen")


@pytest.mark.usefixtures("nvcc")
@pytest.mark.parametrize(("library", "switch"), [("gefen", "fused"), ("adafactor8bit", "use_cuda_kernel")])
def test_without_its_kernels_an_optimizer_needs_no_nvcc(
    library: str, switch: str, capsys: pytest.CaptureFixture
) -> None:
    on_a_gpu(f"{library}.optimizer", **{switch: False})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    library: str, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for loaded in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, library, None)
    name = {"bitsandbytes": "adamw_8bit", "torchao": "adamw_torchao_8bit"}[library]

    assert main(["fit", "--config", "cls.yaml", "--config", f"optimizer/{name}.yaml"]) == 2

    said = capsys.readouterr().err
    assert f"model.init_args.optimizer.class_path is '{library}.optim.AdamW8bit', which cannot be imported" in said
    assert 'pip install "lightning-adafactor[8bit]"' in said
    assert "did you mean" not in said
    assert "Traceback" not in said
