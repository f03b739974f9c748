"""The state that the monitor measures and logs: after which steps, on which loggers, and for which optimizers."""

import csv
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_adafactor import Adafactor
from lightning_adafactor.memory import StateSize, adamw_state
from lightning_adafactor.monitor import OptimizerStateMonitor
from tests.lightning_adafactor.monitored import ADAMW, PARAMETERS, Adversaries, Classifier, Fit, batches


class BatchRecorder(pl.Callback):
    """Records after each training batch how many rows the monitor has logged so far."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        assert isinstance(trainer.logger, CSVLogger)
        self.rows.append(sum("optimizer/state_mb" in row for row in trainer.logger.experiment.metrics))


def rows_of(trainer: pl.Trainer) -> list[dict[str, str]]:
    """The rows of metrics.csv that carry the monitor's figures, empty cells left out."""
    assert trainer.log_dir is not None
    with (Path(trainer.log_dir) / "metrics.csv").open() as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "optimizer/state_mb" in row]


def test_state_is_logged_after_the_first_step_and_in_the_row_of_the_validation_metrics(fit: Fit) -> None:
    trainer = fit(Classifier(), OptimizerStateMonitor(), max_epochs=2)

    first, *validations = rows_of(trainer)
    state = {"optimizer/state_mb": str(ADAMW.megabytes), "optimizer/state_elements": "32.0"}
    metrics = {"val/accuracy": "0.75", "val/f1": "0.5"}
    assert first == {**state, "epoch": "0", "step": "0"}
    assert validations == [
        {**state, **metrics, "epoch": "0", "step": "3"},
        {**state, **metrics, "epoch": "1", "step": "7"},
    ]


def test_every_logger_gets_the_state(fit: Fit, tmp_path: Path) -> None:
    tensorboard = TensorBoardLogger(tmp_path, name="tensorboard")
    trainer = fit(Classifier(), OptimizerStateMonitor(), logger=[CSVLogger(tmp_path), tensorboard])

    events = EventAccumulator(tensorboard.log_dir)
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("optimizer/state_elements")] == [
        (0, 32),
        (3, 32),
    ]
    assert [event.value for event in events.Scalars("optimizer/state_mb")] == pytest.approx([ADAMW.megabytes] * 2)
    assert len(rows_of(trainer)) == 2


def test_element_counts_beyond_float32_are_logged_exactly(fit: Fit) -> None:
    class Huge(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            parameter = self.param_groups[0]["params"][0]
            self.state[parameter]["moment"] = torch.empty(131_566_187, device="meta")
            self.state[parameter]["step"] = 1
            return loss

    class HugeOnCpu(OptimizerStateMonitor):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            super().on_train_end(trainer, pl_module)
            for optimizer in trainer.optimizers:
                optimizer.state.clear()  # the trainer would move meta tensors to the CPU

    trainer = fit(Classifier(Huge), HugeOnCpu())

    assert [row["optimizer/state_elements"] for row in rows_of(trainer)] == ["131566188.0", "131566188.0"]
    assert trainer.callback_metrics["optimizer/state_elements"].item() == 131_566_188


def test_measurements_are_kept_for_reports(fit: Fit) -> None:
    monitor = OptimizerStateMonitor()
    module = Classifier(lambda parameters: torch.optim.SGD(parameters, momentum=0.9))
    fit(module, monitor)

    assert monitor.state == StateSize(elements=PARAMETERS, bytes=4 * PARAMETERS)
    assert monitor.states == [monitor.state]
    assert monitor.adamw == ADAMW == adamw_state(module.parameters())
    assert monitor.peak_gpu_mb is None


def test_skipped_steps_are_logged_where_the_optimizer_skips(fit: Fit) -> None:
    class Diverging(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * (math.nan if batch_idx in (1, 2) else 1.0)

    skipping = Diverging(lambda params: Adafactor(params, on_nonfinite="skip"))
    assert rows_of(fit(skipping, OptimizerStateMonitor()))[-1]["optimizer/skipped_steps"] == "2.0"
    assert "optimizer/skipped_steps" not in rows_of(fit(Classifier(Adafactor), OptimizerStateMonitor()))[-1]


def test_optimizer_without_state_is_logged_as_zero(fit: Fit) -> None:
    monitor = OptimizerStateMonitor()
    trainer = fit(Classifier(torch.optim.SGD), monitor)

    assert [row["optimizer/state_elements"] for row in rows_of(trainer)] == ["0.0", "0.0"]
    assert monitor.state == StateSize(elements=0, bytes=0)
    assert monitor.adamw == ADAMW


def test_with_accumulated_gradients_it_logs_after_the_first_optimizer_step(fit: Fit) -> None:
    recorder = BatchRecorder()
    trainer = fit(Classifier(), OptimizerStateMonitor(), recorder, count=6, accumulate_grad_batches=3)

    assert recorder.rows == [0, 0, 1, 1, 1, 1]
    assert rows_of(trainer)[0]["optimizer/state_elements"] == "32.0"


def test_sanity_check_logs_nothing(fit: Fit) -> None:
    trainer = fit(Classifier(), OptimizerStateMonitor(), num_sanity_val_steps=2)

    assert [row["step"] for row in rows_of(trainer)] == ["0", "3"]


def test_resumed_run_logs_after_its_own_first_step(fit: Fit, tmp_path: Path) -> None:
    first = fit(Classifier(), OptimizerStateMonitor())
    first.save_checkpoint(tmp_path / "last.ckpt")

    monitor, recorder = OptimizerStateMonitor(), BatchRecorder()
    resumed = fit(Classifier(), monitor, recorder, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")

    assert recorder.rows == [1, 1, 1, 1]
    assert [row["step"] for row in rows_of(resumed)] == ["4", "7"]
    assert monitor.state == ADAMW


def test_run_resumed_when_nothing_is_left_to_train_still_measures(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(Classifier()).save_checkpoint(tmp_path / "last.ckpt")

    monitor = OptimizerStateMonitor()
    fit(Classifier(), monitor, ckpt_path=tmp_path / "last.ckpt")

    assert monitor.state == ADAMW
    assert "Optimizer state after 4 steps" in capsys.readouterr().out


def test_second_fit_starts_from_zero(fit: Fit) -> None:
    monitor = OptimizerStateMonitor()
    fit(Classifier(), monitor)
    trainer = fit(Classifier(torch.optim.SGD), monitor)

    assert len(rows_of(trainer)) == 2
    assert monitor.state == StateSize(elements=0, bytes=0)


def test_a_second_fit_keeps_nothing_of_the_first(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = OptimizerStateMonitor()
    fit(Classifier(), monitor)
    assert monitor.state == ADAMW
    assert "val/accuracy" in capsys.readouterr().out

    fit(Classifier(), monitor, limit_val_batches=0)
    assert "val/accuracy" not in capsys.readouterr().out
    fit(Classifier(), monitor, max_steps=0)
    assert monitor.state == StateSize(elements=0, bytes=0)


def test_fit_of_no_steps_measures_nothing_and_prints_nothing(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = OptimizerStateMonitor()
    fit(Classifier(), monitor, max_steps=0)

    assert monitor.state == StateSize(elements=0, bytes=0)
    assert "Optimizer state" not in capsys.readouterr().out


def test_the_table_notes_the_state_of_all_processes_and_the_peak_of_the_gpu(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = OptimizerStateMonitor()
    trainer = fit(Classifier(), monitor)
    capsys.readouterr()

    monitor.total_state, monitor.peak_gpu_mb = StateSize(elements=2**19, bytes=2**21), 1234.0
    monitor._print_table(trainer)

    printed = " ".join(capsys.readouterr().out.split())
    assert "state of all processes 2.00 MB" in printed
    assert "peak GPU memory 1,234 MB" in printed


def test_fast_dev_run_works(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = OptimizerStateMonitor()
    fit(Classifier(), monitor, fast_dev_run=True)

    assert monitor.state == ADAMW
    assert "Optimizer state after 1 step\n" in re.sub(" +\n", "\n", capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [{"logger": False}, {"barebones": True, "logger": None}], ids=str)
def test_without_loggers_it_still_measures(
    arguments: dict[str, Any], fit: Fit, recwarn: pytest.WarningsRecorder
) -> None:
    monitor = OptimizerStateMonitor()
    if "barebones" in arguments:
        arguments = {**arguments, "log_every_n_steps": None, "num_sanity_val_steps": None}
    fit(Classifier(), monitor, **arguments)

    assert monitor.state == ADAMW
    assert not [warning for warning in recwarn if "optimizer/" in str(warning.message)]


def test_standalone_validation_logs_no_state(fit: Fit) -> None:
    trainer = fit(Classifier(), OptimizerStateMonitor())
    logged = trainer.validate(Classifier(), batches(2), verbose=False)

    assert set(logged[0]) == {"val/accuracy", "val/f1"}


def test_several_optimizers_are_logged_together_and_each_as_it_gets_its_state(fit: Fit) -> None:
    monitor = OptimizerStateMonitor()
    trainer = fit(Adversaries(), monitor)

    generator = StateSize(elements=32, bytes=128)
    discriminator = StateSize(elements=25, bytes=100)
    elements = [
        (
            row["optimizer/state_elements"],
            row["optimizer/state_elements/0"],
            row["optimizer/state_elements/1"],
        )
        for row in rows_of(trainer)
    ]
    assert elements == [("32.0", "32.0", "0.0"), ("57.0", "32.0", "25.0"), ("57.0", "32.0", "25.0")]
    assert rows_of(trainer)[-1]["val/accuracy"] == "0.75"
    assert monitor.states == [generator, discriminator]
    assert monitor.state == StateSize(elements=57, bytes=228)
    assert monitor.adamw == StateSize(elements=2 * (15 + 25) + 4, bytes=4 * (2 * (15 + 25) + 4))


def test_parameters_unfrozen_later_are_logged_when_they_get_their_state(fit: Fit) -> None:
    class Unfreezing(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.layer.bias.requires_grad_(batch_idx >= 2)

    trainer = fit(Unfreezing(), OptimizerStateMonitor())

    logged = [(row["step"], row["optimizer/state_elements"]) for row in rows_of(trainer)]
    assert logged == [("0", "25.0"), ("2", "32.0"), ("3", "32.0")]


DDP_RUN = """
import sys, warnings
sys.path[:0] = sys.argv[2:]
import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from monitored import Classifier, batches
from lightning_adafactor.monitor import OptimizerStateMonitor

monitor = OptimizerStateMonitor()
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=CSVLogger(sys.argv[1], name="ddp"),
    callbacks=monitor, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
)
trainer.fit(Classifier(), batches(8), batches(4))
print(f"rank {trainer.global_rank} holds {monitor.state}", flush=True)
"""


@pytest.mark.slow
def test_under_ddp_each_rank_measures_its_own_state_and_rank_0_reports(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(DDP_RUN)
    here = Path(__file__).parent
    command = [sys.executable, str(script), str(tmp_path), str(here), str(here.parents[1])]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    assert finished.returncode == 0, finished.stderr
    assert f"rank 0 holds {ADAMW}" in finished.stdout
    assert f"rank 1 holds {ADAMW}" in finished.stdout
    assert finished.stdout.count("Optimizer state after 4 steps") == 1
    assert "recommended to use `self.log('optimizer/" not in finished.stderr
    with (tmp_path / "ddp" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["optimizer/state_mb"]]
    assert [(row["step"], row["optimizer/state_elements"]) for row in rows] == [("0", "32.0"), ("3", "32.0")]


def test_sharded_state_is_logged_as_this_processs_and_as_that_of_all() -> None:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        mesh = init_device_mesh("cpu", (4,))
        param = nn.Parameter(DTensor.from_local(torch.zeros(25, 8), mesh, [Shard(0)], run_check=False))
        param.grad = torch.zeros_like(param)
        optimizer = Adafactor([param])
        optimizer.step()
        strategy = SimpleNamespace(optimizers=[optimizer], root_device=torch.device("cpu"))
        measured = OptimizerStateMonitor()._measure(SimpleNamespace(strategy=strategy))
    finally:
        torch.distributed.destroy_process_group()

    assert measured == {
        "optimizer/state_elements": 25 + 8 + 1,
        "optimizer/state_mb": 4 * (25 + 8 + 1) / 2**20,
        "optimizer/total_state_elements": 100 + 8 + 1,
        "optimizer/total_state_mb": 4 * (100 + 8 + 1) / 2**20,
    }


@pytest.mark.gpu
def test_peak_gpu_memory_of_the_fit_is_logged_beside_the_state(fit: Fit) -> None:
    before = torch.empty(64 * 2**20, device="cuda")  # 256 MB that are gone before the fit
    del before
    monitor = OptimizerStateMonitor()
    trainer = fit(Classifier(), monitor, accelerator="gpu", devices=1)

    assert monitor.peak_gpu_mb is not None
    assert 0 < monitor.peak_gpu_mb < 256
    assert all(float(row["memory/peak_gpu_mb"]) > 0 for row in rows_of(trainer))
