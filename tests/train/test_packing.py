"""Packing: nothing lost, nothing cut, nothing over capacity, the same plan every time, and ranks that share it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.train.packing import best_fit, pack, plan, share_out

lengths_in_100 = st.lists(st.integers(1, 100), min_size=1, max_size=200).map(lambda each: np.array(each, np.int32))


def bins_of(lengths, seed=0, epoch=0):
    order, count = pack(lengths, 100, seed, epoch)
    return np.split(order, np.cumsum(count)[:-1])


@given(lengths_in_100, st.integers(0, 3), st.integers(0, 3))
def test_every_sample_is_in_exactly_one_bin_and_no_bin_overflows(lengths, seed, epoch):
    bins = bins_of(lengths, seed, epoch)
    assert sorted(np.concatenate(bins)) == list(range(len(lengths)))
    assert all(0 < lengths[each].sum() <= 100 for each in bins)


@given(lengths_in_100)
def test_each_sample_goes_into_the_fullest_bin_that_takes_it(lengths):
    """Against the definition, written out."""
    order = np.argsort(-lengths, kind="stable")
    which, count = best_fit(lengths, order, 100)
    space: list[int] = []
    for sample in order:
        fitting = [left for left in space if left >= lengths[sample]]
        if which[sample] == len(space):
            assert not fitting
            space.append(100)
        assert not fitting or space[which[sample]] == min(fitting)
        space[which[sample]] -= lengths[sample]
    assert len(space) == count


def test_typical_lengths_fill_nearly_everything():
    draw = np.random.RandomState(0)
    lengths = np.clip(np.exp(draw.normal(np.log(334), 0.9, 2_000)), 60, 6_000).astype(np.int32)
    assert plan(lengths[lengths <= 2048], 2048, 8, seed=0).fill > 0.985


@given(lengths_in_100, st.integers(0, 3))
def test_the_same_seed_and_epoch_give_the_same_order_and_others_another(lengths, seed):
    first, again, other = (bins_of(lengths, seed, epoch) for epoch in (0, 0, 1))
    assert all(map(np.array_equal, first, again))
    if len(lengths) > 30:
        assert not np.array_equal(np.concatenate(first), np.concatenate(other))


def test_the_order_does_not_depend_on_the_version_of_numpy():
    order, count = pack(np.arange(1, 21, dtype=np.int32) * 5, 100, seed=7, epoch=1)
    assert order.tolist() == [4, 14, 10, 8, 1, 17, 12, 6, 3, 15, 11, 7, 5, 13, 2, 16, 19, 18, 0, 9]
    assert count.tolist() == [2, 2, 2, 2, 2, 2, 2, 2, 1, 2, 1]


def test_a_sample_that_fits_no_bin_is_a_mistake():
    with pytest.raises(ValueError, match="sample 1 has 101 tokens"):
        plan(np.array([5, 101], np.int32), 100, 4, seed=0)


@given(lengths_in_100, st.sampled_from([0.5, 1.0, 2.5]), st.integers(1, 4), st.integers(0, 5))
def test_a_plan_holds_whole_epochs_in_steps_of_so_many_bins(lengths, epochs, bins, max_steps):
    steps = plan(lengths, 100, bins, 0, epochs, max_steps)
    made = [steps[i] for i in range(len(steps))]
    assert all(len(step) == bins for step in made[:-1])
    assert 1 <= len(made[-1]) <= bins
    seen = np.concatenate([steps.samples(i) for i in range(len(steps))])
    if max_steps:
        assert len(steps) <= max_steps
    else:
        assert (np.bincount(seen, minlength=len(lengths)) >= int(epochs)).all()
        assert (np.bincount(seen) <= np.ceil(epochs)).all()
    assert steps.fill == pytest.approx(lengths[seen].sum() / 100 / sum(map(len, made)))


@given(lengths_in_100, st.integers(1, 5))
def test_no_bin_reaches_across_the_end_of_an_epoch(lengths, bins):
    steps = plan(lengths, 100, bins, 0, epochs=2.0)
    flat = [each for i in range(len(steps)) for each in steps[i]]
    first = len(bins_of(lengths))
    assert sorted(np.concatenate(flat[:first])) == sorted(np.concatenate(flat[first:])) == list(range(len(lengths)))


@given(lengths_in_100, st.integers(1, 20), st.integers(0, 3))
def test_a_longer_run_begins_with_the_steps_of_a_shorter_one(lengths, bins, seed):
    """So a step's number says all about the data position, and no bin is half before a checkpoint."""
    short, long = (plan(lengths, 100, bins, seed, epochs) for epochs in (1.0, 3.0))
    for step in range(len(short) - 1):
        assert all(map(np.array_equal, short[step], long[step]))


def test_a_step_that_is_not_there_is_an_error():
    steps = plan(np.array([5], np.int32), 100, 4, seed=0)
    with pytest.raises(IndexError, match="no step 1"):
        steps[1]


@given(lengths_in_100, st.integers(1, 20), st.integers(1, 8))
def test_the_ranks_do_each_bin_of_a_step_exactly_once_in_the_same_number_of_passes(lengths, bins, ranks):
    steps = plan(lengths, 100, bins, 0)
    for step in range(len(steps)):
        shares = [steps.passes(step, rank, ranks) for rank in range(ranks)]
        assert {len(share) for share in shares} == {-(-len(steps[step]) // ranks)}
        done = [tuple(samples) for share in shares for samples in share if samples is not None]
        assert sorted(done) == sorted(map(tuple, steps[step]))
        assert all(samples is not None for share in shares for samples in share[:-1])


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=40), st.integers(1, 8), st.randoms())
def test_bins_that_cost_alike_meet_in_one_pass_in_whatever_order_they_come(costs, ranks, draw):
    def passes(given):
        shares = [share_out(np.array(given), rank, ranks) for rank in range(ranks)]
        return [sorted(given[i] for i in each if i is not None) for each in zip(*shares)]

    mixed = costs.copy()
    draw.shuffle(mixed)
    assert passes(costs) == passes(mixed)
    assert [cost for each in passes(costs) for cost in reversed(each)] == sorted(costs, reverse=True)


def test_one_long_sample_costs_more_than_many_short_ones_of_the_same_length_together():
    steps = plan(np.array([100] + [10] * 10, np.int32), 100, 2, seed=0, width=4)
    assert [len(samples) for samples in steps.passes(0, 0, 1)] == [1, 10]
