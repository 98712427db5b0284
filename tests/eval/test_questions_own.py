"""Our own 80 questions: their make-up, their known answers, and the worked estimates of the Fermi problems."""

import itertools
import math
import re
from collections import Counter

import pytest
from own_questions import QUESTIONS, guide, stated

from vicuna.eval.prompting import prompt_name
from vicuna.eval.questions import OWN, Question, question_file
from vicuna.eval.reference import grade

KNOWN = [each for each in QUESTIONS.values() if each.reference]
FERMI = [each for each in QUESTIONS.values() if each.category == "fermi"]


# ------------------------------------------------------------------------------------------------ make-up
def test_there_are_ten_questions_in_each_of_eight_categories_and_coding_and_math_share_one():
    counts = Counter(each.category for each in QUESTIONS.values())
    assert counts.pop("coding") + counts.pop("math") == 10
    assert counts == dict.fromkeys(
        ["generic", "knowledge", "common-sense", "fermi", "counterfactual", "roleplay", "writing"], 10
    )
    assert {prompt_name(each) for each in ("coding", "math")} == {"coding", "math"}


def test_a_third_of_them_have_two_turns():
    assert Counter(len(each.turns) for each in QUESTIONS.values()) == {1: 53, 2: 27}


def test_every_turn_says_what_a_good_answer_has():
    assert all(all(each.guides) and len(each.guides) == len(each.turns) for each in QUESTIONS.values())


def test_every_turn_is_long_enough_to_be_told_from_everyday_talk():
    words = {len(turn.split()) for each in QUESTIONS.values() for turn in each.turns}
    assert min(words) >= 13


def test_no_two_turns_are_alike():
    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.casefold())
        return {tuple(words[at : at + 13]) for at in range(len(words) - 12)}

    turns = [runs(turn) for each in QUESTIONS.values() for turn in each.turns]
    shared = sum(bool(a & b) for a, b in itertools.combinations(turns, 2))
    assert shared == 0


def test_the_name_stands_for_the_packages_file_and_a_path_for_itself(tmp_path):
    assert question_file(OWN).name == "vicuna-80.jsonl"
    assert question_file(tmp_path / "q.jsonl") == tmp_path / "q.jsonl"


# ------------------------------------------------------------------------------------------------ exact references
def asked(question: Question) -> str:
    return "\n".join(question.turns[: (question.graded_turn or 0) + 1])


@pytest.mark.parametrize("question", KNOWN, ids=lambda each: each.id)
def test_a_known_answer_is_graded_right_and_anything_else_wrong(question):
    for accepted in question.reference:
        assert grade(accepted, question.reference, asked(question)).right
        assert grade(f"**{accepted}**.", question.reference, asked(question)).right
    for wrong in ("I do not know.", "17", "0:30", "No.", "North"):
        assert not grade(wrong, question.reference, asked(question)).right


@pytest.mark.parametrize("question", KNOWN, ids=lambda each: each.id)
def test_a_question_with_a_known_answer_asks_for_a_short_one(question):
    assert re.search(r"\b([Rr]eply with|one short sentence)", question.turns[question.graded_turn])


# ------------------------------------------------------------------------------------------------ Fermi problems
STEP = re.compile(r"^Worked: (.+) = ([\d,.]+) ", re.M)
PART = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?|[×÷+()]")


def number(text: str) -> float:
    return float(text.replace(",", ""))


def computed(text: str) -> float:
    """The value of a calculation with words between its numbers: "3 kg × 2 ÷ (1 day + 1)"."""
    parts = "".join(PART.findall(text)).replace(",", "").replace("×", "*").replace("÷", "/")
    return float(eval(re.sub(r"\(\)", "", parts)))


@pytest.mark.parametrize("question", FERMI, ids=lambda each: each.id)
def test_a_worked_estimate_is_calculated_rightly_and_lies_in_its_range(question):
    for text in filter(None, question.guides):
        ranges = text.split("Plausible: ")[1:]
        assert ranges, text
        for part in ranges:
            low, high = (number(each) for each in re.match(r"([\d,.]+) to ([\d,.]+) ", part).groups())
            steps = STEP.findall(part)
            assert len(steps) == part.count("Worked:") > 0
            for calculation, result in steps:
                assert computed(calculation) == pytest.approx(number(result), rel=0.01), calculation
            assert low < number(steps[-1][1]) < high


def test_what_else_the_fermi_guides_state_is_true():
    assert stated(guide("fermi-05"), "5.7", "1.8")
    assert round(4500 / 785.4, 1) == 5.7
    assert round((4500 / 785.4) ** (1 / 3), 1) == 1.8
    assert round(220 * (4500 / 785.4) ** (1 / 3), -1) == 390
    assert stated(guide("fermi-06"), "30.2", "11.6")
    assert round(26 + 54 * (1 - math.exp(-200 / 2500)), 1) == 30.2
    assert round(1e6 / 86400, 1) == 11.6
    assert stated(guide("fermi-07"), "0.5 nanometres", "1.9 million")
    turns = 4_000_000 / 2.1
    assert round(turns / 1e6, 1) == 1.9
    assert round(1e-3 / turns * 1e9, 1) == 0.5
    assert stated(guide("fermi-08"), "0.093")
    assert round(4186 * 80 / 3.6e6, 3) == 0.093
    assert stated(guide("fermi-03", 2), "5 mg")
    assert round(math.pi * 0.035**2 * 1.3, 3) == 0.005
