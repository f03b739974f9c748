"""Adapters for optimizers whose own interface does not take a recipe's parameter groups; one file each.

An adapter is a ``torch.optim.Optimizer`` with typed arguments. If it has a static method ``split_groups(groups,
model)``, :func:`recipes.training.optimizer.parameter_groups` passes it a recipe's groups, and it is made from those
that the method returns. Each file imports the library that it adapts.
"""
