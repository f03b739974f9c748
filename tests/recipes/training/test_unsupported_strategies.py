"""Strategies and numbers of processes that recipes do not train with, and what is said of them."""

from types import SimpleNamespace

import pytest

from recipes.messages import RecipeError
from recipes.training.unsupported_strategies import refuse_other_number_of_processes, refuse_strategy


@pytest.mark.parametrize(
    "strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_3", "lightning.pytorch.strategies.FSDPStrategy"]
)
def test_strategies_that_flatten_parameters_name_fsdp2(strategy: str) -> None:
    with pytest.raises(RecipeError, match=r"flattens parameters, .* use FSDP2 \(--config trainer/fsdp2.yaml\)"):
        refuse_strategy(strategy)


@pytest.mark.parametrize(
    ("strategy", "file"),
    [
        ("fsdp2", "fsdp2"),
        ("tensor_parallel", "tensor_parallel"),
        ("lightning.pytorch.strategies.ModelParallelStrategy", "fsdp2"),
    ],
)
def test_names_that_lightning_does_not_have_lead_to_their_file(strategy: str, file: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"'{strategy}', which needs more settings: use --config trainer/{file}.yaml"
    ):
        refuse_strategy(strategy)


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_true"])
def test_other_strategies_are_not_refused(strategy: str) -> None:
    refuse_strategy(strategy)


def trainer(devices: int, nodes: int) -> SimpleNamespace:
    return SimpleNamespace(num_devices=devices, num_nodes=nodes)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "wrap"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the variables of a launcher."""
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "said"),
    [(TORCHRUN, "torchrun has 4 processes on 2 machines"), (SRUN, "SLURM has 4 processes on 2 machines")],
)
@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (4, 1), (1, 1), (2, 3)])
def test_other_numbers_than_the_launchers_are_refused(
    variables: dict[str, str], said: str, devices: int, nodes: int, environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)

    with pytest.raises(
        RecipeError,
        match=rf"{said} .* trainer.devices {devices} and trainer.num_nodes {nodes} need {devices * nodes} on {nodes}",
    ):
        refuse_other_number_of_processes(trainer(devices, nodes))


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN, SRUN | {"SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "1"}])
def test_the_launchers_numbers_are_not(variables: dict[str, str], environment: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)

    refuse_other_number_of_processes(trainer(2, 2))


def test_without_a_launcher_any_number_is_right(environment: pytest.MonkeyPatch) -> None:
    refuse_other_number_of_processes(trainer(8, 1))
