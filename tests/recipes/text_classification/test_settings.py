"""The settings of fine-tuning together: resumed exactly, and their learning rates logged by layer."""

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_adafactor import Adafactor
from recipes import TextClassificationData, TextClassifier
from recipes.training.rate_logging import GivenRates

MODEL = {
    "pooling": "mean",
    "freeze": "embeddings",
    "layer_lr_decay": 0.5,
    "class_weights": "sqrt",
    "label_smoothing": 0.1,
    "dropout": 0.0,
}
DATA = {"balance": 0.5, "max_length": "90%", "batch_size": 12, "validation": 0.2}


def adafactor(params: Any) -> Adafactor:
    return Adafactor(params, lr=3e-2, scale_parameter=False, relative_step=False)


def test_a_run_with_all_settings_is_resumed_within_an_epoch_and_logs_the_rates_of_its_layers(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    def run(name: str, ckpt_path: Any = None) -> Any:
        seed_everything(1, verbose=False)
        module = TextClassifier(str(tiny_model), adafactor, **MODEL)
        data = TextClassificationData("headline", "desk", str(wires_csv), **DATA)
        saving = ModelCheckpoint(tmp_path / name, save_top_k=-1, every_n_train_steps=3)
        logger = CSVLogger(tmp_path, "logs", name, flush_logs_every_n_steps=1)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        callbacks = [saving, GivenRates("step")]
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, callbacks=callbacks, logger=logger, log_every_n_steps=1, **quiet
        )
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module

    whole = run("whole")
    resumed = run("resumed", next((tmp_path / "whole").glob("*step=3.ckpt")))

    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)
    logged = pandas.read_csv(tmp_path / "logs/whole/metrics.csv").filter(like="lr-").dropna()
    rates = {name.partition("/")[2]: rate for name, rate in logged.iloc[2].items()}
    assert rates.keys() == {"layer_0", "layer_0_undecayed", "head", "head_undecayed"}
    assert rates["layer_0"] == pytest.approx(rates["head"] / 2)
