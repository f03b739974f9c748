"""The private parts of Lightning that are used are still there; each failure names the one that is gone."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import ModelParallelStrategy

from recipes.training.lightning_internals import average_of, average_parameters_only, mesh_sizes, saves_shards


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (_FitLoop, "_should_accumulate"),
        (_TrainingEpochLoop, "_should_check_val_fx"),
        (ModelCheckpoint, "_save_checkpoint"),
    ],
)
def test_a_private_method_is_still_there(owner: type, name: str) -> None:
    assert callable(getattr(owner, name, None)), (
        f"Lightning {lightning.__version__} no longer has {owner.__name__}.{name}: "
        "see recipes/training/lightning_internals.py"
    )


def test_the_step_that_was_saved_last_is_still_noted() -> None:
    assert hasattr(ModelCheckpoint(), "_last_global_step_saved"), (
        f"Lightning {lightning.__version__} no longer has ModelCheckpoint._last_global_step_saved: "
        "see recipes/training/lightning_internals.py"
    )


def test_a_strategy_with_a_mesh_still_notes_its_arguments() -> None:
    strategy = ModelParallelStrategy(3, 2, save_distributed_checkpoint=False)

    assert mesh_sizes(strategy) == {"data_parallel_size": 3, "tensor_parallel_size": 2}
    assert not saves_shards(strategy)


def test_averaged_weights_still_have_a_setting_for_buffers_and_no_average_before_a_training() -> None:
    callback = WeightAveraging()
    assert (callback._use_buffers, callback._device) == (True, None)

    average_parameters_only(callback, torch.device("meta"))

    assert (callback._use_buffers, callback._device) == (False, torch.device("meta"))
    assert average_of(callback) is None
