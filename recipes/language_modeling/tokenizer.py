"""A byte-pair tokenizer for models that are trained from scratch, trained on the training text."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
LEAST_SIZE = 257
"""The 256 bytes and the end-of-text token."""


def learn_tokenizer(texts: Iterable[str], size: int) -> "PreTrainedTokenizerBase":
    """Trains a byte-level BPE tokenizer; deterministic. It encodes any text and decodes it exactly.

    Args:
        texts: The texts to train on.
        size: Tokens in the vocabulary, at least :data:`LEAST_SIZE`, at which each byte is a token. Texts with
            fewer pairs to merge give fewer.

    Returns:
        A tokenizer that ``AutoTokenizer`` loads once it is saved.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
