"""Validity, quality, language and duplicates: what stays, what goes, and under which reason."""

import pytest

from vicuna.conversation import Conversation, Message
from vicuna.data import dedup, language
from vicuna.data.chat import Chat, from_conversation
from vicuna.data.config import LanguageConfig, QualityConfig, ValidityConfig
from vicuna.data.filters import good, is_error, repeated_share, valid


def chat(*turns: str, **metadata: object) -> Chat:
    """Turns written as "u: text", "a: text" or "s: text"."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    messages = tuple(Message(roles[turn[0]], turn[3:]) for turn in turns)
    return from_conversation(Conversation("id", messages, metadata=metadata), "file", "[0]")


def outcome(result):
    kept, drops = result
    texts = [(each.user, each.answer) for each in kept.rounds]
    return texts, [(drop.round.index, drop.reason) for drop in drops]


def test_a_valid_chat_stays_as_it_is():
    assert outcome(valid(chat("s: be kind", "u: a", "a: b"), ValidityConfig())) == ([("a", "b")], [])


def test_every_turn_is_in_exactly_one_round():
    rounds = chat("a: 0", "a: 1", "u: 2", "u: 3", "a: 4", "u: 5").rounds
    assert [(each.users, each.answers) for each in rounds] == [((), ("0", "1")), (("2", "3"), ("4",)), (("5",), ())]


def test_a_leading_answer_is_dropped_or_drops_the_chat():
    turns = ("a: hello", "u: a", "a: b")
    assert outcome(valid(chat(*turns), ValidityConfig())) == ([("a", "b")], [(0, "answer before the first question")])
    strict = valid(chat(*turns), ValidityConfig(drop_leading_answer=False))
    assert outcome(strict) == ([], [(0, "starts with an answer"), (1, "starts with an answer")])


def test_a_trailing_question_is_dropped_or_drops_the_chat():
    turns = ("u: a", "a: b", "u: c")
    assert outcome(valid(chat(*turns), ValidityConfig())) == ([("a", "b")], [(1, "question without an answer")])
    assert outcome(valid(chat(*turns), ValidityConfig(drop_trailing_question=False)))[0] == []


def test_repeated_roles_drop_the_chat_or_are_merged():
    turns = ("u: a", "u: b", "a: c", "u: d", "a: e")
    texts, drops = outcome(valid(chat(*turns), ValidityConfig()))
    assert texts == []
    assert drops == [(0, "two messages of one role in a row"), (1, "two messages of one role in a row")]
    merged = valid(chat(*turns), ValidityConfig(merge_repeats=True))
    assert outcome(merged) == ([("a\n\nb", "c"), ("d", "e")], [])


def test_a_system_message_in_the_middle_drops_the_chat():
    assert outcome(valid(chat("u: a", "a: b", "s: c"), ValidityConfig()))[1] == [
        (0, "system message after the first turn")
    ]


@pytest.mark.parametrize("nothing", ["", "  \n", "\u200b"])
def test_what_comes_before_an_empty_message_stays(nothing):
    result = valid(chat("u: a", "a: b", "u: c", f"a: {nothing}", "u: d", "a: e"), ValidityConfig())
    assert outcome(result) == ([("a", "b")], [(1, "empty answer"), (2, "after an empty message")])


def test_chats_held_with_plugins_are_dropped_unless_wanted():
    with_plugins = chat("u: a", "a: b", plugins=["browsing"])
    assert outcome(valid(with_plugins, ValidityConfig())) == ([], [(0, "held with plugins")])
    assert outcome(valid(with_plugins, ValidityConfig(drop_plugins=False))) == ([("a", "b")], [])


@pytest.mark.parametrize(
    "answer",
    [
        "Too many requests in 1 hour. Try again later.", "(!)Too many requests in 1 hour. Try again later.",
        "Network Error",
        "Once upon a time\n\nnetwork error", "There was an error generating a response",
        "Something went wrong. If this issue persists please contact us through our help center at help.openai.com.",
    ],
)  # fmt: skip
def test_error_messages_in_the_answers_place_are_found(answer):
    assert is_error(answer)
    result = good(chat("u: a long question", f"a: {answer}", "u: again", "a: a good answer"), QualityConfig())
    assert outcome(result) == ([("again", "a good answer")], [(0, "error message instead of an answer")])


@pytest.mark.parametrize(
    "answer",
    [
        "A network error means that the network failed.",
        "The server replied with 429.\n\nToo many requests were sent.",
        "If you see `network error`, reload the page.", "Something went wrong with the cake because the oven was cold.",
    ],
)  # fmt: skip
def test_answers_about_errors_are_no_errors(answer):
    assert not is_error(answer)


def test_blocked_words_drop_their_round_only_and_match_whole_words():
    rounds = chat("u: the class", "a: grasses and passing", "u: You ASS", "a: not nice at all")
    texts, drops = outcome(good(rounds, QualityConfig(blocked=("ass",))))
    assert texts == [("the class", "grasses and passing")]
    assert drops == [(1, "blocked word")]


def test_refusal_boilerplate_is_dropped_where_that_is_asked_for():
    refusal = chat("u: what do you feel?", "a: As an AI language model, I do not have feelings.")
    assert outcome(good(refusal, QualityConfig()))[1] == []
    assert outcome(good(refusal, QualityConfig(refusals=True)))[1] == [(0, "refusal boilerplate")]


def test_endless_repetition_is_dropped_and_ordinary_lists_are_not():
    endless = "I am sorry that I said that before now. " * 20
    rows = "\n".join(f"| {n} | {n * 7} | the square of {n} is {n * n} |" for n in range(40))
    assert repeated_share(endless) > 0.9
    assert repeated_share(rows) < 0.2
    assert outcome(good(chat("u: go on", f"a: {endless}"), QualityConfig()))[1] == [(0, "repetition")]
    assert outcome(good(chat("u: go on", f"a: {endless}"), QualityConfig(repetition=1.0)))[1] == []


def test_a_chat_with_hardly_any_text_is_dropped():
    assert outcome(good(chat("u: hi", "a: Hello"), QualityConfig()))[1] == [(0, "conversation too short")]


ENGLISH = "Could you explain how the tides work and why there are two of them every day?"
GERMAN = "Könntest du mir bitte erklären, warum es jeden Tag zweimal Ebbe und Flut gibt?"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"), (GERMAN, "de"), ("请帮我制定一个三天的旅行计划,并告诉我需要多少预算。", "zh"),
        ("Pourriez-vous m'expliquer pourquoi il y a deux marées par jour ?", "fr"),
        ("次の手順に従って進めてください。天気が悪い場合は屋内の活動を選びましょう。", "ja"),
        ("Как написать функцию, которая складывает два числа, и проверить её?", "ru"),
    ],
)  # fmt: skip
def test_languages_are_told_apart(text, code):
    assert language.identify(text, 40, 0.7) == code


def test_wanted_languages_stay_and_others_are_dropped_under_their_code():
    german = chat(f"u: {GERMAN}", f"a: {GERMAN}")
    (_, drops), code = language.kept(german, LanguageConfig(keep=("en",)))
    assert code == "de"
    assert [(drop.reason, drop.detail) for drop in drops] == [("language not wanted", "de")]
    assert language.kept(german, LanguageConfig())[0][1] == []
    assert language.kept(german, LanguageConfig(keep=("de", "en")))[0][1] == []
    assert len(language.kept(german, LanguageConfig(skip=("de",)))[0][1]) == 1


@pytest.mark.parametrize(
    "answer", ["42", "```python\nimport os\nfor datei in os.listdir('.'):\n    print(datei)\n```" * 5]
)
def test_short_text_and_code_are_not_taken_for_a_language(answer):
    (kept, drops), code = language.kept(chat("u: ok", f"a: {answer}"), LanguageConfig(keep=("fr",)))
    assert (code, drops, len(kept.rounds)) == ("", [], 1)


def test_duplicates_are_found_up_to_case_and_white_space_and_the_first_stays():
    seen = dedup.Seen()
    first = chat("u: What is this?", "a: A  test.")
    again = chat("u: what is\nthis?", "a: a test. ")
    other = chat("u: What is this?", "a: A toast.")
    assert seen.first(first, dedup.key(first))[1] == []
    assert [drop.reason for drop in seen.first(again, dedup.key(again))[1]] == ["exact duplicate"]
    assert seen.first(other, dedup.key(other))[1] == []
