"""Loss, perplexity and accuracy count each token once, however tokens are shared among batches and processes."""

import math

import pytest
import torch
from torch import Tensor

from recipes.language_modeling.metrics import TokenMetrics, negative_log_likelihood
from recipes.language_modeling.packing import IGNORED


def drawn(batch: int, tokens: int) -> tuple[Tensor, Tensor]:
    logits = torch.randn(batch, tokens, 11)
    labels = torch.randint(0, 11, (batch, tokens))
    labels[:, -1] = IGNORED
    return logits, labels


def by_hand(batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    losses, hits = [], []
    for logits, labels in batches:
        for scores, label in zip(logits.reshape(-1, 11).tolist(), labels.flatten().tolist(), strict=True):
            if label != IGNORED:
                losses.append(math.log(sum(map(math.exp, scores))) - scores[label])
                hits.append(scores.index(max(scores)) == label)
    return sum(losses) / len(losses), sum(hits) / len(hits)


def test_the_loss_is_the_sum_over_all_labeled_tokens() -> None:
    logits, labels = drawn(2, 5)

    loss, _ = by_hand([(logits, labels)])

    assert negative_log_likelihood(logits, labels).item() == pytest.approx(8 * loss, rel=1e-5)


def test_each_token_counts_the_same_in_batches_of_any_size() -> None:
    batches = [drawn(3, 7), drawn(1, 2), drawn(2, 5)]
    metrics = TokenMetrics()

    for logits, labels in batches:
        metrics.update(logits, labels)

    loss, accuracy = by_hand(batches)
    values = metrics.compute()
    assert values["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert values["perplexity"].item() == pytest.approx(math.exp(loss), rel=1e-5)
    assert values["accuracy"].item() == pytest.approx(accuracy)


def test_processes_with_uneven_shares_together_give_the_metrics_of_one() -> None:
    batches = [drawn(3, 7), drawn(1, 2), drawn(2, 5)]
    ranks = [TokenMetrics(), TokenMetrics()]
    alone = TokenMetrics()

    for i, batch in enumerate(batches):
        ranks[i % 2].update(*batch)
        alone.update(*batch)

    ranks[0].merge_state(ranks[1])
    assert ranks[0].compute() == alone.compute()


def test_a_batch_without_a_labeled_token_changes_nothing() -> None:
    batch = drawn(2, 4)
    metrics = TokenMetrics()
    metrics.update(*batch)
    before = metrics.compute()

    metrics.update(torch.randn(3, 1, 11), torch.full((3, 1), IGNORED))

    assert metrics.compute() == before


def test_logits_in_bfloat16_are_summed_up_in_float32() -> None:
    logits, labels = drawn(4, 9)

    assert negative_log_likelihood(logits.bfloat16(), labels).dtype == torch.float32
