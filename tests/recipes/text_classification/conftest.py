"""A fine-tuned classifier that several tests read."""

from pathlib import Path

import pytest

from recipes import TextClassifier
from tests.recipes.text_classification.trainings import FineTuned, adafactor, data_of, fit


@pytest.fixture(scope="session")
def fine_tuned(tiny_model: Path, wires_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    """Trained once for all tests."""
    model = TextClassifier(str(tiny_model), adafactor)
    trainer = fit(model, data_of(wires_csv), max_epochs=8)
    validated = {name: float(value) for name, value in trainer.callback_metrics.items()}
    folder = tmp_path_factory.mktemp("fine-tuned")
    model.save_pretrained(folder)
    (tested,) = trainer.test(model, trainer.datamodule, verbose=False)
    return FineTuned({**validated, **tested}, folder)
