"""The settings of fine-tuning under a strategy: the numbers of one process."""

from pathlib import Path

import pytest

from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import ONE, Strategy, train
from tests.recipes.sharding.test_strategies import check_same

SETTINGS = [
    "--model.pooling=mean",
    "--model.freeze=embeddings",
    "--model.layer_lr_decay=0.8",
    "--model.class_weights=sqrt",
    "--model.label_smoothing=0.1",
]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [runs.DDP, runs.FSDP2], ids=lambda each: each.file)
def test_the_settings_of_fine_tuning_give_the_numbers_of_one_process(
    strategy: Strategy, tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    config = runs.classifier(tmp_path, tiny_model, wires_csv)
    one = train(tmp_path / "1", config, ONE, *SETTINGS)

    two = train(tmp_path / "2", config, strategy, *SETTINGS)
    check_same(one, two)
    assert two.report["class_weights"] == one.report["class_weights"]

    resumed = train(tmp_path / "2", config, ONE, "--ckpt_path=last", "--trainer.max_steps=5")
    assert not any(resumed.statuses), resumed.output[-3000:]


@pytest.mark.slow
def test_ddp_averages_the_weights_of_one_process(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    config = runs.classifier(tmp_path, tiny_model, wires_csv)
    averaging = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    plain = train(tmp_path / "plain", config, ONE)

    one = train(tmp_path / "1", config, ONE, *averaging)
    check_same(one, train(tmp_path / "2", config, runs.DDP, *averaging))

    assert one.report["fingerprint"]["weights"] != plain.report["fingerprint"]["weights"]
