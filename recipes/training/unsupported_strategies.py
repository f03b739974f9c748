"""Strategies and numbers of processes that recipes do not train with: errors before anything is read."""

import os
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from recipes.messages import RecipeError

FLATTENING = ("fsdp", "deepspeed")
"""How the names of strategies begin that flatten parameters."""
FILES = {
    "fsdp2": "fsdp2",
    "hsdp": "fsdp2",
    "model_parallel": "fsdp2",
    "modelparallelstrategy": "fsdp2",
    "tensor_parallel": "tensor_parallel",
    "tp": "tensor_parallel",
}
"""Files of ``configs/trainer`` by the name that a user may give their strategy."""


def refuse_strategy(strategy: Any) -> None:
    """Checks ``trainer.strategy`` before the trainer is made, which may need a library or a GPU for it.

    Args:
        strategy: A name, or an instance.

    Raises:
        RecipeError: It flattens parameters, or is the name of one that only a file of ``configs/trainer`` sets up.
    """
    name = strategy.lower() if isinstance(strategy, str) else ""
    file = FILES.get(name.rpartition(".")[2])
    if file is not None:
        raise RecipeError(
            f"trainer.strategy is '{strategy}', which needs more settings: use --config trainer/{file}.yaml"
        )
    if name.rpartition(".")[2].startswith(FLATTENING) or isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
        raise RecipeError(
            f"trainer.strategy is {strategy if name else type(strategy).__name__}, which flattens parameters, so that "
            "they have no rows and columns: use FSDP2 (--config trainer/fsdp2.yaml)"
        )


def refuse_other_number_of_processes(trainer: Any) -> None:
    """Compares the processes that torchrun or SLURM has started with ``trainer.devices`` and ``trainer.num_nodes``.

    Lightning checks them later, or not at all for one device: each process would then train by itself.

    Args:
        trainer: The trainer.

    Raises:
        RecipeError: They differ.
    """
    found = _started()
    if found is None:
        return
    launcher, processes, nodes, options = found
    given = f"trainer.devices {trainer.num_devices} and trainer.num_nodes {trainer.num_nodes}"
    if processes != trainer.num_devices * trainer.num_nodes or nodes not in (None, trainer.num_nodes):
        raise RecipeError(
            f"{launcher} has {processes} {'process' if processes == 1 else 'processes'}{_on(nodes)} for this run, but "
            f"{given} need {trainer.num_devices * trainer.num_nodes}{_on(nodes and trainer.num_nodes)}: give {options}"
        )


def _on(machines: int | None) -> str:
    return "" if machines is None else f" on {machines} {'machine' if machines == 1 else 'machines'}"


def _started() -> tuple[str, int, int | None, str] | None:
    """The launcher, its number of processes, that of machines, and its options that set them; None without one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        nodes = processes // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return (
            "torchrun",
            processes,
            nodes,
            "torchrun --nproc-per-node the devices, and --nnodes the number of machines",
        )
    # As Lightning sees it; in an interactive job it starts the processes itself.
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        machines = os.environ.get("SLURM_NNODES")
        options = "sbatch --ntasks-per-node the devices and --nodes the number of machines, and start python with srun"
        return "SLURM", int(os.environ["SLURM_NTASKS"]), int(machines) if machines else None, options
    return None
