"""The reference judge: what counts as stating the right answer."""

import pytest

from vicuna.eval.reference import grade

FRANCE = "What is the capital of France?"
CITIES = ("Paris", "London", "Rome")


@pytest.mark.parametrize(
    ("reply", "accepted", "question"),
    [
        ("The capital of France is Paris.", ["Paris"], FRANCE),
        ("paris", ["Paris"], FRANCE),
        ("It is **Paris**!", ["Paris"], FRANCE),
        ("Paris. I hope that helps.", ["Paris"], FRANCE),
        ("The Seine", ["the Seine"], "Which river flows through Paris?"),
        ("It is the River Seine.", ["the Seine", "River Seine"], "Which river flows through Paris?"),
        ("7 plus 5 is 12.", ["12"], "What is 7 plus 5?"),
        ("12", ["12"], "What is 7 plus 5?"),
        ("Twelve.", ["12"], "What is 7 plus 5?"),
        ("12 is 7 plus 5.", ["12"], "What is 7 plus 5?"),
        ("2 times 2 is 4.", ["4"], "What is 2 times 2?"),
        ("5 plus 0 is 5.", ["5"], "What is 5 plus 0?"),
        ("1 metre has 100 centimetres, so 3 metres is 300 centimetres.", ["300"], "How many centimetres is 3 metres?"),
        ("3 metres is 300 centimetres.", ["300 cm"], "How many centimetres is 3 metres?"),
        ("300", ["300 cm"], "How many centimetres is 3 metres?"),
        ("There are 1,000 grams in a kilogram.", ["1000"], "How many grams are in a kilogram?"),
        ("It is 0.5.", ["1/2"], "What is half of one?"),
        ("The first letter of apple is a.", ["a"], "What is the first letter of apple?"),
        ("A.", ["a"], "What is the first letter of apple?"),
        ("cat cat", ["cat cat"], "Say cat twice."),
        ("Your name is Anna.", ["Anna"], "My name is Anna.\nWhat is my name?"),
        ("Yes, it is.", ["yes"], "Is ice cold?"),
        ("No, I am Vicuna.", ["Vicuna"], "Are you a human?"),
        ("7 + 5 = 12.", ["12"], "What is 7 + 5?"),
        ("5 + 5 = 10", ["10"], "What is 5 + 5?"),
        ("London is not it; it is Paris.", ["Paris"], "Is it London? What is the capital of France?"),
    ],
)
def test_a_short_reply_that_states_the_reference_is_right(reply, accepted, question):
    assert grade(reply, accepted, question, rivals=CITIES).right


@pytest.mark.parametrize(
    ("reply", "accepted", "question", "reason"),
    [
        ("", ["Paris"], FRANCE, "empty"),
        ("The capital of France is London.", ["Paris"], FRANCE, "does not state"),
        ("The capital of France is Parisian.", ["Paris"], FRANCE, "does not state"),
        ("The capital of France is Paris and London.", ["Paris"], FRANCE, "also states 'London'"),
        ("Paris, London, Rome.", ["Paris"], FRANCE, "lists"),
        ("- Paris\n- London", ["Paris"], FRANCE, "lists"),
        ("Paris or Lyon.", ["Paris"], FRANCE, "one of several"),
        ("It is not Paris.", ["Paris"], FRANCE, "denies"),
        ("It is Paris. Paris is big. Paris is old.", ["Paris"], FRANCE, "rambles"),
        ("Paris " + "and so on " * 20, ["Paris"], FRANCE, "rambles"),
        ("7 plus 5 is 13.", ["12"], "What is 7 plus 5?", "states 13"),
        ("7 plus 5 is 12, or 13.", ["12"], "What is 7 plus 5?", "states 13"),
        ("It is 11 or 12.", ["12"], "What is 7 plus 5?", "choose from"),
        ("7 plus 5.", ["12"], "What is 7 plus 5?", "states 5"),
        ("5 plus 0 is 0.", ["5"], "What is 5 plus 0?", "states 0"),
        ("4 - 3 = 1.", ["3"], "What is 4 - 1?", "states 1"),
        ("I do not know.", ["12"], "What is 7 plus 5?", "no number"),
        ("3 metres is 300 metres.", ["300 cm"], "How many centimetres is 3 metres?", "states 300 m"),
        ("120", ["12"], "What is 7 plus 5?", "states 120"),
        ("-12", ["12"], "What is 7 plus 5?", "states -12"),
        ("The first letter of apple is b.", ["a"], "What is the first letter of apple?", "'b'"),
        ("I cannot tell.", ["a"], "What is the first letter of apple?", "'i'"),
        ("No, it is not.", ["yes"], "Is ice cold?", "begins with"),
    ],
)
def test_a_wrong_hedged_or_rambling_reply_is_wrong_and_says_why(reply, accepted, question, reason):
    verdict = grade(reply, accepted, question, rivals=CITIES)
    assert not verdict.right
    assert reason in verdict.reason


def test_a_reply_that_was_cut_off_is_wrong_even_if_it_names_the_answer():
    assert not grade("Paris", ["Paris"], FRANCE, finish_reason="length").right


def test_naming_what_the_question_names_is_no_second_answer():
    question = "Is London the capital of France, or what is?"
    assert grade("London is in England, Paris is the capital of France.", ["Paris"], question, rivals=CITIES).right


def test_a_text_that_names_everything_earns_nothing():
    babble = "The capital of Spain is Madrid. The capital of France is Paris. The capital of Italy is Rome."
    assert not grade(babble, ["Paris"], FRANCE, rivals=CITIES).right
