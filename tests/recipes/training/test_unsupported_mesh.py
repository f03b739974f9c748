"""Meshes that a recipe does not train on, and what is said of them."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import ModelParallelStrategy

from recipes.messages import RecipeError
from recipes.training.unsupported import refuse_for_recipe


def trainer(strategy: ModelParallelStrategy, processes: int) -> SimpleNamespace:
    return SimpleNamespace(strategy=strategy, world_size=processes, overfit_batches=0.0, callbacks=[])


def test_a_folder_of_shards_is_refused_as_a_checkpoint() -> None:
    with pytest.raises(RecipeError, match=r"save_distributed_checkpoint is true, .* set it to false"):
        refuse_for_recipe(trainer(ModelParallelStrategy(2, 1), 2))


def test_sizes_that_do_not_make_the_number_of_processes_are_refused() -> None:
    strategy = ModelParallelStrategy(2, 2, save_distributed_checkpoint=False)

    with pytest.raises(RecipeError, match=r"make 4 processes, .* make 8: give sizes whose product is 8"):
        refuse_for_recipe(trainer(strategy, 8))


def test_sizes_that_fit_are_not() -> None:
    refuse_for_recipe(trainer(ModelParallelStrategy(2, 2, save_distributed_checkpoint=False), 4))


def test_a_mesh_of_one_device_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"make one: leave out the file of configs/trainer, or give more trainer"):
        refuse_for_recipe(trainer(ModelParallelStrategy(1, 1, save_distributed_checkpoint=False), 1))
