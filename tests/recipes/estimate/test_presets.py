"""Each preset for a size of memory fits into it, and says what it needs for that; no weights and no hub."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from recipes.cli.main import main

LLAMA_3_1_8B = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": False,
}
LLAMA_2_7B = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 4_096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4_096,
    "tie_word_embeddings": False,
}
QWEN3_1_7B = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 2_048,
    "intermediate_size": 6_144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
NEEDED = {"gradient release", "activation checkpointing", "bfloat16 parameters"}
PRESETS: dict[str, tuple[int, dict[str, Any], int]] = {
    "lm_8gb": (8, QWEN3_1_7B, 1_720_574_976),
    "lm_16gb": (16, LLAMA_2_7B, 6_738_415_616),
    "lm_24gb": (24, LLAMA_3_1_8B, 8_030_261_248),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_it_fits_and_says_which_savings_it_needs(name: str, tiny_lm: Path, tmp_path: Path) -> None:
    size, architecture, parameters = PRESETS[name]
    values = {key: value for key, value in architecture.items() if key != "model_type"}
    AutoConfig.for_model(architecture["model_type"], **values).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path)
    file = tmp_path / "estimate.json"

    options = [f"--config={name}.yaml", f"--model.pretrained={tmp_path}", f"--gpu-memory={size}GB", f"--json={file}"]
    assert main(["estimate", *options, "--optimizer", "adafactor"]) == 0

    result = json.loads(file.read_text(encoding="utf-8"))
    own = next(row for row in result["estimates"] if row["own"] and row["gradient_release"])
    assert result["parameters"]["elements"] == parameters
    assert (own["dtype"], own["fits"]) == ("bfloat16", True)
    assert own["spare_bytes"] > 0
    assert result["advice"][0].startswith("The recipe fits: it takes ")
    exceeding = [line.split(": ")[0].removeprefix("- without ") for line in result["advice"] if "exceeds" in line]
    assert NEEDED <= set(exceeding)
