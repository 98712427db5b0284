"""Numbers as people read them: short, and never off by more than the digits that are not shown."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.hardware import GIB
from vicuna.train.figures import clock, count, size

WORTH = {"": 1, "million": 1e6, "billion": 1e9, "trillion": 1e12}


@given(st.integers(0, 10**15 - 10**12))
def test_a_count_has_three_digits_from_a_million_on_and_all_below(number):
    digits, _, word = count(number).partition(" ")
    read = float(digits.replace(",", "")) * WORTH[word]
    assert read == pytest.approx(number, rel=0.0051) if word else read == number
    assert not word or len(re.sub(r"\D", "", digits)) <= 3
    assert "e" not in digits


def test_a_count_that_rounds_up_takes_the_next_word():
    assert [count(each) for each in (999_499, 999_500, 999_499_999, 999_500_000)] == [
        "999,499", "1 million", "999 million", "1 billion",
    ]  # fmt: skip


def test_sizes_and_times_are_in_the_units_that_people_think_in():
    assert [size(each) for each in (3 * 2**20, GIB / 10, 79 * GIB)] == ["3.0 MiB", "0.1 GiB", "79.0 GiB"]
    assert [clock(each) for each in (0.4, 65, 3600, 4 * 3600 + 5 * 60 + 6)] == ["0:00", "1:05", "1:00:00", "4:05:06"]
