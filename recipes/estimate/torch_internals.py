"""What the estimate uses of torch that torch does not document: its only place here, so that a new version is met once.

The tests of this module name what a new version of torch has taken away.
"""

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["FakeTensorMode", "TorchDispatchMode", "tree_leaves"]
