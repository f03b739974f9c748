"""Adapters for optimizers whose own interface does not take a recipe's parameter groups; one file each.

An adapter is a ``torch.optim.Optimizer`` with typed arguments. Its static method ``split_groups(groups, model)`` receives
the groups of :func:`recipes.training.optimizer.parameter_groups` and returns those that it is then made from. Each file
imports the library that it adapts.
"""
