"""The step of parameters that are sharded over several processes (DTensor), exactly as one process would take it.

Each process works on its shard. What the rule needs of a whole parameter are sums: of G² over rows and over columns,
of p², of U². A sum is added up over the process groups that shard what is summed, and over no other::

    sum squares  →  one all-reduce per process group  →  sum U²  →  one all-reduce per process group  →  apply

The partial sums of all parameters travel together, so the number of all-reduces does not depend on the number of
parameters. Of a matrix whose rows are sharded, the first one carries the m column sums, Σp² and Σ R (for mean(R)), the
second one ΣU²; row sums stay where they are. A parameter that no process group shards needs none, and takes its step
on the ordinary path.

``layout``: what is sharded over which group. ``reduction``: the buffer of sums. ``step``: the step. ``state``: state
tensors as DTensors. ``flattened``: sharding that loses shapes (FSDP1, DeepSpeed ZeRO), which is refused.
"""
