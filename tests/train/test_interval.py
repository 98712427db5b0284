"""When a checkpoint is due, and why."""

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from vicuna.train.config import CheckpointConfig
from vicuna.train.interval import FIRST, Cadence, interval
from vicuna.train.parallel import World

seconds = st.floats(1e-3, 1e4)


def lost(every: float, cost: float, mtbf: float) -> float:
    """Expected share of the time that goes to saving and to doing half an interval again, to the first order."""
    return cost / every + every / (2 * mtbf)


def test_the_interval_is_youngs_and_says_why():
    found = interval(cost=2.1, written=30, step=4.7, mtbf=7200)
    assert found.steps == round(math.sqrt(2 * 2.1 * 7200) / 4.7) == 37
    assert found.why == (
        "a checkpoint every 37 steps (174 s): it takes 2.1 s of training, and a preemption is expected every 2 h; "
        "√(2 × 2.1 s × 7,200 s) = 174 s (Young)"
    )


def test_the_next_one_waits_until_the_last_is_written():
    found = interval(cost=0.01, written=100, step=2, mtbf=7200)
    assert found.steps == 50
    assert found.why.endswith("; one is written in 100 s")


@given(cost=seconds, mtbf=st.floats(60, 1e6), step=st.floats(1e-3, 100), other=st.integers(1, 10**7))
def test_no_other_interval_loses_much_less_time(cost, mtbf, step, other):
    """9%: rounding 1.5 steps to one costs up to 8.3% of what is lost."""
    assume(2 * cost <= mtbf)
    steps = interval(cost, 0, step, mtbf).steps
    assert lost(steps * step, cost, mtbf) <= 1.09 * lost(other * step, cost, mtbf)


@given(cost=seconds, written=seconds, mtbf=st.floats(60, 1e6), step=st.floats(1e-3, 100))
def test_an_interval_is_never_shorter_than_the_writing_nor_much_longer_than_the_time_between_preemptions(
    cost, written, mtbf, step
):
    taken = interval(cost, written, step, mtbf).steps * step
    assert taken >= written * (1 - 1e-9)
    assert taken <= max(mtbf, written) + step


def due(cadence: Cadence, until: int) -> list[int]:
    return [step for step in range(1, until + 1) if cadence.due(step, step == until)]


def test_a_given_interval_is_kept_and_the_last_step_has_one_too_where_there_are_any():
    assert due(Cadence(CheckpointConfig(every=3), World(), 0), 11) == [3, 6, 9, 11]
    assert due(Cadence(CheckpointConfig(every="auto"), World(), 0), 4) == [4]
    assert due(Cadence(CheckpointConfig(every=0), World(), 0), 12) == []


def test_auto_measures_the_first_checkpoint_early_and_then_follows_the_cost():
    cadence = Cadence(CheckpointConfig(every="auto", mtbf=1.0), World(), 100)
    found: list[tuple[int, str]] = []
    writing = 0
    for step in range(101, 500):
        cadence.ran(1.5 if writing else 1.0, writing > 0)  # six steps beside a writer, each half a second longer
        writing = max(0, writing - 1)
        if cadence.due(step, False):
            found.append((step, cadence.saved(step, 0.125, 9.0 if found else 0.0)))
            writing = 6
    steps = [step for step, _ in found]
    assert steps[0] == 100 + FIRST
    assert steps[1] - steps[0] == round(math.sqrt(2 * 0.125 * 3600)) == 30  # the slowdown is not known yet
    assert {b - a for a, b in zip(steps[1:], steps[2:], strict=False)} == {round(math.sqrt(2 * 3.125 * 3600))}
    said = [line for _, line in found]
    assert said[0].startswith("a checkpoint every 30 steps (30 s): it takes 0.12 s of training")
    assert said[1].startswith("a checkpoint every 150 steps (150 s): it takes 3.1 s of training")
    assert not any(said[2:])
