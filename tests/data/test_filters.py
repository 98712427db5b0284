"""Validity and quality: what stays, what goes, and under which reason."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message
from vicuna.data.chat import Chat, from_conversation
from vicuna.data.config import QualityConfig, ValidityConfig
from vicuna.data.filters.boilerplate import is_error, is_refusal, moralizes, speaks_as_model
from vicuna.data.filters.quality import good
from vicuna.data.filters.repetition import repetition
from vicuna.data.filters.soup import blob_share, garbled_share
from vicuna.data.filters.validity import valid
from vicuna.data.sources.record import Record
from vicuna.data.stages import begin


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


def test_a_system_message_in_the_middle_drops_the_chat_whatever_stages_run():
    turns = [{"role": role, "content": "text"} for role in ("user", "assistant", "system")]
    found = begin(Record("raw.json", "[0]", {"messages": turns}))
    assert outcome((found.chat, found.drops)) == ([], [(0, "system message after the first turn")])


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
        "Network Error", "⚠️ network error.", "Rate limit reached for gpt-3.5-turbo in organization org-x on requests.",
        "You've hit the Plus plan limit for GPT-4o.", "This prompt may violate our usage policies.",
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
        "Rate limit reached for the day? Wait until midnight.", "You exceeded the limit.\n\nNetwork errors: try again.",
    ],
)  # fmt: skip
def test_answers_about_errors_are_no_errors(answer):
    assert not is_error(answer)


def test_blocked_words_drop_their_round_only_and_match_whole_words():
    rounds = chat("u: the class", "a: grasses and passing", "u: You ASS", "a: not nice at all")
    texts, drops = outcome(good(rounds, QualityConfig(blocked=("ass", "bad word"))))
    assert texts == [("the class", "grasses and passing")]
    assert drops == [(1, "blocked word")]


def test_blocked_words_are_found_between_chinese_characters():
    _, drops = good(chat("u: 你好，请问", "a: 这是坏话，而且很长很长很长很长"), QualityConfig(blocked=("坏话",)))
    assert [(drop.reason, drop.detail) for drop in drops] == [("blocked word", "坏话")]


def test_a_chat_with_hardly_any_text_is_dropped():
    assert outcome(good(chat("u: hi", "a: Hello"), QualityConfig()))[1] == [(0, "conversation too short")]


def test_a_chat_that_nothing_is_wrong_with_is_the_same_object():
    sound = chat("u: a question", "a: a good answer")
    assert valid(sound, ValidityConfig())[0] is sound
    assert good(sound, QualityConfig())[0] is sound


# ------------------------------------------------------------------------------------------------ boilerplate
@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I do not have feelings.", "I'm sorry, but I cannot help with that request.",
        "I apologize, but as a language model I am not able to browse the web.", "Sorry, I can’t assist with this.",
        "Unfortunately, I am unable to provide medical advice.", "I'm just an AI, so I cannot feel pain.",
        "As an AI developed by OpenAI, I don't have personal opinions.", "I will not engage in hateful talk.",
        "It is not appropriate for me to write such a text.", "My apologies, but I won't be able to do that.",
        "I apologize, but I'm not able to help with that request.", "I'm really sorry, but I can't do that.",
        "I must decline.",
    ],
)  # fmt: skip
def test_refusals_are_known(answer):
    assert is_refusal(answer)
    assert outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig()))[1] == []
    assert outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig(refusals=True)))[1] == [(0, "refusal")]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry to hear that your cat is ill. Here is what helps.", "I don't recommend eval; use literal_eval.",
        "As an AI researcher, I do not need a laboratory.", "Unfortunately, the file cannot be opened.",
        "I can't help but notice the missing bracket.", "I cannot wait to see it! Here is the plan.",
        "As a language, Latin cannot be called dead.", "It is not appropriate: use `is None` instead.",
        "I'm unable to see an error in your code: the loop ends.", "I'm not able to say more than that it is good.",
    ],
)  # fmt: skip
def test_answers_that_only_sound_like_refusals_are_none(answer):
    assert not is_refusal(answer)


def test_talk_about_being_a_model_is_found_anywhere_and_talk_about_models_is_not():
    assert speaks_as_model("Paris. Note that, as a large language model, I may be wrong.")
    assert speaks_as_model("Hello! I'm an AI language model trained by OpenAI.")
    assert not speaks_as_model("BERT is used as a language model, and GPT-2 as an AI model for text.")
    answer = "It is sunny. As an AI language model, I cannot see it."
    dropped = good(chat("u: Weather?", f"a: {answer}"), QualityConfig(boilerplate=True))
    assert outcome(dropped)[1] == [(0, "speaks as a language model")]


@pytest.mark.parametrize(
    ("answer", "lectures"),
    [
        ("Here is a joke.\n\nHowever, it is important to treat everyone with respect and dignity.", True),
        ("It's essential to remember that hacking is illegal activity. You should always respect the privacy.", True),
        ("I do not condone any kind of discrimination or harmful behavior.", True),
        ("It is important to note that the index starts at 0, respectively 1.", False),
        ("You should treat the wood with oil. It is necessary to sand it first.", False),
        ("With respect to x, the derivative is 2. It is important to check the sign.", False),
    ],
)
def test_lectures_are_known(answer, lectures):
    assert moralizes(answer) == lectures
    drops = outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig(moralizing=True)))[1]
    assert drops == ([(0, "moralizing")] if lectures else [])


# ------------------------------------------------------------------------------------------------ repetition
LOOP = "I am sorry that I said that before now. "
WORDS = [
    "river",
    "stone",
    "lamp",
    "green",
    "quickly",
    "seven",
    "under",
    "bread",
    "window",
    "paper",
    "night",
    "copper",
    "follow",
    "north",
    "salt",
]


def prose(seed: int, sentences: int) -> str:
    rng = random.Random(seed)
    return " ".join(" ".join(rng.choices(WORDS, k=rng.randint(6, 14))).capitalize() + "." for _ in range(sentences))


@pytest.mark.parametrize(
    "answer",
    [
        LOOP * 40, "The answer is:\n\n" + "\n".join([LOOP] * 30), "yes no maybe " * 100, "ha" * 600,
        "\n".join(f"{number}. Remember to always drink enough water every day." for number in range(40)),
        "我们应该多喝水，" * 60, prose(1, 8) + "\n\n" + LOOP * 60,
    ],
)  # fmt: skip
def test_endless_repetition_is_dropped(answer):
    assert outcome(good(chat("u: go on", f"a: {answer}"), QualityConfig()))[1] == [(0, "repetition")]
    off = QualityConfig(repetition=1.0, repeated_lines=1.0, loop=0)
    assert outcome(good(chat("u: go on", f"a: {answer}"), off))[1] == []


VERSE = "\n".join(
    f"The {one} of {two} goes down the road to {three}" for one, two, three in zip(WORDS, WORDS[3:], WORDS[5:])
)
CHORUS = "Oh sing it loud, oh sing it clear,\nThe summer nights are coming near,\nAnd all we love is finally here."


@pytest.mark.parametrize(
    "answer",
    [
        "\n".join(f"| {number} | {number * 7} | the square of {number} is {number**2} |" for number in range(60)),
        "```python\n" + "    total = total + 1\n    print(total)\n" * 60 + "```\nIt prints sixty numbers.",
        "\n".join(f"- **Step {number}:** {prose(number, 1)}" for number in range(40)),
        "\n\n".join([VERSE, CHORUS, VERSE.upper(), CHORUS, VERSE.replace("The", "A"), CHORUS]),
        ", ".join(map(str, range(900))), prose(2, 60), "No.\n" * 30, "\n".join("=" * 40 for _ in range(30)),
        prose(3, 20) + "\n\n" + prose(3, 20), "| a | b |\n| --- | --- |\n" + "| same | same |\n" * 60,
    ],
)  # fmt: skip
def test_lists_tables_code_numbers_and_refrains_are_no_repetition(answer):
    assert outcome(good(chat("u: go on", f"a: {answer}"), QualityConfig()))[1] == []


def test_what_stands_for_the_first_time_does_not_count_as_repeated():
    assert repetition(prose(4, 30)).words == 0.0
    assert repetition(prose(4, 30) + " " + prose(4, 30)).words == pytest.approx(0.5, abs=0.02)
    assert repetition("\n".join(prose(seed, 1) for seed in (1, 2, 3, 4, 5)) * 8).lines > 0.8
    assert repetition(LOOP * 40).loop == 40


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([LOOP, CHORUS, VERSE, "a b c", "```\nx\n```", "好的。", "\ud800", "\n", "| a |"]), max_size=40
    )
)
def test_shares_are_between_0_and_1(parts):
    found = repetition("\n".join(parts))
    assert 0 <= found.words <= 1
    assert 0 <= found.lines <= 1
    assert 1 <= found.loop <= max(1, len(parts))


# ------------------------------------------------------------------------------------------------ character soup
RUSSIAN = "Привет, мир! Сегодня хорошая погода, и мы идём гулять в парк с друзьями."
FRENCH = "Après l'été, élève préférée, où êtes-vous allée là-bas à Noël avec ma mère âgée ?"
CHINESE = "今天天气很好，我们一起去公园散步，然后去吃饭。"


@pytest.mark.parametrize(
    "answer",
    [
        RUSSIAN.encode().decode("latin-1"), RUSSIAN.encode().decode("cp1251", "replace"),
        FRENCH.encode().decode("cp1252", "replace"),
        CHINESE.encode().decode("latin-1"),
        CHINESE.encode().decode("cp1252", "replace"), RUSSIAN.encode("cp1251").decode("utf-8", "replace"),
        bytes(random.Random(1).choices(range(256), k=600)).decode("latin-1"), "锟斤拷锟斤拷锟斤拷",
        "a\x00b \x01c \x02d",
        "“Smart” quotes – and so on… it’s ‘here’".encode().decode("cp1252", "replace"),
    ],
)  # fmt: skip
def test_broken_characters_are_found(answer):
    assert outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig()))[1] == [(0, "broken characters")]
    assert outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig(garbled=1.0)))[1] == []


@pytest.mark.parametrize(
    "text",
    [
        RUSSIAN, FRENCH, CHINESE, "Überraschung: Ärger über Öl; ÄÖÜ, ÀÉÎÕÜ, São Paulo, AMANHÃ, Ångström, ÅÄÖ",
        "Ñandú, ¿qué?",
        "سلام دنیا", "שלום עולם", "สวัสดีครับ", "नमस्ते दुनिया", "안녕하세요 여러분", "こんにちは世界",
        "Γειά σου Κόσμε", "Різдво і Січень",
        "∀x ∈ ℝ: ⌈x⌉ = −⌊−x⌋ ⇒ √2 ≠ ½ ± °", "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ✅ ①②③ ▁▂▃ ┌─┐", "naïve café — “quotes” … ‘x’",
        "zero\u200bwidth\u200d",
        "The letter é becomes Ã© when UTF-8 is read as Latin-1, and ü becomes Ã¼; that is called mojibake.",
        "Use `Ã© Ã¨ Ã ` and\n```\nâ€™ â€œ â€\x9d\n```\nas examples of it in your test file.", "tab\tand\r\nline",
    ],
)  # fmt: skip
def test_sound_text_of_any_script_is_not_garbled(text):
    assert garbled_share(text) <= QualityConfig().garbled


def test_a_broken_question_drops_its_round_too():
    broken = RUSSIAN.encode().decode("latin-1")
    assert outcome(good(chat(f"u: {broken}", "a: What do you mean by that?"), QualityConfig()))[1] == [
        (0, "broken characters")
    ]


BASE64 = "".join(random.Random(2).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=2000))


@pytest.mark.parametrize(
    "answer", [BASE64, "\n".join(BASE64[at : at + 76] for at in range(0, 1900, 76)), "Here it is:\n\n" + BASE64]
)
def test_blobs_are_no_text(answer):
    assert outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig()))[1] == [(0, "no text")]
    assert outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig(blobs=1.0)))[1] == []


@pytest.mark.parametrize(
    "answer",
    [
        f"```\n{BASE64}\n```", f"`{BASE64[:200]}`", prose(1, 30) + "\n\n" + BASE64[:120],
        "-" * 300 + "\ntext\n" + "=" * 300,
        "https://example.com/" + BASE64[:400], CHINESE * 20, "$" + BASE64[:100] + "$", "สวัสดีครับ" * 30,
    ],
)  # fmt: skip
def test_code_addresses_rules_and_scripts_without_spaces_are_no_blobs(answer):
    assert blob_share(answer) <= QualityConfig().blobs


# ------------------------------------------------------------------------------------------------ filters of taste
def test_one_digit_over_and_over_is_found_where_that_is_asked_for():
    config = QualityConfig(same_digit=9)
    assert outcome(good(chat("u: a number", "a: It is 777777777777."), config))[1] == [(0, "one digit over and over")]
    assert outcome(good(chat("u: a number", "a: It is 1000000000."), config))[1] == []
    assert outcome(good(chat("u: a number", "a: Look:\n```\n000000000000\n```\n"), config))[1] == []
    assert outcome(good(chat("u: a number", "a: It is 777777777777."), QualityConfig()))[1] == []


STEP = "1. Do it.\n\n```bash\nrun 3\n```\n\n"


@pytest.mark.parametrize(
    ("answer", "stuck"),
    [
        (f"Steps:\n\n{STEP * 3}End.", True), (STEP + "1. And again.", True),
        (STEP + STEP.replace("1.", "2."), False), ("1. One\n2. Two\n\nThen:\n\n1. One\n2. Two", False),
        ("1. One\n\nThen\n\n1. One", False), ("```\n1. a\n```\n\n```\n1. b\n```", False),
        ("1. One\n   ```\n   run\n   ```\n2. Two", False),
    ],
)  # fmt: skip
def test_lists_stuck_at_1_are_found_where_that_is_asked_for(answer, stuck):
    drops = outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig(stuck_lists=True)))[1]
    assert drops == ([(0, "list stuck at 1")] if stuck else [])
    assert outcome(good(chat("u: a question", f"a: {answer}"), QualityConfig()))[1] == []


@pytest.mark.parametrize(
    "settings_",
    [
        {"repetition": 0.1},
        {"repeated_lines": 1.5},
        {"loop": 1},
        {"same_digit": 2},
        {"min_characters": -1},
        {"blocked": ("!",)},
    ],
)
def test_settings_outside_their_range_are_refused(settings_):
    with pytest.raises(ValueError, match=next(iter(settings_))):
        QualityConfig(**settings_)
