"""The step of parameters that are sharded over several processes (DTensor), exactly as one process would take it.

Each process works on its shard. What the rule needs of a whole parameter are sums: of G² over rows and over columns,
of p², of U². A sum is added up over the process groups that shard what is summed, and over no other::

    sum squares  →  one all-reduce per process group  →  sum U²  →  one all-reduce per process group  →  apply

The partial sums of all parameters travel together, so the number of all-reduces does not depend on the number of
parameters. Of a matrix whose rows are sharded, the first one carries the m column sums, Σp² and Σ R (for mean(R)), the
second one ΣU²; row sums stay where they are. A parameter that no process group shards needs none, and takes its step
on the ordinary path.

A local shard takes the path that a whole parameter would: in Triton kernels (``fused``), in compiled loops
(``compiled``) or in torch operations (``plain``), which is the reference. Each offers the same three stages
(``stages``), between which ``step`` has the sums added up. The slots in the buffers of sums depend on shapes and
placements alone, so that processes need not agree on a path, nor have elements (``empty``). The fused path leaves all
sums on the device, ``found_inf`` too, and never waits for it. A bucket (device, dtype of parameters, of gradients)
takes eight launches where a whole one takes five::

    sum_squares, collect_squares, collect_totals  →  all-reduce
    average_squares, sum_updates, collect_totals  →  all-reduce
    find_scalars, apply_updates

What it reads and writes beyond the step of a whole parameter of the shard's size is, of a matrix of n rows and m
columns, the buffer: filled with zeros, written, read, 12·(n + m) bytes, and R once more, 4·n bytes. At n = m = 4096 in
float32 that is 0.03 % of the 24 bytes per element of the three passes.

``layout``: what is sharded over which group. ``reduction``: the buffer of sums. ``step``: the step. ``state``: state
tensors as DTensors. ``flattened``: sharding that loses shapes (FSDP1, DeepSpeed ZeRO), which is refused. ``choice``:
the path of a parameter.
"""
