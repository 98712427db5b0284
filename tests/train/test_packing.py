"""Packing: nothing lost, nothing cut, nothing over capacity, and the same plan every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.train.config import OptimConfig
from vicuna.train.optim import learning_rate
from vicuna.train.packing import best_fit_decreasing, fill, pack, plan

lengths_in_100 = st.lists(st.integers(1, 100), min_size=1, max_size=200)


@given(lengths_in_100, st.integers(0, 3), st.integers(0, 3))
def test_every_sample_is_in_exactly_one_bin_and_no_bin_overflows(lengths, seed, epoch):
    bins = pack(lengths, 100, seed, epoch)
    assert sorted(i for each in bins for i in each) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in each) <= 100 for each in bins)


@given(lengths_in_100)
def test_bins_are_at_most_what_first_fit_decreasing_guarantees(lengths):
    """Best-fit-decreasing needs at most 11/9 of the optimum plus one, and the optimum at least the sum."""
    bins = best_fit_decreasing(lengths, 100)
    halves = sum(each > 50 for each in lengths)
    assert len(bins) <= 11 / 9 * max(sum(lengths) / 100 * 1.5 + 1, halves) + 1


def test_typical_lengths_fill_nearly_everything():
    import random

    draw = random.Random(0)
    lengths = [min(2048, int(draw.lognormvariate(5.8, 0.9)) + 1) for _ in range(4000)]
    assert fill(lengths, pack(lengths, 2048, 0, 0), 2048) > 0.985


@given(lengths_in_100, st.integers(0, 3))
def test_the_same_seed_and_epoch_give_the_same_order_and_others_another(lengths, seed):
    assert pack(lengths, 100, seed, 0) == pack(lengths, 100, seed, 0)
    if len(lengths) > 30:
        assert pack(lengths, 100, seed, 0) != pack(lengths, 100, seed, 1)


def test_a_sample_that_fits_no_bin_is_a_mistake():
    with pytest.raises(ValueError, match="sample 1 has 101 tokens"):
        best_fit_decreasing([5, 101], 100)


@given(lengths_in_100, st.sampled_from([0.5, 1.0, 2.5]), st.integers(1, 4), st.integers(0, 5))
def test_a_plan_holds_its_epochs_in_steps(lengths, epochs, accumulation, max_steps):
    steps = plan(lengths, 100, 0, epochs, accumulation, max_steps)
    assert all(1 <= len(step) <= accumulation for step in steps)
    if max_steps:
        assert len(steps) <= max_steps
    elif epochs == 1.0:
        assert sorted(i for step in steps for each in step for i in each) == list(range(len(lengths)))


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    config = OptimConfig(lr=1.0, warmup=0.1, final=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.1, abs=1e-3)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))
    assert learning_rate(OptimConfig(lr=1.0, schedule="linear", warmup=0), 50, 100) == pytest.approx(0.5)
    assert learning_rate(OptimConfig(lr=1.0, schedule="constant"), 99, 100) == 1.0


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_no_step_of_a_short_run_is_wasted(steps, schedule):
    rates = [learning_rate(OptimConfig(lr=1.0, schedule=schedule, warmup=0.03), step, steps) for step in range(steps)]
    assert rates[0] == 1.0
    assert all(rate > 0 for rate in rates)
