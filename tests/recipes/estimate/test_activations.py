"""The estimate of activations is an upper bound of a real step, and a tight one."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
)

from lightning_adafactor import Adafactor, release_gradients
from recipes.estimate.activations import WORKSPACE, peak_bytes
from recipes.language_modeling import loss

ROWS, TOKENS = 8, 64
WIDE = LlamaConfig(
    vocab_size=64,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=4,
    intermediate_size=512,
    use_cache=False,
)
STATED_FACTOR = 1.25
MODELS: dict[str, tuple[Any, PretrainedConfig]] = {
    "bert": (
        AutoModelForSequenceClassification,
        BertConfig(vocab_size=500, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256),
    ),
    "llama": (
        AutoModelForCausalLM,
        LlamaConfig(
            vocab_size=500,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=256,
            use_cache=False,
        ),
    ),
    "gpt2": (
        AutoModelForCausalLM,
        GPT2Config(vocab_size=500, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0, use_cache=False),
    ),
}


def build(name: str, device: str, dtype: torch.dtype = torch.float32, checkpointing: bool = False) -> nn.Module:
    auto_class, config = MODELS[name]
    with torch.device(device):
        model = auto_class.from_config(config, dtype=dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def batch_of(name: str, rows: int = ROWS) -> Callable[[], dict[str, Tensor]]:
    def batch() -> dict[str, Tensor]:
        tokens = torch.ones(rows, TOKENS, dtype=torch.long)
        labels = torch.ones(rows, TOKENS, dtype=torch.long) if name != "bert" else torch.zeros(rows, dtype=torch.long)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}

    return batch


def estimated(
    name: str, precision: str = "32-true", gpu: bool = False, rows: int = ROWS, **settings: Any
) -> tuple[int, int]:
    """The estimate, and the bytes of all gradients."""
    model = build(name, "meta", **settings)
    peak = peak_bytes(model, batch_of(name, rows), lambda batch: model(**batch).loss, precision, gpu)
    return peak.plain - peak.gradients, peak.gradients


def measured(
    name: str,
    precision: str,
    loss_of: Callable[..., Tensor] | None = None,
    release: bool = False,
    rows: int = ROWS,
    **settings: Any,
) -> int:
    """The peak that torch's profiler sees allocated in a real second step on a CPU, gradients included."""
    model = build(name, "cpu", **settings)
    optimizer = Adafactor(model.parameters())
    if release:
        release_gradients(optimizer, model)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
            batch = batch_of(name, rows)()
            result = loss_of(model, batch) if loss_of else model(**batch).loss
        model.zero_grad()  # as Lightning does it: the last step's gradients live on through the forward pass
        result.backward()
        if release:
            optimizer.step()

    live = peak = 0
    # From the first step on: the profiler does not see the end of what was allocated before it.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
        with torch.profiler.record_function("second step"):
            step()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())  # type: ignore[union-attr]
    begin = next(event.start_ns() for event in events if event.name() == "second step")
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live) if event.start_ns() >= begin else 0
    return peak


PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}
CHECKPOINTING = {"all kept": False, "checkpointing": True}
MEASURED = [
    # Each model in each precision and both kinds of checkpointing; the other half are slow tests.
    pytest.param(name, precision, kept, marks=[pytest.mark.slow] * ((i + j + k) % 2), id=f"{name}-{precision}-{kept}")
    for i, name in enumerate(MODELS)
    for j, precision in enumerate(PRECISIONS)
    for k, kept in enumerate(CHECKPOINTING)
]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.parametrize(("name", "precision", "kept"), MEASURED)
def test_estimate_is_above_a_measured_peak_by_a_quarter_at_most(name: str, precision: str, kept: str) -> None:
    dtype, checkpointing = PRECISIONS[precision], CHECKPOINTING[kept]
    activations, gradients = estimated(name, precision, dtype=dtype, checkpointing=checkpointing)

    peak = measured(name, precision, dtype=dtype, checkpointing=checkpointing)

    assert peak <= activations + gradients <= STATED_FACTOR * peak


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_with_gradient_release_it_is_close_to_a_measured_peak_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "wide", (AutoModelForCausalLM, WIDE))
    settings = {"checkpointing": True}
    model = build("wide", "meta", **settings)
    estimate = peak_bytes(model, batch_of("wide", 1), lambda batch: model(**batch).loss, "32-true", gpu=False)

    released, plain = (measured("wide", "32-true", release=release, rows=1, **settings) for release in (True, False))

    state = 4 * sum(sum(parameter.shape) + 1 for parameter in model.parameters())
    assert released <= estimate.released + state <= STATED_FACTOR * released
    assert released < plain / 2


def test_it_grows_linearly_with_the_batch() -> None:
    one, two, four = (estimated("llama", rows=rows)[0] for rows in (1, 2, 4))

    assert one < two < four
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)


def test_attention_with_dropout_saves_no_matrix_of_token_pairs_on_a_gpu() -> None:
    matrices = 3 * ROWS * 4 * TOKENS**2 * 4  # one for each layer and head, in float32

    assert estimated("bert", gpu=False)[0] - estimated("bert", gpu=True)[0] > matrices


def test_checkpointing_recomputes_as_on_a_gpu() -> None:
    all_kept, _ = estimated("bert", "bf16-mixed", gpu=True)

    with pytest.warns(FutureWarning, match="activation_checkpointing_enable"):
        checkpointed, _ = estimated("bert", "bf16-mixed", gpu=True, checkpointing=True)

    assert checkpointed < 0.6 * all_kept


class Powers(nn.Module):
    """Two products and a power in between, as in GPT-2's activation function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.pow(self.first(inputs), 3.0)).float().sum()


def test_autocast_computes_powers_in_float32_on_a_gpu() -> None:
    with torch.device("meta"):
        module = Powers()

    def step(batch: Tensor) -> Tensor:
        return module(batch)

    on_cpu, on_gpu = (
        peak_bytes(module, lambda: torch.ones(1000, 64), step, "bf16-mixed", gpu).plain for gpu in (False, True)
    )

    assert (on_gpu - on_cpu) / WORKSPACE >= 1000 * 64 * 4


def test_storages_are_counted_once_and_until_they_are_freed() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000, device="meta"))

        def forward(self, inputs: Tensor) -> Tensor:
            with torch.no_grad():
                for _ in range(10):
                    inputs = inputs + 1.0
            return functional.relu(inputs.view(10, 100).flatten() * self.weight).sum()

    module = Chain()

    peak = peak_bytes(module, lambda: torch.ones(1000), module, "32-true", gpu=False)

    # the batch, the chain's result, its product and relu's result are live together, and little else
    assert 4 * 4000 <= round(peak.released / WORKSPACE) <= 5 * 4000 + 100


def test_the_module_is_not_changed() -> None:
    model = build("gpt2", "meta")
    before = {name: id(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}

    peak_bytes(model, batch_of("gpt2"), lambda batch: model(**batch).loss, "bf16-mixed", gpu=True)

    assert {name: id(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]} == before
    assert all(parameter.is_meta and parameter.grad is None for parameter in model.parameters())
    assert model.lm_head.weight is model.transformer.wte.weight


CHUNKED = LlamaConfig(
    vocab_size=20_000,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    use_cache=False,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_of_a_loss_in_chunks_count(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "chunked", (AutoModelForCausalLM, CHUNKED))
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1)  # 64 tokens: 5 MB of logits in float32

    def chunked(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return loss.chunked_loss(model, batch["input_ids"], batch["labels"])

    model = build("chunked", "meta", dtype)
    estimate = peak_bytes(model, batch_of("chunked"), lambda batch: chunked(model, batch), "32-true", gpu=False).plain
    peak = measured("chunked", "32-true", chunked, dtype=dtype)

    assert peak <= estimate <= STATED_FACTOR * peak
