"""The undocumented parts of torch that the estimate needs; no other module of the recipes imports them.

A test names each one that a new version of torch has removed.
"""

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["FakeStore", "FakeTensorMode", "TorchDispatchMode", "tree_leaves"]
