"""The classifier that averages over tokens: padding does not count, and its folder is an ordinary one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    LlamaConfig,
    PretrainedConfig,
)

from recipes.models.mean_pooling import MeanPoolingConfig, mean_over_tokens

ENCODERS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=30),
    "distilbert": DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=30),
    "llama": LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=30
    ),
}


def classifier_of(encoder: str) -> Any:
    torch.manual_seed(0)
    config = MeanPoolingConfig(ENCODERS[encoder].to_dict(), id2label={0: "a", 1: "b", 2: "c"})
    return AutoModelForSequenceClassification.from_config(config).eval()


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_mean_of_a_padded_text_is_that_of_the_text_alone(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randn(length, 3, generator=generator) for length in lengths]
    hidden = torch.full((len(texts), max(lengths), 3), 7.0)
    mask = torch.zeros(len(texts), max(lengths), dtype=torch.long)
    for row, text in enumerate(texts):
        hidden[row, : len(text)], mask[row, : len(text)] = text, 1

    pooled = mean_over_tokens(hidden, mask)

    torch.testing.assert_close(pooled, torch.stack([text.mean(0) for text in texts]))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_do_not_depend_on_padding(encoder: str) -> None:
    model = classifier_of(encoder)
    tokens = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])

    with torch.no_grad():
        together = model(tokens, attention_mask=mask).logits[1:]
        alone = model(tokens[1:, :3], attention_mask=mask[1:, :3]).logits

    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_gets_a_gradient_with_and_without_checkpointing(encoder: str) -> None:
    model = classifier_of(encoder).train()
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([1])).loss.backward()

    assert [name for name, each in model.named_parameters() if each.grad is None] == []


def test_a_saved_folder_has_no_code_and_gives_the_same_logits(tmp_path: Path) -> None:
    model = classifier_of("bert")
    model.save_pretrained(tmp_path)

    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)

    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert again.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert not list(tmp_path.glob("*.py"))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "recipes.models.mean_pooling"


@pytest.mark.slow
def test_transformers_alone_refuses_the_folder_and_names_what_to_import(tmp_path: Path) -> None:
    classifier_of("bert").save_pretrained(tmp_path)
    code = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(tmp_path)!r})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 1
    assert "model type `recipes.models.mean_pooling`" in done.stderr
