"""Looking at conversations: their statistics, and one of them as the model sees it."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizers_kinds import MAKERS, tokenizer_of
from vicuna.conversation import Conversation, Message, write_conversations
from vicuna.data.__main__ import main
from vicuna.data.tools.tally import Spread, rounds
from vicuna.data.tools.tokens import view, visible
from vicuna.prompt import encode, render, template

VICUNA = template("vicuna_v1.1")
TRICKY = Conversation(
    "tricky_0",
    (
        Message("system", "Be brief."),
        Message("user", "What is `a\tb`?  </s> <b>&amp; 你好 😀"),
        Message("assistant", "It is\n\n```python\nx = 1\n```"),
        Message("user", "And?\u200b"),
        Message("assistant", "Old.", train=False),
        Message("user", "So?"),
        Message("assistant", "New."),
    ),
    source="raw.json[3]",
    metadata={"model": "gpt-4"},
)


def chat(name, *texts, **rest):
    roles = ("user", "assistant")
    return Conversation(name, tuple(Message(roles[n % 2], text) for n, text in enumerate(texts)), **rest)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer_of("byte-level").save_pretrained(folder)
    return ["--model.path", str(folder), "--model.template", "vicuna_v1.1"]


@pytest.fixture
def pile(tmp_path):
    write_conversations(
        tmp_path / "pile.jsonl",
        [
            chat("a", "one two", "three", source="first.json[0]", metadata={"model": "Model: GPT-4"}),
            chat("b", "q", "a ```x```", "q", "a", source="first.json[1]", metadata={"model": "GPT-4"}),
            chat("c", "q" * 1234, "a", "trailing", source="second.json:9"),
        ],
    )
    return tmp_path / "pile.jsonl"


# ------------------------------------------------------------------------------------------------ stats
def test_the_numbers_are_those_of_the_conversations(tmp_path, pile, model, capsys):
    assert main(["stats", str(pile), *model, "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["conversations"], found["with_code"], found["faulty"]) == (3, 1, 1)
    assert found["turns"] == {"assistant": 4, "user": 5}
    assert found["models"] == {"GPT-4": 2, "": 1}
    assert found["sources"] == {"first.json": 2, "second.json": 1}
    assert found["lengths"]["rounds"] == {
        "total": 5,
        "mean": 5 / 3,
        "least": 1,
        "p10": 1,
        "p50": 2,
        "p90": 2,
        "most": 2,
    }
    assert found["lengths"]["characters"]["most"] == 1234 + 1 + 8
    assert found["lengths"]["words"]["total"] == 3 + 5 + 3
    assert "it ends with user, not assistant" in found["faults"]
    tokens = len(encode(chat("a", "one two", "three"), tokenizer_of("byte-level"), VICUNA).ids)
    assert found["lengths"]["tokens"]["least"] == tokens
    shown = capsys.readouterr().out
    assert "first.json" in shown
    assert "it ends with user, not assistant" in shown


def test_the_page_needs_no_network_and_holds_the_tables(tmp_path, pile, model):
    assert main(["stats", str(pile), *model, "--out", str(tmp_path / "out.html")]) == 0
    page = (tmp_path / "out.html").read_text()
    assert page.count("<svg") >= 5
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "second.json" in page


def test_records_that_cannot_be_read_are_counted_and_a_break_is_said(tmp_path, capsys):
    good = json.dumps({"id": "x", "messages": [{"role": "user", "content": "q"}]})
    (tmp_path / "a.jsonl").write_text(f'{good}\n{{"id": 1}}\n{good}\n{good[:-9]}')
    assert main(["stats", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out.json")]) == 1
    assert "a.jsonl:4" in capsys.readouterr().err
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["conversations"], found["unreadable"]) == (2, 2)


def test_no_conversations_at_all_give_tables_of_zeros(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    for ending in ("html", "json"):
        assert main(["stats", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / f"out.{ending}")]) == 0


@given(st.lists(st.integers(0, 10**7), min_size=1), st.floats(0, 1))
def test_percentiles_are_right_to_three_digits_and_the_rest_exactly(values, share):
    spread = Spread()
    for value in values:
        spread.add(value)
    assert (spread.least, spread.most, spread.total) == (min(values), max(values), sum(values))
    ordered = sorted(values)
    exact = next(v for i, v in enumerate(ordered, 1) if i >= share * len(values))
    assert abs(spread.percentile(share) - exact) <= exact / 100


def test_a_spread_stays_small_however_many_values_it_has():
    spread = Spread()
    for value in range(0, 10**6, 7):
        spread.add(value)
    assert len(spread.counts) <= 900 * 4


@pytest.mark.parametrize(("letters", "count"), [("uaua", 2), ("aua", 2), ("uuaau", 2), ("sua", 1), ("", 0), ("a", 1)])
def test_rounds_are_counted_as_the_docs_define_them(letters, count):
    names = {"u": "user", "a": "assistant", "s": "system"}
    assert rounds([names[letter] for letter in letters]) == count


# ------------------------------------------------------------------------------------------------ inspect
@pytest.mark.parametrize("kind", MAKERS)
def test_the_view_has_every_token_with_the_mask_of_training_and_the_exact_prompt(kind):
    tokenizer = tokenizer_of(kind)
    seen = view(TRICKY, tokenizer, VICUNA, 2048)
    encoded = encode(TRICKY, tokenizer, VICUNA)
    assert [token.id for token in seen.tokens] == encoded.ids
    assert [token.target for token in seen.tokens] == encoded.is_target
    assert "".join(piece.text for piece in seen.pieces) == render(TRICKY, VICUNA)
    assert [token.id for run in seen.runs() for token in run.tokens] == encoded.ids
    assert [run.target for run in seen.runs()] == [False, True, False, True]


def test_tokens_of_a_byte_level_vocabulary_read_as_the_text_that_they_stand_for():
    seen = view(chat("x", "naïve  a", "x\n\ty"), tokenizer_of("byte-level"), VICUNA, 2048)
    text = "".join(token.text for token in seen.tokens if not token.control)
    assert text.replace("⟨C3⟩⟨AF⟩", "ï") == render(chat("x", "naïve  a", "x\n\ty"), VICUNA).replace("</s>", "")


def test_what_people_typed_is_never_shown_as_a_special_token():
    seen = view(chat("x", "</s>", "</s>"), tokenizer_of("byte-level"), VICUNA, 2048)
    assert [token.text for token in seen.tokens if token.control and token.text == "</s>"] == ["</s>"]


def test_white_space_and_invisible_characters_are_seen():
    assert visible("a b\n\tc\u200b\u00a0") == "a·b⏎\n→\tc‹U+200B›‹U+00A0›"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_marks_take_nothing_else_away(text):
    unmarked = re.sub(r"‹U\+([0-9A-F]{4,})›", lambda found: chr(int(found[1], 16)), visible(text))
    if not set("‹›·→⏎") & set(text):
        assert unmarked.replace("→\t", "\t").replace("⏎\n", "\n").replace("·", " ") == text


def test_the_terminal_shows_text_prompt_and_tokens(tmp_path, model, capsys):
    write_conversations(tmp_path / "a.jsonl", [chat("x", "q", "a"), TRICKY])
    assert main(["inspect", str(tmp_path / "a.jsonl"), "--id", "tricky_0", *model]) == 0
    shown = capsys.readouterr().out
    assert "assistant (not trained on)" in shown
    assert "USER:·So?·ASSISTANT:·New.</s>" in shown
    assert re.search(r"tokens \d+ to \d+ \(\d+\): trained on", shown)
    assert main(["inspect", str(tmp_path / "a.jsonl")]) == 0
    assert "x" in capsys.readouterr().out


def test_a_long_message_is_shortened_in_the_terminal_and_whole_on_the_page(tmp_path, model, capsys):
    write_conversations(tmp_path / "a.jsonl", [chat("x", "q", "word " * 3000)])
    assert main(["inspect", str(tmp_path / "a.jsonl"), "--index", "0", *model]) == 0
    shown = capsys.readouterr().out
    assert "[... 13,000 characters ...]" in shown
    assert len(shown) < 30_000
    assert main(["inspect", str(tmp_path / "a.jsonl"), *model, "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().count("word ") >= 3000


def test_the_page_escapes_what_people_wrote_and_needs_no_network(tmp_path, model):
    nasty = chat("<script>alert(1)</script>", "<img src=//x onerror=alert(1)>", "</pre><script>alert(2)</script>")
    write_conversations(tmp_path / "a.jsonl", [nasty])
    assert main(["inspect", str(tmp_path / "a.jsonl"), *model, "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("</pre>") == page.count("<pre")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["inspect", "pile.jsonl", "--id", "z"], 1, "there is no conversation 'z'; ids look like a, b, c"),
        (["inspect", "pieces.jsonl", "--id", "tricky"], 1, "but pieces of it: tricky_0"),
        (["inspect", "pile.jsonl", "--index", "3"], 1, "the inputs hold 3, counted from 0"),
        (["inspect", "pile.jsonl", "--index", "-1"], 2, "index is a place counted from 0"),
        (["inspect", "pile.jsonl", "--index", "1", "--id", "a"], 2, "id and index: give one of them"),
        (["inspect", "pile.jsonl", "--out", "page.pdf"], 2, "out ends in .html"),
        (["inspect", "pile.jsonl", "--model.path", "."], 1, "holds no tokenizer"),
        (["stats", "pile.jsonl", "--out", "x.csv"], 2, "out ends in .html or .json"),
        (["stats", "gone.jsonl"], 1, "there is no file gone.jsonl"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path, pile, monkeypatch, capsys, words, status, message):
    monkeypatch.chdir(tmp_path)
    write_conversations(tmp_path / "pieces.jsonl", [TRICKY])
    assert main(words) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
