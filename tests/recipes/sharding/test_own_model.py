"""A model that is not from transformers is trained in one process and in several, and its weights are written."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_model

from tests.recipes.sharding import runs
from tests.recipes.sharding.own_model import Bag
from tests.recipes.sharding.runs import train


@pytest.mark.slow
def test_fsdp2_trains_and_saves_it_as_one_process_does(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    config = runs.classifier(tmp_path, tiny_model, wires_csv)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["model"]["class_path"] = "tests.recipes.sharding.own_model.BagClassifier"
    del settings["model"]["init_args"]["dropout"]
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")

    one = train(tmp_path / "1", config, runs.ONE)
    two = train(tmp_path / "2", config, runs.FSDP2)
    refused = train(tmp_path / "refused", config, runs.TENSOR_PARALLEL)

    assert [*one.statuses, *two.statuses] == [0, 0, 0], two.output[-3000:]
    models = [Bag(20, 3), Bag(20, 3)]
    for model, run in zip(models, (one, two), strict=True):
        load_model(model, run.newest / "model" / "model.safetensors")
        assert (run.newest / "model" / "tokenizer.json").is_file()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-3, atol=1e-5)
    assert "transformers has no plan to divide Bag: use FSDP2" in refused.output
    assert 2 in refused.statuses
