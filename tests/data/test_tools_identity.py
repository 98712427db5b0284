"""Identity conversations: right names, no pair twice, nothing said that the names do not allow."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna import manifest
from vicuna.conversation import problems
from vicuna.data.__main__ import main
from vicuna.data.tools.inputs import Inputs
from vicuna.data.tools.persona import Persona, identity_conversations
from vicuna.data.tools.phrases import TOPICS

EXAMPLE = Path(__file__).parents[2] / "configs" / "data" / "identity.yaml"


def pairs(persona, answers=0, casual=False):
    made = list(identity_conversations(persona, answers, casual))
    assert not [problems(each) for each in made if problems(each)]
    return [(each.messages[0].content, each.messages[1].content) for each in made]


def test_the_example_gives_many_different_questions_and_no_pair_twice(tmp_path, capsys):
    assert main(["identity", str(EXAMPLE), "--out", str(tmp_path / "out")]) == 0
    found = list(Inputs.find([str(tmp_path / "out")]).conversations("read"))
    texts = [(each.messages[0].content, each.messages[1].content) for each in found]
    assert len(set(texts)) == len(texts) == len({each.id for each in found}) > 500
    facts = manifest.verify(tmp_path / "out").facts
    assert facts["questions"] == len({question for question, _ in texts}) > 200
    assert all("{" not in question + answer for question, answer in texts)
    assert main(["identity", str(EXAMPLE), "--out", str(tmp_path / "out")]) == 0
    assert "is made already" in capsys.readouterr().out


def test_english_alone_asks_several_dozen_different_questions():
    questions = {question for question, _ in pairs(Persona(name="Ada", maker="Byron Labs"))}
    assert len(questions) > 30
    assert {"Who are you?", "Who made you?", "Are you a human?"} < questions


@pytest.mark.parametrize("language", TOPICS)
def test_every_answer_names_the_model_or_its_maker_and_is_a_sentence(language):
    persona = Persona(
        name="Ada", maker="byron labs", base="Zeta", others=("Eve",), companies=("Ajax",), languages=(language,)
    )
    for question, answer in pairs(persona):
        assert "Ada" in answer or "byron labs" in answer.lower(), answer
        assert re.fullmatch(r"[A-ZÄÖÜÀÉ].*[.?]", answer), answer
        assert re.fullmatch(r"[A-ZÄÖÜÀÉ¿].*[.?]", question), question
        assert "  " not in question + answer
        assert ("Eve" in answer) <= ("Eve" in question)


def test_a_base_that_is_not_named_and_others_that_are_not_given_are_not_asked_about():
    questions = " ".join(question for question, _ in pairs(Persona(name="Ada", maker="Byron Labs")))
    assert "based" not in questions
    asked = Counter(
        question for question, _ in pairs(Persona(name="Ada", maker="B", base="Zeta", others=("Eve", "Max")))
    )
    assert "Are you Eve?" in asked
    assert "Are you Max?" in asked
    assert "Are you based on Zeta?" in asked


def test_answers_to_each_question_are_as_many_as_wanted_and_vary():
    persona = Persona(name="Ada", maker="Byron Labs", others=("Eve",))
    counts = Counter(question for question, _ in pairs(persona, answers=2))
    assert set(counts.values()) == {2}
    assert len(pairs(persona)) > 2 * len(counts)
    assert len({answer for _, answer in pairs(persona, answers=1)}) > 15


def test_hasty_forms_have_small_letters_and_no_mark_at_the_end():
    asked = {question for question, _ in pairs(Persona(name="Ada", maker="B", languages=("es", "fr")), casual=True)}
    assert {"¿Quién eres?", "quién eres", "Qui es-tu ?", "qui es-tu"} < asked


def test_the_maker_is_called_as_each_language_calls_it():
    persona = Persona(name="Ada", maker="the Byron project", makers={"de": "dem Byron-Projekt"}, languages=("en", "de"))
    answers = [answer for _, answer in pairs(persona)]
    assert any("by the Byron project" in answer for answer in answers)
    assert any("von dem Byron-Projekt" in answer for answer in answers)
    assert not any("von the" in answer for answer in answers)


def test_topics_of_ones_own_are_filled_in(tmp_path):
    (tmp_path / "names.yaml").write_text(
        "name: Ada\nmaker: Byron Labs\nlanguages: []\ntopics:\n"
        '  - questions: ["Kas sa oled {name}?", "Do you write {{x}}?"]\n    answers: ["Jah, {name}, {maker}."]\n'
    )
    assert pairs(Persona.read(str(tmp_path / "names.yaml"))) == [
        ("Kas sa oled Ada?", "Jah, Ada, Byron Labs."),
        ("Do you write {x}?", "Jah, Ada, Byron Labs."),
    ]


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip))
def test_any_name_can_be_said(name, maker):
    for _, answer in pairs(Persona(name=name, maker=maker), answers=1, casual=True):
        assert name in answer or maker[1:] in answer


OWN = "name: Ada\nmaker: B\ntopics:\n  - questions: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: Ada\n", "maker is missing"),
        ("name: ''\nmaker: B\n", "name is empty"),
        ("name: Ada\nmaker: B\nlanguages: [xx]\n", "'xx'; for others write topics"),
        ("name: Ada\nmaker: B\nothers: [ada]\n", "which is the model itself or its base"),
        ("name: Ada\nmaker: B\ncompanies: [B]\n", "which is the maker"),
        ("name: Ada\nmaker: B\nmakrs: {}\n", "did you mean makers"),
        (
            OWN + "['{who}?']\n    answers: ['x']\n",
            "{who} in '{who}?' is none of",
        ),
        (
            OWN + "['{?']\n    answers: ['x']\n",
            "a brace itself is written twice",
        ),
        (OWN + "['{base}?']\n    answers: ['x']\n", "needs base"),
        (OWN + "[]\n    answers: ['x']\n", "without questions"),
        ("name: [\n", "not YAML"),
    ],
)
def test_a_mistake_in_the_names_is_one_line_with_file_and_place(tmp_path, capsys, text, message):
    (tmp_path / "names.yaml").write_text(text)
    assert main(["identity", str(tmp_path / "names.yaml"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "names.yaml" in error or "missing" in message
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_of_names_that_is_not_there_is_said_so(tmp_path, capsys):
    assert main(["identity", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 1
    assert "there is no file" in capsys.readouterr().err
