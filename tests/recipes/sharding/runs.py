"""Trainings of tiny models under the strategies of ``configs/trainer``, in several processes on the CPU."""

import json
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.recipes.killed_fit import start, start_ranks

SECONDS = 300
ROWS = 8
"""Rows of a batch, of all processes together."""


@dataclass(frozen=True)
class Strategy:
    """A way to run a training.

    Attributes:
        file: The file in ``configs/trainer``; None for one process.
        data: Number of processes that read different rows.
        tensor: Number of processes that share them.
    """

    file: str | None = None
    data: int = 1
    tensor: int = 1

    @property
    def processes(self) -> int:
        return self.data * self.tensor

    @property
    def options(self) -> list[str]:
        options = [f"--data.batch_size={ROWS // self.data}", f"--trainer.devices={self.processes}"]
        if self.file is None:
            return options
        sizes = {"data_parallel_size": self.data, "tensor_parallel_size": self.tensor}
        return [
            f"--config={Path(__file__).parents[3] / 'configs' / 'trainer' / self.file}",
            *options,
            "--trainer.accelerator=cpu",
            *(f"--trainer.strategy.init_args.{name}={size}" for name, size in sizes.items() if self.file != "ddp.yaml"),
        ]


ONE = Strategy()
DDP = Strategy("ddp.yaml", 2)
FSDP2 = Strategy("fsdp2.yaml", 2)
TENSOR_PARALLEL = Strategy("tensor_parallel.yaml", 1, 2)
FSDP2_TP = Strategy("fsdp2_tp.yaml", 2, 2)


@dataclass
class Run:
    """A training that has ended.

    Attributes:
        folder: Its working folder.
        statuses: The exit status of each process.
    """

    folder: Path
    statuses: list[int | None] = field(default_factory=list)

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")

    @property
    def newest(self) -> Path:
        reports = self.folder.glob("runs/*/version_*/report.json")
        return max(reports, key=lambda file: int(file.parent.name.rpartition("_")[2])).parent

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.newest / "report.json").read_text(encoding="utf-8"))
        return report

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.newest / "model" / "model.safetensors")

    @property
    def losses(self) -> list[float]:
        return [loss for _, loss, _ in self.report["history"]["losses"]]


def train(folder: Path, config: Path, strategy: Strategy, *options: str) -> Run:
    """Runs ``fit`` to its end."""
    if strategy.file is None:
        return ended(folder, [start(folder, f"--config={config}", *strategy.options, *options)])
    return command(folder, "fit", config, strategy, *options)


def command(folder: Path, name: str, config: Path, strategy: Strategy, *options: str) -> Run:
    """Runs a command to its end."""
    words = [name, f"--config={config}", *strategy.options, *options]
    return ended(folder, start_ranks(folder, strategy.processes, *words))


def ended(folder: Path, processes: list[BaseProcess]) -> Run:
    """The run of these processes, once they have ended."""
    for process in processes:
        process.join(SECONDS)
    for process in processes:
        process.kill()
        process.join()
    return Run(folder, [process.exitcode for process in processes])


def classifier(folder: Path, model: Path, wires: Path) -> Path:
    """Writes the YAML of a classifier without dropout, whose numbers depend on the strategy."""
    data = {"train": str(wires), "text": "headline", "label": "desk", "max_length": 16}
    return _written(folder / "cls.yaml", "TextClassifier", {"dropout": 0.0}, "TextClassificationData", model, data)


def language_model(folder: Path, model: Path, tales: Path) -> Path:
    """Writes the YAML of a language model that generates a sample."""
    own = {"sample_prompts": ["Once there was"], "sample_tokens": 4}
    data = {"train": str(tales), "text": "Content", "block_size": 16}
    return _written(folder / "lm.yaml", "LanguageModel", own, "LanguageModelingData", model, data)


def _written(file: Path, task: str, own: dict[str, Any], source: str, model: Path, data: dict[str, Any]) -> Path:
    adafactor = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}
    optimizer = {"class_path": "lightning_adafactor.Adafactor", "init_args": adafactor}
    common = {"pretrained": str(model), "schedule": "constant", "warmup": 0.0, "optimizer": optimizer}
    trainer = {"accelerator": "cpu", "max_steps": 4, "val_check_interval": 2, "num_sanity_val_steps": 0}
    trainer |= {"enable_model_summary": False, "log_every_n_steps": 1, "gradient_clip_val": 0.5, "precision": "32-true"}
    settings = {
        "trainer": trainer,
        "model": {"class_path": f"recipes.{task}", "init_args": common | own},
        "data": {"class_path": f"recipes.{source}", "init_args": data | {"validation": 0.2, "test": 0.1}},
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file
