"""Text generation with a language model."""

from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from recipes.messages import RecipeError
from recipes.models.positions import positions_of
from recipes.models.pretrained import quiet
from recipes.sharding.weights import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def continue_text(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    *,
    key: str,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> str:
    """Continues a text, without a change of the model or the random state of the process.

    All processes that share a sharded model call this, and get the same text.

    Args:
        model: The model, on any device, in train or eval mode.
        tokenizer: Its tokenizer.
        prompt: The text to continue.
        key: Where the prompt was given, for error messages.
        max_new_tokens: Maximum number of tokens to generate; an end-of-text token ends the text earlier.
        temperature: 0 always takes the most probable token, 1 samples from the model's distribution.
        top_p: Sample from the most probable tokens that together have this probability.
        seed: Seed of the sampling.

    Returns:
        The continuation, without the prompt.

    Raises:
        RecipeError: The prompt is empty, or prompt and new tokens exceed the model's context length.
    """
    from transformers import GenerationConfig

    inputs = read_prompt(model, tokenizer, prompt, key=key, max_new_tokens=max_new_tokens).to(model.device)
    known = model.generation_config
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id if known.eos_token_id is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        use_cache=True,
        **drawn,
    )
    training = model.training
    model.eval()
    # What a generation config omits comes from the model's own, which may sample where greedy decoding is wanted.
    model.generation_config = config
    try:
        # FSDP2 and DTensor do not work on tensors of inference mode.
        with torch.no_grad() if is_sharded(model) else torch.inference_mode(), isolate_rng(), quiet():
            torch.manual_seed(seed)
            output = model.generate(  # type: ignore[operator]
                inputs, attention_mask=torch.ones_like(inputs), generation_config=config
            )
    finally:
        model.generation_config = known
        model.train(training)
    return str(tokenizer.decode(output[0, inputs.shape[1] :], skip_special_tokens=True))


def read_prompt(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, *, key: str, max_new_tokens: int
) -> torch.Tensor:
    """The tokens of a prompt, of shape (1, tokens).

    Args:
        model: The model that reads them.
        tokenizer: Its tokenizer.
        prompt: The text.
        key: Where it was given, for error messages.
        max_new_tokens: Tokens that will be generated after it.

    Raises:
        RecipeError: The text is empty, or text and new tokens exceed the model's context length.
    """
    tokens = tokenizer(prompt, return_tensors="pt")["input_ids"].long()
    length = tokens.shape[1]
    if length == 0 or not prompt.strip():
        raise RecipeError(f"{key} is empty: give at least one word to continue")
    positions = positions_of(model.config)
    if positions is not None and length + max_new_tokens > positions:
        raise RecipeError(
            f"{key} has {length} tokens, and with {max_new_tokens} new ones that is more than the {positions} that "
            "the model reads: shorten it or ask for fewer"
        )
    return tokens
