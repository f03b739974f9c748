"""The parameter shapes of well-known models, written out, so that no model has to be downloaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Shape:
    """One parameter.

    Attributes:
        name: Its name in transformers' model.
        size: Its sizes.
        lookup: Whether it is a table from which a batch looks up a few rows, so that the gradient of all
            others is zero. False for a table that is also the output layer, where every row has a gradient.
    """

    name: str
    size: tuple[int, ...]
    lookup: bool = False


@dataclasses.dataclass(frozen=True)
class Model:
    """The parameters of one model.

    Attributes:
        title: Its name in tables.
        shapes: Its parameters, in the order of ``model.parameters()``.
    """

    title: str
    shapes: tuple[Shape, ...]


def _linear(name: str, inputs: int, outputs: int) -> Iterator[Shape]:
    yield Shape(f"{name}.weight", (outputs, inputs))
    yield Shape(f"{name}.bias", (outputs,))


def _layer_norm(name: str, width: int) -> Iterator[Shape]:
    yield Shape(f"{name}.weight", (width,))
    yield Shape(f"{name}.bias", (width,))


def _encoder(vocabulary: int, positions: int, width: int, layers: int) -> Iterator[Shape]:
    """``DistilBertForSequenceClassification`` with two labels."""
    yield Shape("distilbert.embeddings.word_embeddings.weight", (vocabulary, width), lookup=True)
    yield Shape("distilbert.embeddings.position_embeddings.weight", (positions, width))
    yield from _layer_norm("distilbert.embeddings.LayerNorm", width)
    for number in range(layers):
        layer = f"distilbert.transformer.layer.{number}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            yield from _linear(f"{layer}.attention.{part}", width, width)
        yield from _layer_norm(f"{layer}.sa_layer_norm", width)
        yield from _linear(f"{layer}.ffn.lin1", width, 4 * width)
        yield from _linear(f"{layer}.ffn.lin2", 4 * width, width)
        yield from _layer_norm(f"{layer}.output_layer_norm", width)
    yield from _linear("pre_classifier", width, width)
    yield from _linear("classifier", width, 2)


def _bert(vocabulary: int, positions: int, width: int, layers: int, labels: int) -> Iterator[Shape]:
    """``BertForSequenceClassification``."""
    yield Shape("bert.embeddings.word_embeddings.weight", (vocabulary, width), lookup=True)
    yield Shape("bert.embeddings.position_embeddings.weight", (positions, width))
    yield Shape("bert.embeddings.token_type_embeddings.weight", (2, width))
    yield from _layer_norm("bert.embeddings.LayerNorm", width)
    for number in range(layers):
        layer = f"bert.encoder.layer.{number}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{layer}.attention.self.{part}", width, width)
        yield from _linear(f"{layer}.attention.output.dense", width, width)
        yield from _layer_norm(f"{layer}.attention.output.LayerNorm", width)
        yield from _linear(f"{layer}.intermediate.dense", width, 4 * width)
        yield from _linear(f"{layer}.output.dense", 4 * width, width)
        yield from _layer_norm(f"{layer}.output.LayerNorm", width)
    yield from _linear("bert.pooler.dense", width, width)
    yield from _linear("classifier", width, labels)


def _gpt2(vocabulary: int, positions: int, width: int, layers: int) -> Iterator[Shape]:
    """``GPT2LMHeadModel``, whose weights are (inputs, outputs) and whose output layer is the embedding."""

    def projection(name: str, inputs: int, outputs: int) -> Iterator[Shape]:
        yield Shape(f"{name}.weight", (inputs, outputs))
        yield Shape(f"{name}.bias", (outputs,))

    yield Shape("transformer.wte.weight", (vocabulary, width))
    yield Shape("transformer.wpe.weight", (positions, width))
    for number in range(layers):
        layer = f"transformer.h.{number}"
        yield from _layer_norm(f"{layer}.ln_1", width)
        yield from projection(f"{layer}.attn.c_attn", width, 3 * width)
        yield from projection(f"{layer}.attn.c_proj", width, width)
        yield from _layer_norm(f"{layer}.ln_2", width)
        yield from projection(f"{layer}.mlp.c_fc", width, 4 * width)
        yield from projection(f"{layer}.mlp.c_proj", 4 * width, width)
    yield from _layer_norm("transformer.ln_f", width)


def _llama(
    vocabulary: int, width: int, layers: int, keys: int, intermediate: int, *, tied: bool = False
) -> Iterator[Shape]:
    """``LlamaForCausalLM``; ``keys`` is the width of keys and values, ``tied``: the embedding is the output layer."""
    yield Shape("model.embed_tokens.weight", (vocabulary, width), lookup=not tied)
    for number in range(layers):
        layer = f"model.layers.{number}"
        yield Shape(f"{layer}.self_attn.q_proj.weight", (width, width))
        yield Shape(f"{layer}.self_attn.k_proj.weight", (keys, width))
        yield Shape(f"{layer}.self_attn.v_proj.weight", (keys, width))
        yield Shape(f"{layer}.self_attn.o_proj.weight", (width, width))
        yield Shape(f"{layer}.mlp.gate_proj.weight", (intermediate, width))
        yield Shape(f"{layer}.mlp.up_proj.weight", (intermediate, width))
        yield Shape(f"{layer}.mlp.down_proj.weight", (width, intermediate))
        yield Shape(f"{layer}.input_layernorm.weight", (width,))
        yield Shape(f"{layer}.post_attention_layernorm.weight", (width,))
    yield Shape("model.norm.weight", (width,))
    if not tied:
        yield Shape("lm_head.weight", (vocabulary, width))


MODELS = {
    "distilbert": Model("DistilBERT 66M", tuple(_encoder(28996, 512, 768, 6))),
    "minilm": Model("MiniLM-L6 23M", tuple(_bert(30522, 512, 384, 6, 8))),
    "smollm2": Model("SmolLM2-135M", tuple(_llama(49152, 576, 30, 3 * 64, 1536, tied=True))),
    "gpt2": Model("GPT-2 124M", tuple(_gpt2(50257, 1024, 768, 12))),
    "llama1b": Model("Llama 1.1B (TinyLlama)", tuple(_llama(32000, 2048, 22, 4 * 64, 5632))),
    "tiny": Model("tiny encoder", tuple(_encoder(2000, 64, 96, 2))),
}
"""Models for ``--model``: those whose measurements are published, and a tiny one for trying a change."""

LARGE = {
    "1B": Model("Llama 3.2 1B", tuple(_llama(128256, 2048, 16, 8 * 64, 8192, tied=True))),
    "8B": Model("Llama 3.1 8B", tuple(_llama(128256, 4096, 32, 8 * 128, 14336))),
    "70B": Model("Llama 3.1 70B", tuple(_llama(128256, 8192, 80, 8 * 128, 28672))),
}
"""Models that are counted (``collectives.py``), not stepped."""


def reduced(model: Model) -> Model:
    """Every shape that a model has, once, at a quarter of its sizes: enough to check numbers on.

    Args:
        model: The model.

    Returns:
        A model whose dimensions above 64 are divided by four, without shapes that differ in name alone.
    """
    small: dict[tuple[tuple[int, ...], bool], Shape] = {}
    for shape in model.shapes:
        size = tuple(length if length <= 64 else max(64, -(-length // 4)) for length in shape.size)
        small.setdefault((size, shape.lookup), dataclasses.replace(shape, size=size))
    return Model(f"{model.title}, reduced", tuple(small.values()))
