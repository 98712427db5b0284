"""A run that names no questions asks our own 80."""

import json

from eval_endpoint import serving
from own_questions import QUESTIONS, guide

from vicuna import manifest
from vicuna.eval.__main__ import main
from vicuna.eval.questions import OWN, question_file
from vicuna.files import sha256_file

SERVED = {"knows": "a" * 64, "guesses": "b" * 64}
ANSWERS = {each.turns[each.graded_turn]: each.reference[0] for each in QUESTIONS.values() if each.reference}


def chatbots(body):
    """One model knows each short answer that is known, the other none."""
    known = ANSWERS.get(body["messages"][-1]["content"], "It depends.")
    return known if body["model"] == "knows" else "Nobody can say."


def arguments(endpoint, run, *more):
    words = ["--endpoint.base_url", endpoint.base_url, "--out", str(run), "--models", "knows", "guesses"]
    return [*words, "--resamples", "200", *more]


def test_without_questions_the_80_are_asked_and_those_without_a_short_answer_stay_unscored(tmp_path):
    with serving(chatbots, SERVED) as endpoint:
        assert main(arguments(endpoint, tmp_path, "--judge.kind", "reference")) == 0
        assert len(endpoint.requests) == 2 * (53 + 2 * 27)
    (pair,) = json.loads((tmp_path / "scores.json").read_text())["pairs"]
    assert (pair["win"], pair["tie"], pair["loss"], pair["unscored"]) == (15, 0, 0, 65)
    assert (tmp_path / "questions.jsonl").read_bytes() == question_file(OWN).read_bytes()
    assert manifest.verify(tmp_path).parents["questions"] == sha256_file(question_file(OWN))
    assert main(["report", str(tmp_path)]) == 0


def test_a_judge_that_reads_is_shown_the_known_answer_and_what_a_good_answer_has(tmp_path):
    with serving(chatbots, SERVED) as endpoint, serving(lambda _: "8 7\nFine.\n(8, 7)") as judge:
        assert main(arguments(endpoint, tmp_path, "--judge.base_url", judge.base_url, "--judge.model", "j")) == 0
    shown = [each["messages"][1]["content"] for each in judge.requests]
    assert len(shown) == 2 * 80
    assert all("what a good answer has>>>" in text for text in shown)
    for text in (text for text in shown if QUESTIONS["math-04"].turns[1] in text):
        assert f"Turn 1: {guide('math-04')}" in text
        assert "known right answer>>>\nTurn 2: 105\n" in text
