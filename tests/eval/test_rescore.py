"""Judgement files of other projects, read again from their raw texts."""

import json

import pytest

from vicuna import manifest
from vicuna.eval.__main__ import main


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def review(question, text, score, **more):
    ids = {"review_id": f"r{question}", "answer1_id": f"x{question}", "answer2_id": f"y{question}"}
    return {"question_id": question, "text": text, "score": score, "reviewer_id": 1, "metadata": {}} | ids | more


def rescored(tmp_path, *words):
    out = tmp_path / "out"
    assert main(["rescore", "--out", str(out), "--resamples", "200", *map(str, words)]) == 0
    assert "<h1>" in (out / "report.html").read_text()
    assert manifest.verify(out).kind == "rescored judgements"
    return json.loads((out / "scores.json").read_text())


REVIEWS = [
    review(1, "8 9\nThe second says more.", [8.0, 9.0]),
    review(2, "7 7\nAlike.", [7.0, 7.0]),
    review(3, "Solving it: 4.\nScores:\nAssistant 1: 10\nAssistant 2: 3\nSo.", [-1, -1]),
    review(4, "Hard to say.", [-1, -1]),
    review(5, "9 4\nThe first.", [4.0, 9.0]),
]


def test_2023_reviews_are_scored_from_the_text_never_from_the_record(tmp_path):
    path = write(tmp_path / "review_old_new-13b.jsonl", REVIEWS)
    scores = rescored(tmp_path, "--reviews", path)
    (pair,) = scores["pairs"]
    assert (pair["model"], pair["baseline"]) == ("new-13b", "old")
    assert (pair["win"], pair["tie"], pair["loss"], pair["unscored"]) == (1, 1, 2, 1)
    assert pair["totals"] == {"new-13b": 9 + 7 + 3 + 4.0, "old": 8 + 7 + 10 + 9.0}
    assert [each["question"] for each in scores["unreadable"]] == ["4"]
    assert [(each["question"], each["ours"], each["recorded"]) for each in scores["different"]] == [
        ("3", [10.0, 3.0], None), ("5", [9.0, 4.0], [4.0, 9.0]),
    ]  # fmt: skip


def test_categories_and_model_names_come_from_the_question_and_answer_files(tmp_path):
    path = write(tmp_path / "reviews.jsonl", REVIEWS[:2])
    asked = write(tmp_path / "question.jsonl", [
        {"question_id": 1, "text": "Why?", "category": "generic"},
        {"question_id": 2, "text": "2 + 2?", "category": "math"},
    ])  # fmt: skip
    answers = write(tmp_path / "answer.jsonl", [
        {"answer_id": f"{side}{n}", "question_id": n, "model_id": model, "text": "."}
        for side, model in (("x", "left:v1"), ("y", "right:v1")) for n in (1, 2)
    ])  # fmt: skip
    (pair,) = rescored(tmp_path, "--reviews", path, "--questions", asked, "--answers", answers)["pairs"]
    assert (pair["model"], pair["baseline"]) == ("right:v1", "left:v1")
    assert {name: each["win"] for name, each in pair["categories"].items()} == {"generic": 1, "math": 0}


def test_a_row_that_stands_twice_counts_once_and_files_of_one_name_stay_apart(tmp_path):
    one = write(tmp_path / "one" / "review_old_new.jsonl", [REVIEWS[0], REVIEWS[0]])
    two = write(tmp_path / "two" / "review_old_new.jsonl", [REVIEWS[4]])
    pairs = rescored(tmp_path, "--reviews", one, two)["pairs"]
    assert [(each["model"], each["win"], each["loss"]) for each in pairs] == [("one/new", 1, 0), ("two/new", 0, 1)]


def test_mt_bench_pairs_are_won_only_if_both_games_agree(tmp_path):
    def row(question, first, second, winners, turn=1):
        return {"question_id": question, "model_1": "a", "model_2": "b", "judge": ["gpt-4", "pair-v2"], "turn": turn,
                "g1_winner": winners[0], "g1_user_prompt": "", "g1_judgment": first, "tstamp": 0.0,
                "g2_winner": winners[1], "g2_user_prompt": "", "g2_judgment": second}  # fmt: skip

    path = write(tmp_path / "gpt-4_pair.jsonl", [
        row(81, "So [[A]]", "So [[B]]", ("model_1", "model_1")),
        row(82, "So [[A]]", "So [[A]]", ("model_1", "model_2")),
        row(83, "So [[C]]", "So [[C]]", ("tie", "tie")),
        row(84, "No verdict.", "So [[A]]", ("error", "model_2")),
        row(81, "So [[B]]", "So [[A]]", ("model_2", "model_1"), turn=2),
    ])  # fmt: skip
    scores = rescored(tmp_path, "--reviews", path)
    (pair,) = scores["pairs"]
    assert pair["judge"] == "gpt-4"
    assert (pair["win"], pair["tie"], pair["loss"], pair["unscored"], pair["flips"]) == (1, 2, 1, 1, 1)
    assert pair["totals"] is None
    assert [(each["question"], each["ours"], each["recorded"]) for each in scores["different"]] == [
        ("81 turn 2", "first", "second"),
    ]  # fmt: skip


def test_mt_bench_ratings_are_averaged_by_model_and_turn(tmp_path):
    def row(question, model, text, score, turn=1):
        return {"question_id": question, "model": model, "judge": ["gpt-4", "single-v1"], "user_prompt": "",
                "judgment": text, "score": score, "turn": turn, "tstamp": 0.0}  # fmt: skip

    path = write(tmp_path / "gpt-4_single.jsonl", [
        row(81, "a", "Rating: [[8]]", 8), row(81, "a", "Rating: [[6]]", 6, turn=2), row(82, "a", "Good.", -1),
    ])  # fmt: skip
    scores = rescored(tmp_path, "--reviews", path)
    assert scores["pairs"] == []
    assert scores["ratings"]["a"] == {"mean": 7.0, "turns": {"1": 8.0, "2": 6.0}, "rated": 2, "unreadable": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [([{"question_id": 1}], "reviews.jsonl:1: neither a 2023 review nor"), ([], "no judgements in"),
     ([review(1, None, [1, 1])], "text is the judge's text; got NoneType")],
)  # fmt: skip
def test_what_is_no_judgement_is_an_error_with_its_line(tmp_path, capsys, rows, message):
    path = write(tmp_path / "reviews.jsonl", rows)
    assert main(["rescore", "--reviews", str(path), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
