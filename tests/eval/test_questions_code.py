"""The reference code of our coding questions does what the questions ask, and the faulty code fails as stated."""

import contextlib
import io
import re
import sqlite3
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_questions import QUESTIONS, guide


def block(text: str, language: str = "python") -> str:
    """The only code block of the language."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)
    return code


def names(code: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(code, found)
    return found


# ------------------------------------------------------------------------------------------------ free slots
def clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def slots_by_minutes(bookings, opening, closing, minutes):
    """Look at each minute by itself."""
    free = [opening <= t < closing and not any(a <= t < b for a, b in bookings) for t in range(1441)]
    edges = [t for t in range(1441) if free[t] != (t > 0 and free[t - 1])]
    return [(clock(a), clock(b)) for a, b in zip(edges[::2], edges[1::2]) if b - a >= minutes]


times = st.integers(0, 1439)
spans = st.tuples(times, times).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: tuple(sorted(pair)))
near = st.tuples(st.integers(530, 640), st.integers(1, 40)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(spans, max_size=4) | st.lists(near, max_size=8), st.just((540, 630)) | spans, st.integers(1, 60))
def test_the_free_slots_are_those_that_a_look_at_each_minute_finds(bookings, hours, minutes):
    free_slots = names(block(guide("coding-01")))["free_slots"]
    given_bookings = [(clock(a), clock(b)) for a, b in bookings]
    before = list(given_bookings)
    found = free_slots(given_bookings, clock(hours[0]), clock(hours[1]), minutes)
    assert found == slots_by_minutes(bookings, *hours, minutes)
    assert given_bookings == before


# ------------------------------------------------------------------------------------------------ rare words
CALLS = {
    'rare_words("A A", 1)': (["a"], []),
    'rare_words("a bb", 2)': (["a", "bb"], ["bb", "a"]),
    'rare_words("a b", 1)': (["b"], ["a"]),
    'rare_words("a", 0)': (["a"], []),
    'rare_words("(a a", 1)': (["(a"], []),
    'rare_words("!", 1)': ([""], []),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_named_fault_shows_in_its_call_and_the_corrected_function_is_free_of_it(call):
    faulty, right = (names(block(text)) for text in (QUESTIONS["coding-02"].turns[0], guide("coding-02")))
    assert f"`{call}` returns {CALLS[call][0]}" in guide("coding-02")
    assert (eval(call, faulty), eval(call, right)) == CALLS[call]


def test_the_faulty_function_remembers_its_earlier_calls_and_the_corrected_one_does_not():
    faulty, right = (names(block(text))["rare_words"] for text in (QUESTIONS["coding-02"].turns[0], guide("coding-02")))
    assert (faulty("a", 1), faulty("a", 1)) == (["a"], [])
    assert (right("a", 1), right("a", 1)) == (["a"], ["a"])


@given(st.lists(st.sampled_from(["a", "A", "bb", "Bb,", "ccc", "(ccc)", "dd", "-", "eee!"])), st.integers(0, 5))
def test_the_corrected_function_finds_the_longest_rare_words(words, n):
    rare_words = names(block(guide("coding-02")))["rare_words"]
    bare = [word for word in (each.strip("(),!-").lower() for each in words) if word]
    once = [word for word in bare if bare.count(word) == 1]
    wanted = [word for size in (3, 2, 1) for word in once if len(word) == size]
    assert rare_words(" ".join(words), n) == wanted[:n]


# ------------------------------------------------------------------------------------------------ rain
def longest_runs(rows):
    """(station, first day, days) by walking through the days."""
    result = []
    for station in sorted({row[0] for row in rows}):
        wet = {row[1] for row in rows if row[0] == station and row[2] >= 1.0}
        best = (0, None)
        for day in sorted(wet):
            length = 0
            while (date.fromisoformat(day) + timedelta(length)).isoformat() in wet:
                length += 1
            best = (length, day) if length > best[0] else best
        result.append((station, best[1], best[0]))
    return result


DAYS = [(date(2024, 2, 25) + timedelta(n)).isoformat() for n in range(10)]
measured = st.dictionaries(
    st.tuples(st.sampled_from("ABC"), st.sampled_from(DAYS)), st.sampled_from([0.0, 0.9, 1.0, 5.0]), max_size=30
)


@given(measured)
def test_the_query_finds_the_longest_wet_run_of_each_station(table):
    rows = [(station, day, mm) for (station, day), mm in table.items()]
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE rain(station TEXT, day TEXT, mm REAL)")
        database.executemany("INSERT INTO rain VALUES (?, ?, ?)", rows)
        assert database.execute(block(guide("coding-03"), "sql")).fetchall() == longest_runs(rows)


# ------------------------------------------------------------------------------------------------ balanced pieces
def pieces(text):
    """Every balanced piece by trying all, the leftmost first."""
    every = (text[a:b] for a in range(len(text)) for b in range(a + 1, len(text) + 1))
    return [each for each in every if each.count("a") == each.count("b") and each.count("c") % 2 == 0]


@given(st.text("abc", max_size=25))
def test_balanced_pieces_are_counted_and_the_longest_is_the_leftmost_of_its_length(text):
    balanced = names(block(guide("coding-04")))["balanced"]
    longest = names(block(guide("coding-04", 2)))["longest_balanced"]
    assert balanced(text) == len(pieces(text))
    assert longest(text) == max(pieces(text), key=len, default="")


@pytest.mark.parametrize("text", ["cabc", "aabbcc"])
def test_the_examples_of_balanced_pieces_are_listed_in_full(text):
    (listed,) = re.findall(rf'"{text}": (\d+) pieces (.*?)\.', guide("coding-04"))
    quoted = set(re.findall(r'"([abc]+)"', listed[1]))
    assert int(listed[0]) == len(pieces(text))
    assert quoted == set(pieces(text))


# ------------------------------------------------------------------------------------------------ what is printed
def test_the_program_prints_the_known_answer():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block(QUESTIONS["coding-05"].turns[0]), {})
    assert printed.getvalue().strip() == QUESTIONS["coding-05"].reference[0]
