"""The Triton kernels of a step, each launched once for all parameters of one device and dtype; five for whole ones.

==============  ==========================  =====================================================================
kernel          a program does              reads and writes
==============  ==========================  =====================================================================
sum_squares     one tile                    G, p → partial row and column sums of G², partial Σp² (vectors: V)
update_factors  256 rows or columns         partial sums → R, C, partial sums for mean(R)
sum_updates     one tile, in reverse order  G, R, C → partial ΣU²
find_scalars    one parameter               partial sums → update scale, decay factor, t, RMS(p)
apply_updates   one tile                    G, p, R, C → p (and the average of updates)
==============  ==========================  =====================================================================

Of shards, processes exchange their sums twice. Three further kernels fill the buffers and read them (``shards.py``)::

    sum_squares, collect_squares, collect_totals  →  all-reduce
    average_squares, sum_updates, collect_totals  →  all-reduce
    find_scalars, apply_updates

Sums are deterministic: a program writes its own partial sum, the next kernel adds them in a fixed order; there are no
float atomics. All arithmetic is float32, that of scalars float64. Nothing but the launch grid depends on the model:
addresses, shapes, strides and option_table come from tables in device memory (``fields.py``), lr and t too. V̂^-½ is
min((r·C)^-½, 1/ε₁), which needs no separate case where a floor is active.

Consecutive passes visit the tiles in opposite orders, so that a pass starts with what the previous one left in L2.

``tables.py`` reads the tables, ``tiles.py`` decodes a tile into addresses, ``update.py`` computes U on a block.
"""

from lightning_adafactor.fused.kernels.apply import apply_updates
from lightning_adafactor.fused.kernels.norms import sum_updates
from lightning_adafactor.fused.kernels.scalars import find_scalars
from lightning_adafactor.fused.kernels.shards import average_squares, collect_squares, collect_totals
from lightning_adafactor.fused.kernels.squares import sum_squares, update_factors

__all__ = [
    "apply_updates",
    "average_squares",
    "collect_squares",
    "collect_totals",
    "find_scalars",
    "sum_squares",
    "sum_updates",
    "update_factors",
]
