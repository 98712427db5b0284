"""Question files of every known layout."""

import json

import pytest

from vicuna.errors import InputError
from vicuna.eval.questions import read_questions


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ours_and_mt_bench_have_turns_and_the_last_known_answer_is_graded(tmp_path):
    rows = [
        {"question_id": 81, "category": "math", "turns": ["2 + 2?", "Double it."], "reference": ["4", "8"]},
        {
            "question_id": "m1",
            "category": "memory",
            "turns": ["I am Anna.", "Who am I?"],
            "reference": [None, ["Anna", "Ann"]],
        },
        {"question_id": "w1", "category": "writing", "turns": ["Write a poem."]},
    ]
    first, second, third = read_questions(write(tmp_path / "q.jsonl", *rows))
    assert (first.id, first.graded_turn, first.reference) == ("81", 1, ("8",))
    assert (second.graded_turn, second.reference) == (1, ("Anna", "Ann"))
    assert (third.graded_turn, third.reference) == (None, ())


def test_a_guide_says_for_each_turn_what_a_good_answer_has(tmp_path):
    rows = [
        {"question_id": "a", "turns": ["Why?", "And how?"], "guide": [None, "Names two ways."]},
        {"question_id": "b", "turns": ["Why?"]},
    ]
    first, second = read_questions(write(tmp_path / "q.jsonl", *rows))
    assert (first.guides, second.guides) == (("", "Names two ways."), ())
    assert first.reference == ()


@pytest.mark.parametrize(
    ("row", "id", "category", "text"),
    [
        ({"question_id": 3, "text": "Why?", "category": "generic"}, "3", "generic", "Why?"),
        ({"instruction": "Do it."}, "1", "general", "Do it."),
        ({"uid": "u7", "prompt": "Build it.", "category": "hard"}, "u7", "hard", "Build it."),
    ],
)
def test_other_projects_layouts_load_as_they_are(tmp_path, row, id, category, text):  # noqa: A002
    (question,) = read_questions(write(tmp_path / "q.jsonl", row))
    assert (question.id, question.category, question.turns) == (id, category, (text,))


def test_a_json_list_is_read_too(tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "One."}, {"instruction": "Two."}]))
    assert [each.id for each in read_questions(path)] == ["1", "2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": 1, "category": "x"}], r"q.jsonl:1: a question has its text in"),
        ([{"question_id": 1, "turns": []}], r"q.jsonl:1: a question has its text in"),
        ([{"question_id": 1, "turns": ["a"], "reference": ["b", "c"]}], r"q.jsonl:1: reference is a list"),
        ([{"question_id": 1, "turns": ["a"], "reference": [{"x": 1}]}], r"q.jsonl:1: a reference answer is"),
        (
            [{"question_id": 1, "turns": ["a"], "guide": "b"}],
            r"q.jsonl:1: guide is a list with a text or null",
        ),
        ([{"question_id": 1, "turns": ["a", "b"], "guide": ["c"]}], r"each of the 2 turns"),
        ([{"question_id": 1, "turns": ["a"], "guide": [7]}], r"q.jsonl:1: guide is a list"),
        ([{"question_id": 1, "text": "a"}, {"question_id": "1", "text": "b"}], "id 1 is used twice"),
        ([], "has no questions"),
    ],
)
def test_a_wrong_question_is_named_with_its_line(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_questions(write(tmp_path / "q.jsonl", *rows))
