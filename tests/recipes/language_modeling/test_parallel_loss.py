"""The loss of a head that two processes divide, against that of the whole head."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional

from recipes.language_modeling.packing import IGNORED
from recipes.language_modeling.parallel_loss import parallel_loss
from tests.lightning_adafactor.sharded import processes

SCALES = (1.0, 0.25)
CHUNK = 3


def tensors(labeled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The input of a head, its weight, and labels of which some or all are ignored; logits of up to hundreds."""
    torch.manual_seed(0)
    labels = torch.randint(10, (8,))
    labels[2 : 5 if labeled else 8] = IGNORED
    labels[: 0 if labeled else 2] = IGNORED
    return 30 * torch.randn(2, 4, 6), torch.randn(10, 6), labels


def divided() -> list[tuple[Tensor, ...]]:
    mesh = init_device_mesh("cpu", (2,))
    found = []
    for scale in SCALES:
        for labeled in (True, False):
            hidden, weight, labels = tensors(labeled)
            hidden.requires_grad_()
            shards = distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_()
            replicated = DTensor.from_local(hidden, mesh, [Replicate()])
            loss = parallel_loss(replicated, shards, labels, scale, torch.float32, CHUNK).to_local()
            (3 * loss).sum().backward()
            assert hidden.grad is not None
            assert shards.grad is not None
            found.append((loss.detach(), hidden.grad, shards.grad.full_tensor()))
    return found


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_the_whole_head(tmp_path: Path) -> None:
    ranks = processes.run(divided, 2, tmp_path)

    cases = [(scale, labeled) for scale in SCALES for labeled in (True, False)]
    for number, (scale, labeled) in enumerate(cases):
        hidden, weight, labels = tensors(labeled)
        hidden.requires_grad_()
        weight.requires_grad_()
        logits = scale * (hidden.flatten(0, 1) @ weight.T)
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED)
        (3 * loss).backward()
        wanted = (loss.detach().reshape(1, 1, 1), hidden.grad, weight.grad)
        for rank in ranks:
            if labeled:
                torch.testing.assert_close(rank[number], wanted, rtol=1e-4, atol=1e-5)
            else:
                assert rank[number][0].isnan().all()
