"""Trainings of a tiny language model on the tales, as tests start them."""

from pathlib import Path
from typing import Any

from lightning import Trainer, seed_everything

from recipes import LanguageModel, LanguageModelingData

GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32}


def trainer(**arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": 4,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**defaults, **arguments})


def data_of(tales_csv: Path, **arguments: Any) -> LanguageModelingData:
    return LanguageModelingData(
        str(tales_csv), **{"text": "Content", "validation": 0.2, "block_size": 32, "batch_size": 4, **arguments}
    )


def fitted(
    pretrained: Path | None,
    tales_csv: Path,
    trainer_args: dict | None = None,
    data_args: dict | None = None,
    **kwargs: Any,
) -> LanguageModel:
    seed_everything(3, verbose=False)
    module = LanguageModel(None if pretrained is None else str(pretrained), **kwargs)
    trainer(**(trainer_args or {})).fit(module, data_of(tales_csv, **(data_args or {})))
    return module
