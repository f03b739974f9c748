"""A model continues a text as asked, and nobody can tell afterwards."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from recipes.language_modeling.generation import continue_text
from recipes.messages import RecipeError


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def tokenizer(tiny_lm: Path):
    return AutoTokenizer.from_pretrained(tiny_lm)


def test_without_temperature_each_token_is_the_most_probable_one(model, tokenizer) -> None:
    text = continue_text(model, tokenizer, "Once there", key="prompt", max_new_tokens=8)

    ids = tokenizer("Once there")["input_ids"]
    model.eval()
    for _ in range(8):
        ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] == tokenizer.eos_token_id:
            break
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Once there" + text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_generation_config_of_the_model_changes_nothing(model, tokenizer, temperature: float) -> None:
    asked = {"key": "prompt", "max_new_tokens": 12, "temperature": temperature}
    plainly = continue_text(model, tokenizer, "Once there", **asked)

    own = model.generation_config
    model.generation_config = preferred = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=3, eos_token_id=own.eos_token_id
    )
    try:
        assert continue_text(model, tokenizer, "Once there", **asked) == plainly
        assert model.generation_config is preferred
    finally:
        model.generation_config = own


def test_equal_seeds_sample_equal_texts_and_other_seeds_others(model, tokenizer) -> None:
    first, again, other = (
        continue_text(model, tokenizer, "Once", key="prompt", max_new_tokens=20, temperature=1.0, seed=seed)
        for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


def test_a_tiny_top_p_leaves_only_the_most_probable_token(model, tokenizer) -> None:
    greedy = continue_text(model, tokenizer, "Once", key="prompt", max_new_tokens=10)

    drawn = continue_text(
        model, tokenizer, "Once", key="prompt", max_new_tokens=10, temperature=1.0, top_p=1e-6, seed=5
    )

    assert drawn == greedy


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_random_numbers_stay_as_they_were(model, tokenizer, training: bool) -> None:
    model.train(training)
    expected = torch.get_rng_state()

    continue_text(model, tokenizer, "Once", key="prompt", max_new_tokens=5, temperature=1.0)

    assert model.training == training
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_model_can_be_trained_after_it_has_generated(model, tokenizer) -> None:
    continue_text(model, tokenizer, "Once", key="prompt", max_new_tokens=5)

    model(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()

    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.count_nonzero() for gradient in gradients)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_named(model, tokenizer, prompt: str) -> None:
    with pytest.raises(RecipeError, match=r"model\.sample_prompts\[0\] is empty"):
        continue_text(model, tokenizer, prompt, key="model.sample_prompts[0]", max_new_tokens=5)


def test_more_than_the_model_reads_is_refused(model, tokenizer) -> None:
    with pytest.raises(RecipeError, match="with 64 new ones that is more than the 64 that the model reads"):
        continue_text(model, tokenizer, "Once", key="--prompt 1", max_new_tokens=64)
