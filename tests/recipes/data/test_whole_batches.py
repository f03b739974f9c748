"""Each process evaluates whole batches of one process, every row once, and as many batches as each other one."""

from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from recipes.data.whole_batches import WholeBatches


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 9), processes=st.integers(1, 9))
def test_the_batches_of_all_processes_are_those_of_one(rows: int, batch_size: int, processes: int) -> None:
    alone = [list(range(start, min(start + batch_size, rows))) for start in range(0, rows, batch_size)]

    shares = [
        list(BatchSampler(WholeBatches(range(rows), batch_size, processes, rank), batch_size, drop_last=False))
        for rank in range(processes)
    ]

    assert len({len(share) for share in shares}) == 1
    dealt = [batch for batches in zip(*shares, strict=True) for batch in batches]
    assert dealt[: len(alone)] == alone
    assert all(batch == [WholeBatches.filler(range(rows))] for batch in dealt[len(alone) :])
