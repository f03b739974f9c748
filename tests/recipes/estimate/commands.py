"""Recipes for the tests of the estimate, and what the command writes for them."""

import json
from pathlib import Path
from typing import Any

from recipes.cli.main import main

TRAINER = """\
trainer:
  accelerator: cpu
  max_steps: 2
  limit_val_batches: 1
  num_sanity_val_steps: 0
  enable_model_summary: false
  enable_progress_bar: false
"""
CLASSIFIER = """\
model:
  class_path: recipes.TextClassifier
  init_args:
    pretrained: {model}
    optimizer:
      class_path: lightning_adafactor.Adafactor
      init_args: {{lr: 1.0e-3, scale_parameter: false, relative_step: false}}
data:
  class_path: recipes.TextClassificationData
  init_args:
    text: headline
    label: desk
    train: {wires}
    max_length: 13
    batch_size: 6
"""
LANGUAGE_MODEL = """\
model:
  class_path: recipes.LanguageModel
  init_args:
    evaluate_before: false
    architecture: {model_type: gpt2, n_layer: 2, n_embd: 32, n_head: 2, n_positions: 32}
data:
  class_path: recipes.LanguageModelingData
  init_args:
    train: text.txt
    vocabulary_size: 270
    block_size: 16
    batch_size: 2
"""


def write_language_model() -> str:
    Path("text.txt").write_text("the cat sat on the mat and looked at the moon \n" * 40, encoding="utf-8")
    Path("tiny-lm.yaml").write_text(TRAINER + LANGUAGE_MODEL, encoding="utf-8")
    return "--config=tiny-lm.yaml"


IN_A_GIGABYTE = ("--gpu-memory=1GB", "--optimizer=adafactor")


def estimate(*args: str) -> dict[str, Any]:
    """What ``estimate --json`` writes."""
    assert main(["estimate", *args, "--json", "estimate.json"]) == 0
    return json.loads(Path("estimate.json").read_text(encoding="utf-8"))


def rows(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in result["estimates"] if all(row[key] == value for key, value in wanted.items())]


def own(result: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """The row of the recipe itself."""
    return rows(result, own=True, gradient_release=False, **wanted)[0]
