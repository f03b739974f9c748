"""A GGUF file is converted once, completely or not at all, and its errors are one sentence."""

import importlib.util
import os
from pathlib import Path

import gguf
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from lightning import Trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

from recipes import TextClassificationData, TextClassifier
from recipes.checksums import file_sha256
from recipes.messages import RecipeError
from recipes.models import gguf as gguf_conversion
from recipes.models.gguf import as_folder

WIDTH, INNER, HEADS, POSITIONS = 32, 64, 2, 64


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "hf"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(home))
    return home / "recipes" / "gguf"


@pytest.fixture(scope="module")
def gguf_file(tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer with the tiny model's tokenizer, its embedding quantized to 8 bits."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] + [1] * (len(vocabulary) - 1))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    rng = np.random.default_rng(0)
    for name, shape in {
        "token_embd": (len(vocabulary), WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH, WIDTH),
        "blk.0.attn_v": (WIDTH, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }.items():
        tensor = rng.standard_normal(shape, dtype=np.float32) * 0.1
        kind = gguf.GGMLQuantizationType.Q8_0 if name == "token_embd" else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _merges(tokenizer) -> list:
    import json

    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def test_names_of_other_models_are_not_changed() -> None:
    assert as_folder("org/model", "model.pretrained") == "org/model"
    assert as_folder("some/folder", "model.pretrained") == "some/folder"


def test_a_file_becomes_a_folder_of_safetensors_with_its_tokenizer(gguf_file: Path, tiny_lm: Path, cache: Path) -> None:
    folder = Path(as_folder(str(gguf_file), "model.pretrained"))

    assert folder.parent == cache
    assert (folder / "model.safetensors").is_file()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not hasattr(model.config, "quantization_config")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    text = "Once there was a plum."
    expected = AutoTokenizer.from_pretrained(tiny_lm)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == expected


def test_a_file_becomes_a_text_classifier(gguf_file: Path, cache: Path, wires_csv: Path) -> None:
    module = TextClassifier(str(gguf_file))
    data = TextClassificationData("headline", "desk", str(wires_csv), validation=0.25, max_length=16, batch_size=12)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=1, limit_val_batches=1, enable_model_summary=False, **options)
    trainer.fit(module, data)

    assert isinstance(module.model, LlamaForSequenceClassification)
    assert module.model.config.num_labels == len(data.labels)


def test_it_is_converted_once(gguf_file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = as_folder(str(gguf_file), "model.pretrained")
    monkeypatch.setattr(gguf_conversion, "_convert", lambda *_: pytest.fail("converted again"))
    other_name = tmp_path / "other.gguf"
    other_name.write_bytes(gguf_file.read_bytes())

    assert as_folder(str(other_name), "model.pretrained") == folder


def test_an_interrupted_conversion_leaves_nothing(
    gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(model, tokenizer, folder) -> None:
        Path(folder, "config.json").write_text("{}", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_conversion, "save", save)

    with pytest.raises(KeyboardInterrupt):
        as_folder(str(gguf_file), "model.pretrained")
    assert list(cache.iterdir()) == []


def test_of_two_conversions_at_once_the_first_to_finish_is_kept(
    gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_save = gguf_conversion.save

    def save(model, tokenizer, folder) -> None:
        really_save(model, tokenizer, folder)
        winner = cache / file_sha256(gguf_file)
        winner.mkdir()
        (winner / "first").touch()

    monkeypatch.setattr(gguf_conversion, "save", save)
    folder = Path(as_folder(str(gguf_file), "model.pretrained"))

    assert os.listdir(cache) == [folder.name]
    assert (folder / "first").is_file()


def test_a_missing_file_is_named(cache: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.pretrained: there is no file 'nowhere\.gguf'"):
        as_folder("nowhere.gguf", "model.pretrained")


def test_a_file_of_another_kind_is_reported_to_be_no_gguf(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "text.gguf"
    file.write_text("Once upon a time", encoding="utf-8")

    with pytest.raises(RecipeError, match="is not a GGUF file, or a corrupted one"):
        as_folder(str(file), "model.pretrained")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_file_that_ends_too_early_is_reported_to_be_corrupted(
    gguf_file: Path, tmp_path: Path, cache: Path, share: float
) -> None:
    content = gguf_file.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(content[: round(len(content) * share)])

    with pytest.raises(RecipeError, match=r"cut\.gguf' cannot be read, it is corrupted or of an unknown kind: \S"):
        as_folder(str(file), "model.pretrained")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(gguf_conversion, "find_spec", lambda name: None if name == package else find_spec(name))

    with pytest.raises(RecipeError, match=f"reads with the package {package}: pip install {package}"):
        as_folder(str(gguf_file), "model.pretrained")


def test_a_cache_that_cannot_be_written_is_named(gguf_file: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.touch()  # a file where the folder should be: not even root can write into it

    with pytest.raises(RecipeError, match="set the environment variable HF_HOME to a folder with enough space"):
        as_folder(str(gguf_file), "model.pretrained")
