"""What the estimate uses of torch without torch having documented it is still there."""

import importlib

import pytest
import torch

REMEDIES = {
    "torch._subclasses.fake_tensor.FakeTensorMode": "run the step on tensors that take no memory in another way",
    "torch.testing._internal.distributed.fake_pg.FakeStore": "stand for other processes in another way",
    "torch.utils._python_dispatch.TorchDispatchMode": "see each operation's results in another way",
    "torch.utils._pytree.tree_leaves": "find the tensors in an operation's results in another way",
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_name_that_torch_does_not_document_is_still_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    try:
        found = hasattr(importlib.import_module(module), attribute)
    except ImportError:
        found = False
    assert found, f"torch {torch.__version__} has no {name}: recipes/estimate/torch_internals.py must {REMEDIES[name]}"
