"""Decontamination: evaluation questions are found where they are, in any layout, and nothing else is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message
from vicuna.data import decontaminate, fingerprint
from vicuna.data.chat import Chat, from_conversation
from vicuna.data.config import DecontaminateConfig
from vicuna.data.questions import KNOWN, Question, question_paths, read_prints
from vicuna.data.questions import fingerprint as printed
from vicuna.errors import InputError
from vicuna.eval.questions import OWN, question_file, read_questions

LONG = (
    "A lighthouse keeper climbs 199 steps twice a day; how many metres does she climb in a year of 365 days "
    "if each step is 18 centimetres high?"
)
SHORT = "Which planet has the longest day?"
TINY = "Why is snow white?"


def chat(*turns: str, system: str | None = None) -> Chat:
    """Question, answer, question, answer, ..."""
    start = (Message("system", system),) if system is not None else ()
    messages = tuple(Message(("user", "assistant")[at % 2], text) for at, text in enumerate(turns))
    return from_conversation(Conversation("id", start + messages), "file", "[0]")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "exam.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in (LONG, SHORT, TINY)))
    return DecontaminateConfig(questions=(str(tmp_path / "exam.jsonl"),))


def outcome(result):
    kept, drops = result
    return len(kept.rounds), [(drop.round.index, drop.reason, drop.detail) for drop in drops]


def found(text: str, config: DecontaminateConfig) -> bool:
    return bool(decontaminate.decontaminated(chat(text, "I do not know."), config)[1])


def test_a_chat_with_a_question_is_dropped_and_every_round_says_why(config):
    asked = chat("Hello", "Hi", f"Quick one:\n\n{SHORT.upper()} Thanks!", "Venus", "Sure?", "Yes")
    assert outcome(decontaminate.decontaminated(asked, config)) == (
        0,
        [
            (0, "beside an evaluation question", "exam.jsonl 2"),
            (1, "evaluation question", "exam.jsonl 2"),
            (2, "beside an evaluation question", "exam.jsonl 2"),
        ],
    )


def test_a_cut_keeps_the_rounds_before_the_question(config):
    cut = DecontaminateConfig(questions=config.questions, action="cut")
    asked = chat("Hello", "Hi", SHORT, "Venus", "Sure?", "Yes")
    assert outcome(decontaminate.decontaminated(asked, cut)) == (
        1,
        [(1, "evaluation question", "exam.jsonl 2"), (2, "after an evaluation question", "exam.jsonl 2")],
    )


def test_answers_and_the_system_prompt_are_searched_too(config):
    assert outcome(decontaminate.decontaminated(chat("A quiz, please", f"Here: {LONG}"), config))[0] == 0
    assert outcome(decontaminate.decontaminated(chat("a", "b", "c", "d", system=SHORT), config)) == (
        0,
        [(0, "evaluation question", "exam.jsonl 2"), (1, "beside an evaluation question", "exam.jsonl 2")],
    )


def test_other_chats_stay_as_they_are(config):
    other = chat("Which planet has the longest year?", "Neptune", "Why is snow so white?", "It scatters all light.")
    assert decontaminate.decontaminated(other, config) == (other, [])
    assert decontaminate.decontaminated(other, DecontaminateConfig()) == (other, [])


def test_a_long_question_is_found_by_13_of_its_words_in_a_row_and_not_by_12(config):
    words = LONG.split()
    assert found("We have: " + " ".join(words[3:16]) + " and so on", config)
    assert not found("We have: " + " ".join(words[3:15]) + " and so on", config)
    assert found(" ".join(words[3:15]), DecontaminateConfig(questions=config.questions, ngram=12))


def test_a_question_of_few_words_is_found_only_as_a_whole_message(config):
    assert found("why is SNOW white", config)
    assert not found("Why is snow white? And why is it cold?", config)


def test_a_question_is_not_put_together_from_two_messages(config):
    words = SHORT.split()
    split = chat(" ".join(words[:3]), " ".join(words[3:]))
    assert decontaminate.decontaminated(split, config)[1] == []


def test_a_question_without_spaces_between_words_is_found(tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "为什么天空在白天是蓝色的而在晚上是黑色的呢"}))
    config = DecontaminateConfig(questions=(str(tmp_path / "q.jsonl"),))
    assert found("请问:为什么天空在白天是蓝色的，而在晚上是黑色的呢?谢谢", config)
    assert not found("为什么天空是蓝色的", config)


@given(st.text(), st.text(), st.sampled_from([LONG, SHORT]))
def test_a_question_is_found_wherever_it_stands(before, after, question):
    index = decontaminate.Index([printed(Question("q", question), 13)])
    messages = ["first", f"{before} {question} {after}", "last"]
    assert [(match.message, match.question) for match in index.matches(messages)] == [(1, "q")]


@given(st.lists(st.text(alphabet="abc ,."), min_size=1))
def test_nothing_is_found_where_there_is_no_question(messages):
    assert decontaminate.Index([printed(Question("q", LONG), 13)]).matches(messages) == []


def test_wording_that_many_questions_share_is_no_question():
    stem = "Choose the one answer out of the four given below that is right and write down its letter:"
    prints = [printed(Question(str(n), f"{stem} what is {n} times {n + 1}, and why?"), 13) for n in range(11)]
    index = decontaminate.Index(prints)
    assert index.matches([f"{stem} which bird cannot fly?"]) == []
    assert [match.question for match in index.matches([f"{stem} what is 3 times 4, and why?"])] == ["3"]
    assert decontaminate.Index(prints[:10]).matches([f"{stem} which bird cannot fly?"]) != []


# ------------------------------------------------------------------------------------------------ question files
@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"question_id": 81, "category": "x", "turns": [SHORT, LONG]}),
        json.dumps({"question_id": 1, "text": LONG, "category": "x"}),
        json.dumps({"uid": "a1", "prompt": LONG, "category": "x"}),
        json.dumps({"question_id": "a1", "turns": [{"content": LONG}]}),
        json.dumps({"prompt": [{"role": "system", "content": SHORT}, {"role": "user", "content": LONG}]}),
        json.dumps([{"instruction": LONG, "output": "y"}, {"instruction": "Anything else at all?"}]),
        json.dumps([LONG, "Anything else at all?"], indent=1),
        "\n\n" + json.dumps({"question": LONG}) + "\n\n",
    ],
)
def test_questions_are_read_in_every_common_layout(tmp_path, content):
    (tmp_path / "q").write_text(content)
    config = DecontaminateConfig(questions=(str(tmp_path / "q"),))
    assert found(LONG, config)
    assert not found("Anything but that, whatever it may be", config)


def test_what_is_no_question_file_is_an_error_that_names_the_place(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"text": LONG}) + "\n" + json.dumps({"texts": LONG}))
    with pytest.raises(InputError, match=r"q.jsonl:2: no question; one of the fields `turns`, .* holds its text"):
        decontaminate.prepare(DecontaminateConfig(questions=(str(path),)))
    path.write_text("\n")
    with pytest.raises(InputError, match=r"q.jsonl holds no questions"):
        decontaminate.prepare(DecontaminateConfig(questions=(str(path),)))
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"question 1: expected a question, got int"):
        decontaminate.prepare(DecontaminateConfig(questions=(str(path),)))
    with pytest.raises(InputError, match=r"there is no question file .*nowhere.jsonl"):
        decontaminate.question_files(DecontaminateConfig(questions=(str(tmp_path / "nowhere.jsonl"),)))
    with pytest.raises(InputError, match=r"no question file matches .*\*.json"):
        decontaminate.question_files(DecontaminateConfig(questions=(str(tmp_path / "*.json"),)))


def test_patterns_stand_for_files_and_each_file_has_a_name_and_a_hash(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "q.jsonl").write_text(json.dumps({"text": LONG + folder}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": SHORT}))
    config = DecontaminateConfig(questions=(str(tmp_path / "*" / "q.jsonl"), str(tmp_path / "c.jsonl")), known=())
    files = decontaminate.question_files(config)
    a, b = (f"questions/{(tmp_path / folder / 'q.jsonl').as_posix()}" for folder in ("a", "b"))
    assert list(files) == [a, b, "questions/c.jsonl"]
    assert len(set(files.values())) == 3
    assert found(SHORT, config)


def test_a_question_file_that_changes_is_read_again(tmp_path, config):
    assert not found("What is the tallest tree that ever was measured?", config)
    (tmp_path / "exam.jsonl").write_text(json.dumps({"text": "What is the tallest tree that ever was measured?"}))
    assert found("What is the tallest tree that ever was measured?", config)
    (tmp_path / "exam.jsonl").unlink()
    with pytest.raises(InputError, match=r"cannot read .*exam.jsonl"):
        found("Anything", config)


# ------------------------------------------------------------------------------------------------ fingerprints
def test_fingerprints_find_what_the_questions_find_and_do_not_hold_them(tmp_path, config):
    out = tmp_path / "prints.jsonl"
    assert fingerprint.command([*config.questions, "--out", str(out)]) == 0
    assert "planet" not in out.read_text()
    prints = DecontaminateConfig(questions=(str(out),))
    asked = chat("Hello", "Hi", SHORT, "Venus")
    assert decontaminate.decontaminated(asked, prints)[1][1].detail == "prints.jsonl 2"
    for text in (LONG, SHORT, TINY, "Why is snow white? Tell me."):
        assert found(text, prints) == found(text, config)


def test_a_damaged_fingerprint_is_an_error(tmp_path, config):
    out = tmp_path / "prints.jsonl"
    fingerprint.command([*config.questions, "--out", str(out)])
    out.write_text(out.read_text().replace('"words": 13', '"words": "13"'))
    with pytest.raises(InputError, match=r"prints.jsonl:1: no fingerprint of a question"):
        decontaminate.prepare(DecontaminateConfig(questions=(str(out),)))


def test_the_packages_own_fingerprints_are_those_of_80_questions():
    config = DecontaminateConfig(known=("vicuna-2023",))
    ((name, path),) = question_paths((), config.known).items()
    assert path.parent == KNOWN
    prints = read_prints(name, path, config.ngram)
    assert [each.name for each in prints] == [f"vicuna-2023.jsonl {number}" for number in range(1, 81)]
    assert len({run for each in prints for run in each.runs}) > 300
    assert not found(LONG, config)
    assert list(decontaminate.question_files(config)) == ["questions/vicuna-2023.jsonl"]


def test_the_own_evaluation_questions_are_kept_out_by_default_and_their_fingerprint_is_that_of_the_file(tmp_path):
    out = tmp_path / "vicuna-80.jsonl"
    fingerprint.command([str(question_file(OWN)), "--out", str(out)])
    assert out.read_bytes() == (KNOWN / "vicuna-80.jsonl").read_bytes()
    assert list(decontaminate.question_files(DecontaminateConfig())) == ["questions/vicuna-80.jsonl"]
    for question in read_questions(OWN):
        for turn in question.turns:
            kept, drops = decontaminate.decontaminated(
                chat("Hi", f"Try this: {turn} Good luck!"), DecontaminateConfig()
            )
            assert not kept.rounds
            assert drops[0].detail == f"vicuna-80.jsonl {question.id}"


def test_the_own_questions_repeat_none_of_the_first_evaluation():
    index = decontaminate.index(DecontaminateConfig(known=("vicuna-2023",)))
    assert index.matches([turn for question in read_questions(OWN) for turn in question.turns]) == []


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"ngram is a number of words, at least 6; got 5"):
        DecontaminateConfig(ngram=5)
