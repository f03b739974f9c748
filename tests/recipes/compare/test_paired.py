"""Paired tests between optimizers: against scipy, and the sentence that they lead to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipes.compare.paired import ALPHA, compare_pairs, conclusion, critical_t, detectable, holm, t_test

# three seeds; adamw is worse in each by nearly the same amount, lion is not distinguishable from adafactor
VALUES = {
    "adafactor": {1: 0.90, 2: 0.92, 3: 0.91},
    "adamw": {1: 0.80, 2: 0.8201, 3: 0.8102},
    "lion": {1: 0.91, 2: 0.89, 3: 0.90},
}


@given(st.lists(st.floats(-1, 1).map(lambda value: round(value, 4)), min_size=2, max_size=12))
def test_p_values_are_those_of_scipy(differences: list[float]) -> None:
    if len(set(differences)) > 1:
        assert t_test(differences) == pytest.approx(float(stats.ttest_1samp(differences, 0.0).pvalue), rel=1e-6)


@pytest.mark.parametrize("differences", [[0.0, 0.0], [0.1, 0.1], [0.3], []], ids=str)
def test_equal_differences_or_one_alone_say_nothing(differences: list[float]) -> None:
    assert t_test(differences) is None


@pytest.mark.parametrize("p", [0.05, 0.005, 0.05 / 55])
@pytest.mark.parametrize("freedom", [1, 2, 9])
def test_critical_values_are_those_of_scipy(p: float, freedom: int) -> None:
    assert critical_t(p, freedom) == pytest.approx(float(stats.t.isf(p / 2, freedom)), rel=1e-6)


def test_intervals_are_those_of_scipy() -> None:
    (pair,) = compare_pairs({name: VALUES[name] for name in ("adafactor", "lion")}, "max")
    differences = [0.9 - 0.91, 0.92 - 0.89, 0.91 - 0.90]
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert pair["interval"] == pytest.approx([float(expected.low), float(expected.high)])
    assert pair["interval"][0] < 0 < pair["interval"][1]


def test_the_difference_that_is_needed_reaches_the_level_of_the_smallest_p() -> None:
    pairs = compare_pairs(VALUES, "max")
    needed = detectable(pairs)
    errors = sorted(pair["standard_error"] for pair in pairs)
    assert needed is not None
    assert float(2 * stats.t.sf(needed / errors[1], 2)) == pytest.approx(ALPHA / 3)
    assert detectable([]) is None


def test_the_conclusion_names_every_difference() -> None:
    values = {
        "best": {1: 0.95, 2: 0.55, 3: 0.99},
        "good": {1: 0.80, 2: 0.81, 3: 0.82},
        "bad": {1: 0.30, 2: 0.3101, 3: 0.3202},
    }
    said = conclusion(values, "test/f1", "max", compare_pairs(values, "max"), swept=True)
    assert "best has the best mean test/f1" in said
    assert "no difference to good and bad can be concluded" in said
    assert said.endswith("; good is better than bad.")


def test_the_conclusion_names_seeds_that_are_missing() -> None:
    values = {"one": VALUES["adafactor"], "other": {1: 0.5, 3: 0.7}}
    said = conclusion(values, "test/f1", "max", compare_pairs(values, "max"), swept=True)
    assert said.endswith("; other has results for 2 of 3 seeds only.")


def test_an_infinite_value_has_no_p_value() -> None:
    assert t_test([1.0, float("inf")]) is None


def test_holms_adjustment_is_that_of_its_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_pairs_are_compared_on_common_seeds_only() -> None:
    (pair,) = compare_pairs({"one": {1: 0.5, 2: 0.7, 3: 0.1}, "other": {1: 0.6, 2: 0.9, 4: 0.0}}, "max")
    assert (pair["better"], pair["worse"], pair["seeds"]) == ("other", "one", [1, 2])
    assert pair["difference"] == pytest.approx(0.15)


def test_a_lower_loss_is_better() -> None:
    (pair,) = compare_pairs({"one": {1: 2.0, 2: 2.1}, "other": {1: 3.0, 2: 3.2}}, "min")
    assert pair["better"] == "one"


def test_the_conclusion_names_who_is_beaten_and_of_whom_nothing_can_be_said() -> None:
    said = conclusion(VALUES, "test/f1", "max", compare_pairs(VALUES, "max"), swept=True)
    assert said == (
        "adafactor has the best mean test/f1 (0.91 over 3 seeds), better than adamw (paired t-test, p < 0.05 after "
        "Holm's adjustment); no difference to lion can be concluded; lion is better than adamw."
    )


def test_the_conclusion_says_that_no_difference_is_shown() -> None:
    values = {name: VALUES[name] for name in ("adafactor", "lion")}
    said = conclusion(values, "test/f1", "max", compare_pairs(values, "max"), swept=False)
    assert said == (
        "adafactor has the best mean test/f1 (0.91 over 3 seeds), but no difference to lion can be concluded (paired "
        "t-test, p < 0.05 after Holm's adjustment, is not reached), and with other learning rates they may rank "
        "differently."
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"a": {1: 0.5}, "b": {1: 0.9}},
            "Nothing can be concluded about test/f1 from one seed: give at least three --seeds",
        ),
        ({"a": {1: 0.5}, "b": {}}, "Nothing can be concluded about test/f1: only a has finished."),
        ({}, "Nothing can be concluded about quality: no run has a metric."),
    ],
)
def test_without_pairs_nothing_is_concluded(values: dict[str, dict[int, float]], sentence: str) -> None:
    metric = "test/f1" if values else None
    assert conclusion(values, metric, "max", [], swept=True).startswith(sentence)


def test_a_metric_of_unknown_direction_ranks_nothing() -> None:
    said = conclusion(VALUES, "test/zeta", None, [], swept=True)
    assert said.startswith("Nothing can be concluded about test/zeta: whether higher is better is unknown")


def test_the_number_of_seeds_is_that_of_the_best_optimizer() -> None:
    values = {"one": {1: 0.95}, "two": {1: 0.8, 2: 0.81, 3: 0.8}, "three": {1: 0.7, 2: 0.7, 3: 0.71}}
    assert "one has the best mean test/f1 (0.95 over 1 seed)" in conclusion(
        values, "test/f1", "max", compare_pairs(values, "max"), swept=True
    )
