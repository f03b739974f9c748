"""Lightning's own strategy for FSDP2 (``ModelParallelStrategy``): a run in two processes, saved and resumed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_adafactor import Adafactor, GradientRelease, OptimizerStateMonitor

FOLDER, DISTRIBUTED, PROCESSES = sys.argv[1], sys.argv[2] == "distributed", int(sys.argv[3])


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3))

    def configure_model(self):
        if PROCESSES > 1:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, _):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return Adafactor(self.parameters(), lr=1e-2, beta1=0.9)


def trainer(steps, *callbacks):
    strategy = ModelParallelStrategy(PROCESSES, tensor_parallel_size=1, save_distributed_checkpoint=DISTRIBUTED)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        accelerator="cpu",
        devices=PROCESSES,
        strategy=strategy if PROCESSES > 1 else "auto",
        max_steps=steps,
        default_root_dir=FOLDER,
        callbacks=list(callbacks),
        use_distributed_sampler=False,  # the same batches with any number of processes
        enable_checkpointing=False,
        **quiet,
    )


def whole(model):
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


torch.manual_seed(0)
# always the same batch, for Lightning does not resume within an epoch
batches = DataLoader(TensorDataset(torch.randn(4, 7), torch.randn(4, 3)), batch_size=4)
monitor = OptimizerStateMonitor(print_table=False)
model, first = Model(), trainer(4, monitor)
first.fit(model, batches)
first.save_checkpoint(f"{FOLDER}/checkpoint")
resumed, second = Model(), trainer(8)
second.fit(resumed, batches, ckpt_path=f"{FOLDER}/checkpoint")
release = GradientRelease()
straight, third = Model(), trainer(8, release)  # the same bits with gradient release
third.fit(straight, batches)
pairs = list(zip(whole(resumed), whole(straight)))
if second.is_global_zero:
    torch.save([each for each, _ in pairs], f"{FOLDER}/weights.pt")
    assert all(torch.equal(one, other) for one, other in pairs)
    assert 0 < release.peak.elements < sum(p.numel() for p in straight.parameters())
    assert (monitor.total_state == monitor.state) == (PROCESSES == 1)
    print("the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distributed", "whole"])
def test_a_run_that_fsdp2_shards_resumes_and_ends_as_one_process_does(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for processes in ("2", "1"):
        folder = tmp_path / processes
        folder.mkdir()
        root = Path(__file__).parents[2]
        command = [sys.executable, str(script), str(folder), kind, processes]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "the same" in done.stdout
    sharded, alone = (torch.load(tmp_path / processes / "weights.pt") for processes in ("2", "1"))
    for one, other in zip(sharded, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
