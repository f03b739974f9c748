"""The data of language modelling: texts, tokenised and packed into blocks of one length."""

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, DistributedSampler

from recipes.data.caching import Cached
from recipes.data.loader import ResumableLoader
from recipes.data.sources import load_split, suffix
from recipes.data.splitting import split_off
from recipes.language_modeling import tokenizer as byte_level_tokenizer
from recipes.language_modeling.packing import collate, pack
from recipes.messages import RecipeError
from recipes.models.gguf import as_folder
from recipes.models.pretrained import load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class LanguageModelingData(LightningDataModule):
    """Running text from files or the Hugging Face hub, in blocks of tokens.

    A split is named by its file or files (.txt, csv, tsv, Orange .tab, json, jsonl, parquet, compressed or not;
    glob patterns and lists too) or, where ``path`` is given, by a split of that dataset. A .txt file is one
    document, a row of the others too; blank ones are dropped and counted. ``validation`` and ``test`` may also
    be a fraction: of the training documents, whole ones, or, where there is a single one, of its end.

    The documents of a split are joined and cut into blocks. What does not fill a last block is dropped from
    the training split, and counted; in the other splits it is kept as a shorter block, and its padding does
    not count.

    Args:
        train: Training file or files, or a split of ``path``. Not needed to test a model that has a tokenizer.
        validation: Validation file or files, or a split of ``path``, or a fraction to carve out of the
            training documents. What is tuned is tuned on it.
        test: Test file or files, or a split of ``path``, or a fraction to carve out of the training documents.
            The best checkpoint is tested on it once. Null: no test.
        text: The column that holds the text.
        path: Name of a dataset on the hub, or its folder. Null: all splits are files.
        name: Configuration of the dataset at ``path``, such as ``wikitext-2-raw-v1`` of ``Salesforce/wikitext``.
        load_args: More arguments for ``datasets.load_dataset``, such as ``{sep: ";"}``, ``{revision: main}``
            or, for files whose paragraphs are documents, ``{sample_by: paragraph}``.
        tokenizer: Hub name or folder of the tokenizer, or a .gguf file. Null: the model's own; for a model that
            starts from nothing, one of bytes and merges of them, learned from the training documents.
        vocabulary_size: Tokens of a tokenizer that is learned; 257 are the bytes and the end-of-text token.
        end_of_text: Whether the end-of-text token ends each document. False for rows that are the lines of one
            running text.
        block_size: Tokens in a block. Time and activation memory grow with it, and so does what the model can
            look back on.
        batch_size: Training blocks in a batch, on each device.
        eval_batch_size: Blocks in a batch when validating and testing.
        split_seed: Seeds the carving of splits. Their documents stay the same whatever the run's seed.
        num_workers: Processes that prepare batches. Texts are packed beforehand, so 0 is fast.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: float | str | list[str] = 0.1,
        test: float | str | list[str] | None = None,
        text: str = "text",
        path: str | None = None,
        name: str | None = None,
        load_args: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        vocabulary_size: int = 1024,
        end_of_text: bool = True,
        block_size: int = 512,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        split_seed: int = 42,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.sources = {"train": train, "validation": validation, "test": test}
        self.text = text
        self.path = path
        self.name = name
        self.load_args = load_args
        self.tokenizer_name = tokenizer
        self.vocabulary_size = vocabulary_size
        self.end_of_text = end_of_text
        self.block_size = block_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.split_seed = split_seed
        self.num_workers = num_workers
        least_values = {
            "vocabulary_size": byte_level_tokenizer.LEAST_SIZE,
            "block_size": 2,
            "batch_size": 1,
            "eval_batch_size": 1,
            "num_workers": 0,
        }
        for key, least in least_values.items():
            if getattr(self, key) < least:
                raise RecipeError(f"data.{key} is {getattr(self, key)}: give {least} or more")
        self.tokenizer: PreTrainedTokenizerBase
        self.tokens: dict[str, int] = {}
        """Tokens in the blocks of each split, and ``dropped``: those of the training split that fill none."""
        self._blocks: dict[str, Dataset] = {}
        self._train_loader: ResumableLoader | None = None
        self._place: dict[str, int] | None = None

    @property
    def has_test(self) -> bool:
        """Whether there is a split to test the best checkpoint on."""
        return self.sources["test"] is not None

    def prepare_data(self) -> None:
        """Loads, checks, tokenises and packs all splits on rank 0 alone; the other ranks find them in the cache."""
        self._load()

    def setup(self, stage: str) -> None:
        """Makes the splits ready to be batched."""
        self._load()

    def _load(self) -> None:
        assert self.trainer is not None
        if self.trainer.state.fn == "predict":
            raise RecipeError(
                "a language model has no labels to predict: `python -m recipes generate --run RUN --prompt TEXT` "
                "writes text, `python -m recipes test` gives its perplexity"
            )
        if self.trainer.state.fn == "fit" and self.sources["train"] is None:
            raise RecipeError(
                "data.train is null, so there is nothing to train on: give a file or a split of data.path"
            )
        if self._blocks:
            return
        documents = self._documents()
        self.tokenizer = self._tokenizer(documents.get("train"), self.trainer.lightning_module)
        if self.end_of_text and self.tokenizer.eos_token_id is None:
            raise RecipeError(
                "data.end_of_text is true, but the tokenizer has no end-of-text token: give another tokenizer, or set "
                "data.end_of_text to false to join documents without one"
            )
        self._blocks = {split: self._pack(split, rows) for split, rows in documents.items()}

    def _documents(self) -> "dict[str, Dataset]":
        """The documents of each split, the carved ones taken out of the training split."""
        documents = {
            split: self._read(split, source) for split, source in self.sources.items() if isinstance(source, str | list)
        }
        whole = len(documents["train"]) if "train" in documents else 0
        single = documents.get("train") if whole == 1 else None
        taken = 0.0
        for split in ("test", "validation"):
            source = self.sources[split]
            if not isinstance(source, float):
                continue
            key = f"data.{split}"
            if not whole:
                raise RecipeError(f"{key} is {source}, a fraction of data.train, which is null: give data.train")
            if single is not None:
                # Of a single text the end is held out: what stands next to it would tell too much.
                documents["train"], documents[split] = self._cut(documents["train"], source / (1 - taken), key, source)
                taken += source
            else:
                share = min(source * whole / len(documents["train"]), 1.0) if 0 < source < 1 else source
                documents["train"], documents[split] = split_off(
                    documents["train"], share, key=key, seed=self.split_seed
                )
        return documents

    def _cut(self, document: "Dataset", share: float, key: str, source: float) -> "tuple[Dataset, Dataset]":
        """A document without its end, and the end, from a paragraph on if one begins near it."""
        text = document[self.text][0]
        place = round(len(text) * (1 - share))
        if not 0 < source < 1 or not 0 < place < len(text):
            raise RecipeError(
                f"{key} is {source}: give a fraction between 0 and 1 of the only document that data.train has, or a "
                "file or split of its own"
            )
        nearest = place - max(1, (len(text) - place) // 4)  # a quarter more is held out at the most
        for boundary in ("\n\n", "\n", " "):
            found = text.rfind(boundary, max(nearest, 0), place)
            if found > 0:
                place = found + len(boundary)
                break
        rest, end = (
            document.map(Cached(part), fn_kwargs={"column": self.text, "start": start, "end": end})
            for start, end in ((0, place), (place, None))
        )
        return rest, end

    def _read(self, split: str, source: str | list[str]) -> "Dataset":
        key = f"data.{split}"
        load_args = self.load_args
        if suffix(source if isinstance(source, str) else source[0] if source else "") == ".txt":
            load_args = {"sample_by": "document", **(load_args or {})}
        dataset = load_split(source, key=key, path=self.path, name=self.name, load_args=load_args)
        if self.text not in dataset.column_names:
            near = get_close_matches(self.text, dataset.column_names, 1)
            raise RecipeError(
                f"data.text is '{self.text}', but {key} has no such column: it has "
                f"{', '.join(dataset.column_names)}" + (f"; did you mean '{near[0]}'?" if near else "")
            )
        feature = dataset.features[self.text]
        if getattr(feature, "dtype", None) not in ("string", "large_string"):
            raise RecipeError(
                f"data.text: column '{self.text}' of {key} holds {feature}, not text: name a column of texts"
            )
        rows = dataset.filter(Cached(not_blank), batched=True, input_columns=[self.text], desc=f"Reading {split}")
        if len(rows) == 0:
            raise RecipeError(f"{key} has no text: all of its {len(dataset)} documents are empty or blank")
        if dropped := len(dataset) - len(rows):
            rank_zero_info(f"{key}: dropped {dropped} of {len(dataset)} documents, which are blank.")
        return rows

    def find_tokenizer(self, module: LightningModule) -> None:
        """Loads the tokenizer or learns it, as training does; no text is packed.

        Args:
            module: The model that it is for.
        """
        learned = self.tokenizer_name is None and getattr(module, "pretrained", None) is None
        self.tokenizer = self._tokenizer(self._documents().get("train") if learned else None, module)

    def largest_batch(self) -> dict[str, torch.Tensor]:
        """A training batch of the largest shape there can be, its numbers without meaning."""
        return {key: torch.zeros(self.batch_size, self.block_size, dtype=torch.long) for key in ("input_ids", "labels")}

    def _tokenizer(self, train: "Dataset | None", module: LightningModule) -> "PreTrainedTokenizerBase":
        trust = bool(getattr(module, "trust_remote_code", False))
        key = "data.tokenizer" if self.tokenizer_name else "model.pretrained"
        name = self.tokenizer_name or getattr(module, "pretrained", None)
        if name is not None:
            return load_tokenizer(as_folder(str(name), key), key, padding=False, trust_remote_code=trust)
        if train is None:
            raise RecipeError(
                "data.train is null, and there is no data.tokenizer: give one of them, the text to learn a tokenizer "
                "from or the folder model/ of a run"
            )
        texts = (text for batch in train.iter(1000) for text in batch[self.text])
        return byte_level_tokenizer.learn(texts, self.vocabulary_size)

    def _pack(self, split: str, documents: "Dataset") -> "Dataset":
        blocks = pack(documents, self.tokenizer, self.text, self.end_of_text, self.block_size, split)
        last = len(blocks[-1]["input_ids"]) if len(blocks) else 0
        tokens = (len(blocks) - 1) * self.block_size + last
        note = f"data.{split}: {tokens:,} tokens of {len(documents):,} documents"
        if split == "train":
            if tokens < self.block_size:
                raise RecipeError(
                    f"data.train has {max(tokens, 0)} tokens, too few for one block of data.block_size "
                    f"{self.block_size}: give more text or a smaller block"
                )
            self.tokens["dropped"] = dropped = tokens % self.block_size
            tokens -= dropped
            blocks = blocks.select(range(tokens // self.block_size))
            note += f" make {len(blocks):,} blocks of {self.block_size}; the last {dropped} fill none and are dropped."
        elif tokens < 2:
            raise RecipeError(f"data.{split} has {max(tokens, 0)} tokens, too few to foretell one from another")
        else:
            note += f" make {len(blocks):,} blocks, the last one of {last}."
        self.tokens[split] = tokens
        rank_zero_info(note)
        return blocks

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches; an order of its own for each seed and epoch."""
        assert self.trainer is not None
        blocks = self._blocks["train"]
        # Lightning would shuffle without regard to the run's seed; a resumed run sees the same batches.
        sampler: DistributedSampler = DistributedSampler(
            blocks,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=True,
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        )
        loader = self._loader(blocks, self.batch_size, sampler)
        assert isinstance(loader, ResumableLoader)
        loader.resume(self._place)
        self._train_loader = loader
        return loader

    def state_dict(self) -> dict[str, Any]:
        """The place in the training split, for a run that goes on from here."""
        return {} if self._train_loader is None else {"place": self._train_loader.place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the place in the training split."""
        self._place = state_dict.get("place")

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in its order."""
        return self._loader(self._for_all_ranks(self._blocks["validation"]), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in its order."""
        if "test" not in self._blocks:
            raise RecipeError("data.test is null, so there is nothing to test on: give a file, a split or a fraction")
        return self._loader(self._for_all_ranks(self._blocks["test"]), self.eval_batch_size)

    def _for_all_ranks(self, blocks: "Dataset") -> "Dataset":
        """As many blocks for each process: else some would be evaluated twice to fill up, and count twice."""
        from datasets import Dataset, concatenate_datasets

        assert self.trainer is not None
        missing = -len(blocks) % self.trainer.world_size
        if not missing:
            return blocks
        # A single token: there is nothing to foretell in it.
        filling = Dataset.from_dict({"input_ids": [[0]] * missing}, features=blocks.features)
        return concatenate_datasets([blocks, filling])

    def _loader(self, blocks: "Dataset", batch_size: int, sampler: DistributedSampler | None = None) -> DataLoader:
        return (DataLoader if sampler is None else ResumableLoader)(
            dataset=blocks,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def part(row: dict[str, Any], column: str, start: int, end: int | None) -> dict[str, str]:
    """A document's text from one character to another."""
    return {column: row[column][start:end]}


def not_blank(texts: list[str | None]) -> list[bool]:
    """Whether each text has more to it than white space."""
    return [bool(text and text.strip("\ufeff \t\r\n\f\v\u00a0")) for text in texts]
