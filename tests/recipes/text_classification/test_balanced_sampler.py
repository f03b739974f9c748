"""``data.balance``: rare labels are drawn more often, in the same order on every process and after a resume."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler

from recipes import TextClassificationData, TextClassifier
from recipes.text_classification.balanced_sampler import BalancedSampler, draw, shares_of
from recipes.text_classification.sampler import LengthGroupedSampler

LABELS = [0] * 80 + [1] * 15 + [2] * 5
COUNTS = [80, 15, 5]
LENGTHS = [3 + row % 40 for row in range(100)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60), st.integers(0, 1000))
def test_each_row_is_drawn_as_often_as_its_share_says_up_to_rounding(shares: list[float], seed: int) -> None:
    drawn = draw(torch.tensor(shares, dtype=torch.float64), torch.Generator().manual_seed(seed))

    times = Counter(drawn)
    assert len(drawn) == len(shares)
    for row, share in enumerate(shares):
        assert abs(times[row] - share / sum(shares) * len(shares)) < 1 + 1e-6


def sampler(grouped: bool, rank: int = 0, replicas: int = 1, power: float = 1.0) -> BalancedSampler:
    shard = {"num_replicas": replicas, "rank": rank, "seed": 3}

    def ordering(drawn: Sequence[int]) -> DistributedSampler:
        if grouped:
            return LengthGroupedSampler([LENGTHS[row] for row in drawn], 4, **shard)
        return DistributedSampler(drawn, **shard)  # type: ignore[arg-type]

    return BalancedSampler(shares_of(LABELS, COUNTS, power), ordering, **shard)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("power", "expected"), [(0.0, [80, 15, 5]), (0.5, [58, 25, 17]), (1.0, [33, 33, 33])])
def test_the_power_decides_how_often_a_label_is_drawn(grouped: bool, power: float, expected: list[int]) -> None:
    order = list(sampler(grouped, power=power))

    times = Counter(LABELS[row] for row in order)
    assert len(order) == 100
    # The roundings of a label's rows add up to at most their number.
    assert [times[label] for label in range(3)] == pytest.approx(expected, abs=8)


@pytest.mark.parametrize("grouped", [False, True])
def test_processes_divide_one_draw_among_them(grouped: bool) -> None:
    alone = sampler(grouped, replicas=1)
    shares = [sampler(grouped, rank, 2) for rank in range(2)]
    for each in (alone, *shares):
        each.set_epoch(5)

    together = [row for share in shares for row in share]
    assert Counter(together) == Counter(alone)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_draw_follows_from_seed_and_epoch(grouped: bool) -> None:
    first, second = sampler(grouped), sampler(grouped)
    orders = [list(first)]
    second.set_epoch(1)
    orders.append(list(second))
    second.set_epoch(0)
    orders.append(list(second))

    assert orders[0] == orders[2] != orders[1]
    assert Counter(orders[0]) != Counter(orders[1])


def test_batches_of_drawn_rows_need_little_padding() -> None:
    order = list(sampler(grouped=True))

    batches = [[LENGTHS[row] for row in order[start : start + 4]] for start in range(0, 100, 4)]
    assert sum(len(batch) * max(batch) for batch in batches) < 1.25 * sum(map(sum, batches))


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
def test_a_run_resumed_within_an_epoch_ends_where_an_uninterrupted_one_does(
    grouped: bool, tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path
) -> None:
    wires[(wires.desk != "tool") | (wires.index < 30)].to_csv(tmp_path / "skewed.csv", index=False)

    def run(name: str, ckpt_path: Any = None) -> tuple[Any, TextClassificationData]:
        seed_everything(1, verbose=False)
        model: Any = TextClassifier(str(tiny_model), schedule="constant", dropout=0.0)
        data = TextClassificationData(
            *("headline", "desk", str(tmp_path / "skewed.csv")),
            **{"max_length": 16, "batch_size": 12, "balance": 1.0, "group_by_length": grouped},
        )
        saving = ModelCheckpoint(tmp_path / name, save_top_k=-1, every_n_train_steps=3)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=[saving], limit_val_batches=0, **quiet)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return model, data

    whole, data = run("whole")
    resumed, _ = run("resumed", ckpt_path=next((tmp_path / "whole").glob("*step=3.ckpt")))

    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)
    drawn = Counter(label for batch in data.train_dataloader() for label in batch["labels"].tolist())
    assert max(drawn.values()) - min(drawn.values()) <= 8
    assert max(data.label_counts()) > 3 * min(data.label_counts())
