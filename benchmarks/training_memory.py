"""The memory of training steps of one language model in one mode: estimated from shapes, and measured."""

from __future__ import annotations

import dataclasses
import functools
import gc
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.extra_memory import peak_on_cpu, peak_on_cuda
from lightning_adafactor import Adafactor, measure_state
from recipes import LanguageModel, LanguageModelingData
from recipes.estimate.parts import Candidate, Estimate, Setting, estimate
from recipes.training.optimizer import parameter_groups

SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8_192,
    "tie_word_embeddings": True,
}
"""The architecture of SmolLM2-135M."""

OPTIMIZERS: dict[str, Any] = {
    "AdamW": functools.partial(torch.optim.AdamW, lr=1e-4),
    "Adafactor": functools.partial(Adafactor, lr=1e-4, scale_parameter=False, relative_step=False),
}


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way to train.

    Attributes:
        name: Its name.
        optimizer: A key of ``OPTIMIZERS``.
        release: Whether gradients are released block by block.
        loss: ``model.loss`` of the recipe.
        checkpointing: Whether activations are recomputed in the backward pass.
        dtype: Of the parameters.
    """

    name: str
    optimizer: str = "Adafactor"
    release: bool = False
    loss: Literal["full", "chunked"] = "full"
    checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


MODES = (
    Mode("AdamW", "AdamW"),
    Mode("Adafactor"),
    Mode("+ gradient release", release=True),
    Mode("+ chunked loss", release=True, loss="chunked"),
    Mode("+ checkpointing", release=True, loss="chunked", checkpointing=True),
    Mode("bfloat16 with all", release=True, loss="chunked", checkpointing=True, dtype="bfloat16"),
)
"""Each but the first adds something to the one before it."""


class _Tokenizer:
    """As much of a tokenizer as a model without text needs."""

    bos_token_id = eos_token_id = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class RandomTokens(LanguageModelingData):
    """Batches of random tokens.

    Args:
        vocabulary: Size of the vocabulary.
        kwargs: ``batch_size`` and ``block_size``.
    """

    def __init__(self, vocabulary: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokenizer = _Tokenizer(vocabulary)  # type: ignore[assignment]

    def inspect(self) -> None:
        """Reads nothing."""

    def batch(self, device: torch.device) -> dict[str, torch.Tensor]:
        """A batch on a device, always the same."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, self.block_size)
        tokens = torch.randint(0, len(self.tokenizer), shape, generator=generator).to(device)
        return {"input_ids": tokens, "labels": tokens.roll(-1, dims=1)}


def prepare(mode: Mode, architecture: dict[str, Any], rows: int, tokens: int) -> tuple[LanguageModel, RandomTokens]:
    """The recipe's model, which has no weights yet, and its data.

    Args:
        mode: How to train.
        architecture: ``model.architecture``.
        rows: Blocks in a batch.
        tokens: Tokens in a block.
    """
    module = LanguageModel(
        architecture=architecture,
        optimizer=OPTIMIZERS[mode.optimizer],
        loss=mode.loss,
        gradient_checkpointing=mode.checkpointing,
        dtype=mode.dtype,
    )
    return module, RandomTokens(architecture["vocab_size"], batch_size=rows, block_size=tokens)


def estimated(mode: Mode, architecture: dict[str, Any], rows: int, tokens: int, gpu: bool) -> Estimate:
    """What ``recipes.estimate`` says.

    Args:
        mode: How to train.
        architecture: ``model.architecture``.
        rows: Blocks in a batch.
        tokens: Tokens in a block.
        gpu: Whether to estimate for a GPU.
    """
    module, data = prepare(mode, architecture, rows, tokens)
    setting = Setting(module, data, "32-true", gpu)
    candidate = Candidate(mode.name, mode.optimizer, OPTIMIZERS[mode.optimizer], own=True)
    [row] = [
        row
        for row in estimate(setting, [candidate])
        if row.dtype == mode.dtype and row.gradient_release == mode.release
    ]
    return row


class Training:
    """A training that steps one batch again and again, in Lightning's order.

    Args:
        mode: How to train.
        architecture: ``model.architecture``.
        rows: Blocks in a batch.
        tokens: Tokens in a block.
        device: The device.
    """

    def __init__(self, mode: Mode, architecture: dict[str, Any], rows: int, tokens: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.module, data = prepare(mode, architecture, rows, tokens)
        with device:
            self.module.model = self.module.make_model(data, weights=True)
        self.module.log = lambda *_, **__: None  # type: ignore[method-assign]
        self.optimizer = OPTIMIZERS[mode.optimizer](parameter_groups(self.module.model))
        if mode.release:
            from lightning_adafactor import release_gradients

            self.released = release_gradients(self.optimizer, self.module.model)
        self.batch = data.batch(device)

    def step(self) -> float:
        """Takes a step and returns its loss; the last step's gradients live on through the forward pass."""
        loss = self.module.training_step(self.batch, 0)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def measure(
    mode: Mode, architecture: dict[str, Any], rows: int, tokens: int, device: torch.device, steps: int
) -> dict[str, Any]:
    """Trains, in a process that has trained nothing before.

    Args:
        mode: How to train.
        architecture: ``model.architecture``.
        rows: Blocks in a batch.
        tokens: Tokens in a block.
        device: The device.
        steps: Steps that are measured; the first step, which allocates the optimizer's state, comes before them.

    Returns:
        ``allocated_bytes`` (the peak of tensors in a step after the first), ``resident_bytes`` (the peak of the
        process, beyond what it was before there was a model; None on a GPU and where the system does not tell),
        ``parameter_bytes``, ``state_bytes``, ``seconds`` (the median of the steps) and ``losses``.
    """
    tiny = {**architecture, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 300}
    tiny |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    Training(mode, tiny, 1, 8, device).step()  # loads what is loaded at the first step
    started = resident_bytes("VmRSS")
    training = Training(mode, architecture, rows, tokens, device)
    losses = [training.step()]
    forget_peak()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        losses.append(training.step())
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = resident_bytes("VmHWM")
    parameter_bytes = sum(parameter.nbytes for parameter in training.module.parameters())
    state_bytes = measure_state(training.optimizer.state.values()).bytes
    del training
    gc.collect()

    again: list[Training] = []  # the profiler has to see each tensor from its beginning to its end

    def first() -> None:
        again.append(Training(mode, architecture, rows, tokens, device))
        again[0].step()

    def later() -> None:
        again[0].step()

    return {
        "allocated_bytes": (peak_on_cuda if device.type == "cuda" else peak_on_cpu)(first, later),
        "resident_bytes": None if device.type == "cuda" or peak is None or started is None else peak - started,
        "parameter_bytes": parameter_bytes,
        "state_bytes": state_bytes,
        "seconds": statistics.median(times),
        "losses": losses,
    }


def resident_bytes(key: str) -> int | None:
    """Memory of this process.

    Args:
        key: ``VmRSS`` for what is resident now, ``VmHWM`` for the peak.

    Returns:
        Bytes; None where the system does not tell, as outside of Linux.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = [line.split() for line in status.read_text().splitlines()]
    return next((int(line[1]) * 1024 for line in lines if line and line[0] == f"{key}:"), None)


def forget_peak() -> None:
    """Lets the peak of resident memory begin anew; on Linux only."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")
