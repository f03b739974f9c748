"""Models of a few thousand parameters, and texts that they can learn to classify or to continue."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Read once when datasets is imported.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="recipes-tests-")

import pandas
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast, LlamaConfig, LlamaForCausalLM

from recipes.cli.main import main
from recipes.language_modeling.tokenizer import learn_tokenizer

WORDS = {
    "fruit": ["apple", "pear", "plum", "cherry", "quince"],
    "metal": ["iron", "gold", "tin", "copper", "zinc"],
    "tool": ["saw", "file", "plane", "chisel", "awl"],
}


@pytest.fixture(scope="module", autouse=True)
def charts() -> Iterator[None]:
    """Runs leave an empty ``report.png``: drawing takes as long as their training.

    A module that looks at the picture defines a fixture of this name.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.cli.finish.draw", lambda report, losses, evaluations, file: file.touch())
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a randomly initialized BERT of width 16 without a head, and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(word for words in WORDS.values() for word in words),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wires() -> pandas.DataFrame:
    """120 rows with a column ``headline`` of words and a column ``desk`` with the kind of the words."""
    generator = random.Random(0)
    rows = []
    for number in range(120):
        desk = list(WORDS)[number % 3]
        length = generator.randint(3, 12)
        rows.append({"headline": " ".join(generator.choice(WORDS[desk]) for _ in range(length)), "desk": desk})
    return pandas.DataFrame(rows)


@pytest.fixture(scope="session")
def wires_csv(wires: pandas.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wires as a csv file."""
    file = tmp_path_factory.mktemp("wires") / "wires.csv"
    wires.to_csv(file, index=False)
    return file


@pytest.fixture(scope="session")
def tales() -> list[str]:
    """30 tales of 20 to 60 words, of one or two paragraphs."""
    generator = random.Random(0)
    words = [word for kind in WORDS.values() for word in kind]

    def paragraph(length: int) -> str:
        return "Once there was a " + " and a ".join(generator.choice(words) for _ in range(length)) + "."

    return [paragraph(generator.randint(5, 10)) + "\n\n" + paragraph(generator.randint(5, 10)) for _ in range(30)]


@pytest.fixture(scope="session")
def tales_csv(tales: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tales as a csv file with a column ``Content``."""
    file = tmp_path_factory.mktemp("tales") / "tales.csv"
    pandas.DataFrame({"Content": tales}).to_csv(file, index=False)
    return file


@pytest.fixture(scope="session")
def tiny_lm(tales: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a randomly initialized Llama of width 16 and context 64, and its byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = learn_tokenizer(tales, 300)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``tiny.yaml``, a recipe of three epochs of four steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "tiny.yaml").write_text(TINY_RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs`` of ``tiny.yaml``, trained with ``--model.rate 0.02`` once for all tests."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY_RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RUNS_DIR", raising=False)
        patch.syspath_prepend(str(Path(__file__).parent))
        assert main(["fit", "--config", "tiny.yaml", "--model.rate", "0.02"]) == 0
    return folder / "runs"


@pytest.fixture
def finished_run(tiny_recipe: Path, trained: Path) -> Path:
    """The folder of a finished run of ``tiny.yaml``: a copy, as if it had been trained in the working folder."""
    shutil.copytree(trained, tiny_recipe / "runs")
    return Path("runs/tiny/version_0")


TINY_RECIPE = """\
trainer:
  accelerator: cpu
  max_epochs: 3
  log_every_n_steps: 1
  enable_model_summary: false
model:
  class_path: tiny.TinyModel
  init_args:
    width: 4
    optimizer:
      class_path: torch.optim.SGD
      init_args:
        lr: 0.1
data:
  class_path: tiny.TinyData
  init_args:
    width: ${model.init_args.width}
checkpoint:
  monitor: val/score
  mode: max
"""
