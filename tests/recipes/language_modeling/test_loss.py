"""The loss in chunks is the loss of the whole batch: value, gradients, metrics."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from recipes import LanguageModel
from recipes.language_modeling import loss as chunks
from recipes.language_modeling.packing import IGNORED
from recipes.messages import RecipeError

SIZES = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SIZES, "model_type": "llama", "intermediate_size": 24, "num_key_value_heads": 1}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tied": {**LLAMA, "tie_word_embeddings": True},
    "untied": {**LLAMA, "tie_word_embeddings": False},
    "bias": {**SIZES, "model_type": "phi", "intermediate_size": 24},
    "divided logits": {**LLAMA, "model_type": "granite", "logits_scaling": 6.0},
    "multiplied logits": {**LLAMA, "model_type": "cohere", "logit_scale": 0.3, "pad_token_id": 0},
}
GEMMA2 = {**LLAMA, "model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 8}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 tokens in a chunk, so that a batch has several."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)


def made(architecture: dict[str, Any], loss: str | None = "chunked", **kwargs: Any) -> LanguageModel:
    """A model with random weights; its head's bias and its logits are far from zero."""
    values = {key: value for key, value in architecture.items() if key != "model_type"}
    config = AutoConfig.for_model(architecture["model_type"], **values)
    torch.manual_seed(0)
    module = LanguageModel(architecture=architecture, loss=loss, **kwargs)
    module.model = AutoModelForCausalLM.from_config(config).train()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    module.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    return module


def batch(rows: int = 3, tokens: int = 50) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 97, (rows, tokens), generator=generator)
    labels = input_ids.roll(-1, dims=1)
    labels[:, -1] = IGNORED
    return {"input_ids": input_ids, "labels": labels}


def stepped(module: LanguageModel, autocast: torch.dtype | None = None) -> tuple[Tensor, list[Tensor]]:
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        loss = module.training_step(batch(), 0)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_loss_and_gradients_are_those_of_the_whole_batch(architecture: dict[str, Any]) -> None:
    loss, gradients = stepped(made(architecture))
    expected, expected_gradients = stepped(made(architecture, "full"))

    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_metrics_are_those_of_the_whole_batch(architecture: dict[str, Any]) -> None:
    found = []
    for loss in ("chunked", "full"):
        module = made(architecture, loss)
        with torch.no_grad():
            module.validation_step(batch(), 0)
            module.validation_step(batch(1, 7), 0)
        found.append(module.val_metrics.compute())

    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_whole_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    own = torch.nn.Linear.forward
    module = made(ARCHITECTURES["untied"])
    head = module.model.get_output_embeddings()  # type: ignore[union-attr, operator]

    def watched(self: torch.nn.Linear, hidden: Tensor) -> Tensor:
        if self is head:
            rows.append(hidden[..., 0].numel())
        return own(self, hidden)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    stepped(module)
    assert rows == []

    with torch.no_grad():
        module.test_step(batch(), 0)
    assert rows == [64, 64, 22]


def test_activation_checkpointing_changes_no_gradient() -> None:
    module = made(LLAMA)
    module.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[union-attr, operator]

    loss, gradients = stepped(module)

    plain, plain_gradients = stepped(made(LLAMA))
    assert torch.equal(loss, plain)
    assert all(map(torch.equal, gradients, plain_gradients))


def test_mixed_precision_keeps_the_loss_in_float32_on_a_cpu() -> None:
    loss, gradients = stepped(made(LLAMA), torch.bfloat16)
    expected, expected_gradients = stepped(made(LLAMA, "full"), torch.bfloat16)

    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    torch.testing.assert_close(gradients, expected_gradients, rtol=0.1, atol=2e-3)


@pytest.mark.parametrize("device_type", [None, "cuda"])
def test_bfloat16_parameters_have_the_gradients_of_the_whole_batch(device_type: str | None) -> None:
    chunked, full = made(LLAMA), made(LLAMA, "full")
    chunked.model.bfloat16()  # type: ignore[union-attr]
    full.model.bfloat16()  # type: ignore[union-attr]

    chunked.estimated_device_type = device_type
    loss, gradients = stepped(chunked)

    expected, expected_gradients = stepped(full)
    torch.testing.assert_close(loss, expected, rtol=2**-7, atol=0)
    torch.testing.assert_close(gradients, expected_gradients, rtol=0.1, atol=2e-3)


def test_the_default_is_chunked_where_the_logits_take_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError

    module = made(LLAMA, None)
    module.training_step(batch(1, 64), 0)
    monkeypatch.setattr(functional, "cross_entropy", refuse)
    module.training_step(batch(1, 65), 0)
    with pytest.raises(AssertionError):
        module.training_step(batch(1, 64), 0)


@pytest.mark.parametrize("reason", ["caps its logits", "no multiple"])
def test_capped_logits_are_refused(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "no multiple":  # as in a model that names its cap otherwise
        monkeypatch.setattr(chunks, "unsupported_reason", lambda model: None)
        monkeypatch.setattr("recipes.language_modeling.module.unsupported_reason", lambda model: None)

    with pytest.raises(RecipeError, match=f"model.loss is 'chunked', but .*{reason}.*: set model.loss to full"):
        made(GEMMA2).training_step(batch(), 0)

    expected, _ = stepped(made(GEMMA2, "full"))
    assert torch.equal(stepped(made(GEMMA2, None))[0], expected)


def test_float16_is_refused() -> None:
    module = made(LLAMA)
    with torch.autocast("cpu", torch.float16), pytest.raises(RecipeError, match=r"float16: set model\.loss to full"):
        module.training_step(batch(), 0)


def test_older_torch_is_refused_and_computes_whole_logits_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(functional, "linear_cross_entropy")

    with pytest.raises(RecipeError, match=r"has no linear_cross_entropy, which came with torch 2\.13"):
        made(LLAMA).training_step(batch(), 0)
    made(LLAMA, None).training_step(batch(), 0)


def test_a_batch_without_labels_has_no_loss() -> None:
    nothing = batch()
    nothing["labels"].fill_(IGNORED)

    assert made(LLAMA).training_step(nothing, 0).isnan()
    assert made(LLAMA, "full").training_step(nothing, 0).isnan()


def test_a_model_on_the_meta_device_supports_chunks() -> None:
    values = {key: value for key, value in LLAMA.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **values))

    assert chunks.unsupported_reason(model) is None
