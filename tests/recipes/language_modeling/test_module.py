"""A language model learns, is judged token by token, and is built and trained as its arguments say."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from recipes import LanguageModel
from recipes.language_modeling.architecture import new_config
from recipes.language_modeling.packing import IGNORED
from tests.recipes.language_modeling.trainings import GPT2, data_of, fitted, trainer


def test_it_learns(tiny_lm: Path, tales_csv: Path) -> None:
    module = fitted(
        tiny_lm, tales_csv, {"max_steps": 30, "limit_val_batches": 0, "log_every_n_steps": 1}, optimizer=rate(0.02)
    )

    losses = [value for _, value, _ in module.history.losses]
    assert losses[-1] < losses[0] - 0.7


def rate(lr: float) -> Any:
    return lambda params: torch.optim.AdamW(params, lr=lr)


def test_its_metrics_are_those_of_all_held_out_tokens_taken_together(tiny_lm: Path, tales_csv: Path) -> None:
    module = LanguageModel(str(tiny_lm))
    data = data_of(tales_csv, eval_batch_size=5)
    [logged] = trainer().validate(module, data, verbose=False)

    losses, hits = [], []
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    for block in data.splits["validation"]["input_ids"]:
        with torch.no_grad():
            logits = model(torch.tensor([block])).logits[0, :-1]
        labels = torch.tensor(block[1:])
        losses.append(functional.cross_entropy(logits, labels, reduction="none"))
        hits.append(logits.argmax(-1) == labels)
    loss = torch.cat(losses).mean().item()
    assert logged["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert logged["val/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx(torch.cat(hits).float().mean().item(), rel=1e-5)


def test_training_loss_is_the_mean_over_labeled_tokens(tiny_lm: Path, tales_csv: Path) -> None:
    module = fitted(tiny_lm, tales_csv, {"max_steps": 1})
    module.model.eval()  # type: ignore[union-attr]
    labels = torch.tensor([[5, 6, 7, IGNORED], [8, IGNORED, IGNORED, IGNORED]])
    batch = {"input_ids": torch.randint(0, 300, (2, 4)), "labels": labels}
    module.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]

    loss = module.training_step(batch, 0)

    expected = functional.cross_entropy(
        module(batch["input_ids"]).flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )
    assert torch.allclose(loss, expected)


def test_it_trains_in_train_mode_and_the_parameters_have_the_dtype_asked_for(tiny_lm: Path, tales_csv: Path) -> None:
    module = fitted(tiny_lm, tales_csv, {"max_steps": 1}, dtype="bfloat16", architecture={"attention_dropout": 0.5})

    assert module.model is not None
    assert module.model.training
    assert module.model.config.attention_dropout == 0.5
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_activation_checkpointing_changes_the_memory_and_not_the_weights(tiny_lm: Path, tales_csv: Path) -> None:
    plain, checkpointed = (fitted(tiny_lm, tales_csv, gradient_checkpointing=on) for on in (False, True))

    layers = [layer for layer in checkpointed.modules() if hasattr(layer, "gradient_checkpointing")]
    assert layers
    assert all(layer.gradient_checkpointing for layer in layers)
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradient_release_changes_the_memory_and_not_the_weights(tiny_lm: Path, tales_csv: Path) -> None:
    plain, released = (fitted(tiny_lm, tales_csv, gradient_release=on) for on in (False, True))

    sizes = [module.history.gradients.elements for module in (plain, released)]
    assert sizes == [sum(map(torch.numel, plain.parameters())), max(map(torch.numel, plain.parameters()))]
    for one, other in zip(plain.parameters(), released.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluating_and_generating_before_training_leave_it_bit_for_bit_the_same(
    tiny_lm: Path, tales_csv: Path
) -> None:
    plain = fitted(tiny_lm, tales_csv, architecture={"attention_dropout": 0.5})
    seed_everything(3, verbose=False)
    module = LanguageModel(
        str(tiny_lm), architecture={"attention_dropout": 0.5}, sample_prompts=["Once"], sample_temperature=1.0
    )
    data, looking = data_of(tales_csv), trainer()
    module.before_training(looking, data)
    looking.fit(module, data)

    assert module.before.keys() == {"val/loss", "val/perplexity", "val/accuracy"}
    assert len(module.samples_before) == 1
    for one, other in zip(plain.parameters(), module.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("kept", "restored"),
    [
        ({"prompts": ["Once"], "samples": ["Once a saw"]}, ["Once a saw"]),
        ({"prompts": ["Twice"], "samples": ["Twice a saw"]}, []),
        ({"samples": ["Once a saw"]}, ["Once a saw"]),
        ({"samples": ["Once a saw", "Twice a saw"]}, []),
    ],
    ids=["the same prompt", "another prompt", "older", "older with more prompts"],
)
def test_samples_from_before_the_training_are_restored_for_the_same_prompts(kept: dict, restored: list[str]) -> None:
    module = LanguageModel(architecture=GPT2, sample_prompts=["Once"])

    module.on_load_checkpoint({"before_training": {"metrics": {}, **kept}})

    assert module.samples_before == restored


def test_a_checkpoint_names_the_prompts_of_its_samples() -> None:
    checkpoint: dict[str, Any] = {}

    LanguageModel(architecture=GPT2, sample_prompts=["Once"]).on_save_checkpoint(checkpoint)

    assert checkpoint["before_training"]["prompts"] == ["Once"]


def test_a_model_from_scratch_has_the_architecture_asked_for_and_reloads_with_its_tokenizer(
    tales_csv: Path, tmp_path: Path
) -> None:
    module = fitted(None, tales_csv, {"max_steps": 1}, {"vocabulary_size": 270}, architecture=GPT2)
    module.save_pretrained(tmp_path)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.config.vocab_size == len(tokenizer) == 270
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("Once – 漢")["input_ids"]) == "Once – 漢"
    ids = torch.tensor([tokenizer("Once there was")["input_ids"]])
    assert torch.allclose(model(ids).logits, module.model.eval()(ids).logits, atol=1e-6)  # type: ignore[union-attr]


def test_an_older_name_that_transformers_understands_is_taken(tiny_lm: Path) -> None:
    config = new_config({"model_type": "llama", "rope_theta": 500.0}, AutoTokenizer.from_pretrained(tiny_lm))

    assert config.rope_parameters["rope_theta"] == 500.0
