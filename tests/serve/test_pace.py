"""How many prompt tokens a step takes, learnt from how long steps take."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
from vicuna.serve.engines.continuous.pace import LEAST, MOST, STRETCH, Pace


def test_a_step_with_prompts_takes_as_long_as_it_may_beside_answers() -> None:
    pace = Pace(16)
    pace.learn(0.010, 0, 8)
    for _ in range(9):
        pace.learn(0.010 + 100 * 0.0001, 100, 8)
    may = (STRETCH - 1) * 0.010 / 0.0001
    assert pace.budget(8, 1) == pytest.approx(may, abs=1)
    assert pace.budget(8, 16) == pytest.approx(2 * may, abs=2)  # more wait than are under way
    assert pace.budget(0, 1) == MOST


def test_few_tokens_tell_little() -> None:
    pace = Pace(16)
    pace.learn(2.0, 2, 0)  # two tokens, and all that a library does when it is used for the first time
    pace.learn(0.010, 0, 8)
    sizes = []
    for _ in range(4):
        sizes.append(pace.budget(8, 1))
        pace.learn(0.009, sizes[-1], 8)  # shorter than without them
    assert sizes[0] == LEAST
    assert all(size < other <= 3 * size for size, other in zip(sizes, sizes[1:]))


def test_what_disturbs_a_step_without_prompts_lets_those_with_prompts_become_little_longer() -> None:
    calm, disturbed = Pace(16), Pace(16)
    for number in range(100):
        calm.learn(0.010, 0, 8)
        disturbed.learn(0.010 if number % 8 else 0.100, 0, 8)
    for pace in (calm, disturbed):
        pace.learn(0.010 + 100 * 0.0001, 100, 8)
    assert disturbed.budget(8, 1) < 2 * calm.budget(8, 1)


@settings(max_examples=30, deadline=None)
@given(
    plain=st.floats(0.001, 0.1),
    shallow=st.floats(1e-5, 1e-3),
    deeper=st.floats(1, 3),
    before=st.lists(st.integers(2, MOST), max_size=5),
    seed=st.integers(0, 99),
)
def test_prompts_never_make_steps_much_longer_than_they_may(
    plain: float, shallow: float, deeper: float, before: list[int], seed: int
) -> None:
    """On a machine where tokens become dearer towards a prompt's end, and cost less in large steps without answers."""
    draw = random.Random(seed)
    pace = Pace(16)
    for tokens in [2, *before]:
        pace.learn(plain + tokens * shallow / 1.5, tokens, 0)
    for _ in range(20):
        pace.learn(plain * draw.uniform(1, 1.2), 0, 8)
    done, length = 0, 4000
    while done < length:
        tokens = pace.budget(8, 1)
        assert tokens >= LEAST
        seconds = plain + tokens * shallow * (1 + (deeper - 1) * done / length)
        assert tokens == LEAST or seconds <= 1.6 * STRETCH * plain
        pace.learn(seconds * draw.uniform(1, 1.2), tokens, 8)
        done += tokens


def test_a_number_that_is_set_stays_whatever_the_steps_take() -> None:
    pace = Pace(16, 100)
    for _ in range(10):
        pace.learn(1.0, 0, 8)
        pace.learn(9.0, 100, 8)
    assert pace.budget(8, 1) == 100
