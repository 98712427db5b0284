"""The judge's text → scores. Every sample is written for these tests, in the manners that judges have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.eval.judge import parse_rating, parse_scores, parse_verdict
from vicuna.eval.judge import read_scores as read


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 9\nBoth are fine, the second says more.", (8, 9)),
        ("8.5 7\n\nAssistant 1 was better.", (8.5, 7)),
        ("10 1", (10, 1)),
        ("8, 9\nWhy: ...", (8, 9)),
        ("8/10 9/10\nWhy: ...", (8, 9)),
        ("(8, 9)\nWhy: ...", (8, 9)),
        ("**7 6.5**\nWhy: ...", (7, 6.5)),
        ("\n\n 7 6 \r\nA blank line came first.", (7, 6)),
        ("Scores: 7 6\nBecause ...", (7, 6)),
        ("0 9\nAssistant 1 gave no answer at all.", (0, 9)),
    ],
)
def test_two_numbers_alone_on_the_first_line_are_the_scores(text, scores):
    assert parse_scores(text) == scores
    assert read(text).path == "first line"


@pytest.mark.parametrize(
    ("text", "scores", "path"),
    [
        ("First I solve it: x = 4.\n\nAssistant 1 is right.\n\n(9, 3)", (9, 3), "tuple"),
        ("Working...\n\nOutput: (2, 4)", (2, 4), "tuple"),
        ("Working...\nThe output tuple is (10, 1). Assistant 1 did better here.", (10, 1), "tuple"),
        ("Working...\n```python\n(6, 7.5)\n```", (6, 7.5), "tuple"),
        ("Working...\nscores = (6, 7)", (6, 7), "tuple"),
        (
            "Working...\n\nScores:\nAssistant 1: 10\nAssistant 2: 4\n\nAssistant 1 used the right rule.",
            (10, 4),
            "assistants",
        ),
        (
            "Working...\nAssistant 1: 2 (no steps)\nAssistant 2: 1 (wrong, no steps)\n\nNeither did well.",
            (2, 1),
            "assistants",
        ),
        ("Working...\nAssistant 1: 1/10 (wrong)\nAssistant 2: 6/10 (clear but wrong)\nSo it is.", (1, 6), "assistants"),
        ("So I would give Assistant 1 a score of 10 and Assistant 2 a score of 4.", (10, 4), "assistants"),
        ("I give a score of 7 to Assistant 1 and a score of 9 to Assistant 2.", (7, 9), "assistants"),
        ("Working...\n**Assistant 1:** 7.5\n**Assistant 2:** 8", (7.5, 8), "assistants"),
        ("Working...\nAssistant 1 (8/10) was clear, Assistant 2 (4/10) was not.", (8, 4), "assistants"),
        ("Working...\nAssistant 1 receives a perfect score of 10, while Assistant 2 gets a 7.", (10, 7), "assistants"),
        ("Working...\n[Assistant 1: 8 out of 10, Assistant 2: 9 out of 10]", (8, 9), "assistants"),
        ("Working...\n(Assistant 1 score, Assistant 2 score) = (10, 4)\nSo it is.", (10, 4), "tuple"),
        ("Step 1, step 2, step 3.\n\n8 9", (8, 9), "last line"),
        ("Step 1, step 2, step 3.\n\nFinal scores: 8, 9.", (8, 9), "last line"),
    ],
)
def test_a_judge_that_reasons_first_states_its_scores_at_the_end(text, scores, path):
    assert parse_scores(text) == scores
    assert read(text).path == path


def test_the_last_statement_is_the_verdict():
    text = "At first sight Assistant 1: 9, Assistant 2: 9.\nOn checking the steps:\nOutput: (9, 4)"
    assert parse_scores(text) == (9, 4)


def test_coordinates_and_results_inside_the_reasoning_are_no_scores():
    text = (
        "The points are (2, 1) and (10, 4).\n\nAssistant 1:\n3x + 1 = 10\nf(2) = 9\n\nAssistant 2's answer is 8.\n"
        "Assistant 1: 10\nAssistant 2: 3\n\nThe distance from (2, 1) to (10, 4) was right only in the first."
    )
    assert parse_scores(text) == (10, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Both assistants did well.",
        "8",
        "8 9 7\nThree numbers.",
        "11 5\nOut of range.",
        "5 -1\nOut of range.",
        "Working...\n(12, 3)",
        "Assistant 1: 8\nThe second gave no answer.",
        "The points are (2, 3) and (4, 5); the line has slope 1.",
        "8 apples and 9 pears\nThe first was better.",
        "Assistant 1 is 2 steps ahead of Assistant 2, which is 3 steps behind.",
    ],
)
def test_what_states_no_two_scores_is_unreadable_and_never_guessed(text):
    assert parse_scores(text) is None


half_points = st.integers(2, 20).map(lambda n: n / 2)


@given(half_points, half_points, st.text())
def test_the_explanation_never_changes_scores_on_the_first_line(first, second, explanation):
    assert parse_scores(f"{first:g} {second:g}\n{explanation}") == (first, second)


@given(st.text())
def test_any_text_is_read_or_refused_without_an_error(text):
    scores = parse_scores(text)
    assert scores is None or all(0 <= each <= 10 for each in scores)


def test_mt_bench_verdicts_and_ratings_are_the_last_ones_stated():
    assert parse_verdict('You asked for "[[A]]" or "[[B]]". After all: [[B]]') == "second"
    assert parse_verdict("[[C]]") == "tie"
    assert parse_verdict("A is better") is None
    assert parse_rating("Rating: [[7.5]]") == 7.5
    assert parse_rating("Rating: [[17]]") is None
    assert parse_rating("Rating: 7") is None
