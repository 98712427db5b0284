"""Intervals and tests, compared with scipy or with counting everything."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from vicuna.eval.statistics import mean_estimate, power, rank_correlation, ratio_estimate, sign_test, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (171, 200)])
def test_wilson_is_scipys(k, n):
    ours = wilson(k, n)
    theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_bootstrap_finds_the_exact_percentiles_of_a_small_sample():
    values = np.array([1.0, 0.0, 0.5, 1.0])
    every = [np.mean(draw) for draw in itertools.product(values, repeat=len(values))]
    exact = np.percentile(every, [2.5, 97.5])
    ours = mean_estimate(values, 40_000, seed=1)
    assert ours.value == values.mean()
    assert (ours.low, ours.high) == pytest.approx(tuple(exact), abs=1e-9)


def test_the_paired_bootstrap_keeps_both_scores_of_a_question_together():
    theirs = np.arange(1.0, 11.0)
    ours = ratio_estimate(2 * theirs, theirs, 2_000, seed=0)
    assert (ours.value, ours.low, ours.high) == pytest.approx((2, 2, 2))


def test_equal_outcomes_never_claim_certainty():
    estimate = mean_estimate(np.ones(20), 1_000, seed=0)
    assert estimate.method == "wilson"
    assert estimate.low < 0.9
    assert estimate.high == 1


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(5).choice([0, 0.5, 1], 50)
    assert mean_estimate(values, 1_000, seed=3) == mean_estimate(values, 1_000, seed=3)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng, covered, runs = np.random.default_rng(0), 0, 300
    for run in range(runs):
        estimate = mean_estimate(rng.choice([0, 0.5, 1], 80, p=[0.3, 0.2, 0.5]), 400, seed=run)
        covered += estimate.low <= 0.6 <= estimate.high
    assert 0.91 <= covered / runs <= 0.98


def test_the_sign_test_is_the_exact_binomial_one():
    tails = sum(math.comb(10, k) for k in (0, 1, 2, 8, 9, 10)) / 2**10
    assert sign_test(8, 2) == pytest.approx(tails)
    assert sign_test(0, 0) == 1


def test_power_says_how_many_questions_a_difference_needs():
    assert power(80).resolution == pytest.approx(0.1096, abs=1e-4)
    assert power(80).needed_for_5_points == 385
    assert "With 80 questions, differences below 11.0 points" in power(80).sentence()


def test_a_correlation_needs_variation_on_both_sides():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([5.0, 6, 9])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.ones(3)) is None
