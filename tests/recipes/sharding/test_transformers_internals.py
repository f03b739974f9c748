"""The private parts of transformers that are used are still there."""

import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.sharding.transformers_internals import block_classes


def test_a_model_still_names_the_classes_of_its_blocks() -> None:
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=4, num_attention_heads=1))

    assert block_classes(model) == {"LlamaDecoderLayer"}, (
        f"transformers {transformers.__version__} no longer has _no_split_modules: "
        "see recipes/sharding/transformers_internals.py"
    )
