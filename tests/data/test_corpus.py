"""The sample corpus: right, the same every time, honest about its dirt, and with questions that are really new."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vicuna import manifest
from vicuna.data.corpus import facts, recipe
from vicuna.data.corpus.command import CorpusConfig, command, main
from vicuna.data.corpus.corpus import Corpus, Record, corpus
from vicuna.data.corpus.dirt import NETWORK_ERROR, RATE_LIMIT
from vicuna.data.corpus.family import Family, normalised
from vicuna.data.corpus.pages import WRAPPER, CodeBlock, code_box, old_code_box, page
from vicuna.data.corpus.prose import prose
from vicuna.data.corpus.questions import shares
from vicuna.data.corpus.reservation import FAMILIES, reserve
from vicuna.data.markdown import html_to_markdown

VOID = {"br", "hr", "img"}


class Balance(HTMLParser):
    """Finds elements that are not closed, or closed without being open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.faults.append(f"</{tag}>")

    def unknown_decl(self, data: str) -> None:
        self.faults.append(data)

    def handle_comment(self, data: str) -> None:
        self.faults.append(data)


def faults(html: str) -> list[str]:
    parser = Balance()
    parser.feed(html)
    rest = [] if "<!--" not in parser.rawdata else [parser.rawdata]
    parser.close()
    return parser.faults + parser.open + rest


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


def of_kind(made: Corpus, kind: str) -> list[Record]:
    found = [record for record in made.records if record.label.dirt == kind]
    assert found, f"no conversation with {kind}"
    return found


def human(record: Record) -> list[str]:
    return [turn["value"] for turn in record.turns if turn["from"] == "human"]


@pytest.fixture(scope="module")
def made() -> Corpus:
    return corpus(2000, 200, seed=0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_answer_states_its_reference_and_every_phrasing_is_a_whole_sentence(family: Family) -> None:
    for fact in family.facts:
        answer = family.say(fact)
        references = fact.reference if isinstance(fact.reference, tuple) else (fact.reference,)
        assert any(text is None or re.search(rf"\b{re.escape(text)}\b", answer, re.I) for text in references), answer
        assert answer.endswith(".")
        phrasings = family.phrasings(fact)
        assert len({normalised(text) for text in phrasings}) >= 4
        for text in [*phrasings, answer]:
            assert re.fullmatch(r"[A-Z0-9].*[.?]", text), text
            assert "{" not in text
            assert "  " not in text
            assert not re.search(r"\b(a [aeiou]|an [^aeiou])", text), text


def test_one_question_never_has_two_answers() -> None:
    answers: dict[str, str] = {}
    for family in FAMILIES:
        for fact in family.facts:
            for question in family.phrasings(fact):
                assert answers.setdefault(normalised(question), family.say(fact)) == family.say(fact), question


def test_sums_units_letters_and_neighbours_agree_with_python() -> None:
    said = {fact.key: family.say(fact) for family in FAMILIES for fact in family.facts}
    sums = [re.fullmatch(r"(\d+) ([-+x]) (\d+) = (\d+)\.", text) for text in said.values()]
    checked = 0
    for match in filter(None, sums):
        a, sign, b, value = match.groups()
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign] == int(value)
        checked += 1
    assert checked == 64 + 36 + 39
    assert said["units:1 hour"] == "1 hour is 60 minutes."
    assert said["units:6 kilometre"] == "6 kilometres are 6000 metres."
    assert said["units:3 year"] == "3 years are 36 months."
    assert said["letter counts:friend"] == "The word friend has 6 letters."
    assert said["last letters:garden"] == "The last letter of garden is n."
    assert said["days:after Sunday"] == "The day after Sunday is Monday."
    assert said["months:before January"] == "The month before January is December."
    assert said["numbers:before 15"] == "The number before 15 is 14."
    assert said["animal young:hen"] == "The young of a hen is called a chick."


def test_tables_hold_no_word_twice_and_no_answer_that_reads_as_an_article() -> None:
    assert len(facts.opposites()) == 2 * len(facts.OPPOSITES)
    assert len(facts.kinds()) == sum(len(things) for things in facts.KINDS.values())
    assert not [word for word in facts.SPELLING_WORDS if "a" in (word[0], word[-1])]
    assert facts.CAPITALS["Australia"] == "Canberra"
    assert facts.CAPITALS["Turkey"] == "Ankara"
    assert facts.PLURALS["ox"] == "oxen"
    assert facts.PAST_TENSES["catch"] == "caught"


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    program = "import sys; from vicuna.data.corpus.command import command; sys.exit(command(sys.argv[1:]))"
    for name in ("1", "2"):
        arguments = ["--out", str(tmp_path / name), "--conversations", "300", "--questions", "40", "--seed", "7"]
        environment = os.environ | {"PYTHONHASHSEED": name}
        subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True, capture_output=True)
    one, two = manifest.verify(tmp_path / "1"), manifest.verify(tmp_path / "2")
    assert one.files == two.files
    assert set(one.files) == {"raw.json", "labels.jsonl", "questions.jsonl"}


def test_another_seed_gives_another_corpus() -> None:
    assert corpus(20, 5, seed=1).records[0].turns != corpus(20, 5, seed=2).records[0].turns


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one(made: Corpus) -> None:
    assert [record.row() for record in corpus(50, 0, seed=0).records] == [r.row() for r in made.records[:50]]


def test_no_held_out_question_is_asked_in_any_conversation(made: Corpus) -> None:
    asked = {normalised(text) for record in made.records for text in human(record)}
    assert len(made.questions) == 200
    assert len({question.turns for question in made.questions}) == 200
    for question in made.questions:
        if question.group == "follow-ups":
            continue
        assert normalised(question.turns[0]) not in asked


def test_no_held_out_follow_up_is_asked_after_its_question(made: Corpus) -> None:
    wanted = [question for question in made.questions if question.group == "follow-ups"]
    assert wanted
    reserved = {(each.first.key, each.second.key) for each in reserve(0).follow_ups}
    pairs = {pair for record in made.records for pair in zip(record.facts, record.facts[1:], strict=False)}
    turns = {
        pair
        for record in made.records
        for pair in zip(map(normalised, human(record)), map(normalised, human(record)[1:]), strict=False)
    }
    for question in wanted:
        assert tuple(question.taught_by) in reserved
        first, second = map(normalised, question.turns)
        assert (first, second) not in turns
    assert pairs


def test_what_each_question_needs_is_stated_in_sound_conversations(made: Corpus) -> None:
    stated = Counter(
        text for r in made.records if not r.label.dirt for t in r.turns[1::2] for text in [text_of(t["value"])]
    )
    said = {fact.key: family.say(fact) for family in FAMILIES for fact in family.facts}
    for question in made.questions:
        for key in question.taught_by:
            if key in said:
                assert stated[said[key]] >= recipe.LEAST_SEEN, key


def test_nearly_all_facts_are_taught_and_few_questions_ask_for_untaught_ones(made: Corpus) -> None:
    unseen = reserve(0).unseen
    stated = {fact for record in made.records for fact in record.facts}
    everything = {fact.key for family in FAMILIES for fact in family.facts}
    assert stated & everything == everything - unseen
    hard = [
        question for question in made.questions if not set(question.taught_by) & stated or len(question.taught_by) > 2
    ]
    assert len(hard) <= 12


def test_questions_grade_their_last_turn_and_never_contain_the_answer(made: Corpus) -> None:
    for number, question in enumerate(made.questions):
        row = question.row(str(number))
        assert len(row["reference"]) == len(row["turns"])  # type: ignore[arg-type]
        assert row["reference"][:-1] == [None] * (len(row["turns"]) - 1)  # type: ignore[arg-type, index]
        references = question.reference if isinstance(question.reference, tuple) else (question.reference or "",)
        assert not set(map(str.casefold, references)) & set(normalised(question.turns[-1]).split())
    assert {question.category for question in made.questions} == set(recipe.QUESTIONS)


def test_questions_are_shared_out_as_far_as_there_are_any() -> None:
    sizes = shares({"geography": 3, "words": 1000, "memory": 1000}, 100)
    assert sizes["geography"] == 3
    assert sum(sizes.values()) == 100
    assert sizes["words"] > sizes["memory"]
    assert shares({"geography": 3, "words": 2}, 100) == {"geography": 3, "words": 2}


def test_about_a_quarter_is_dirty_and_every_kind_occurs(made: Corpus) -> None:
    dirt = made.dirt()
    assert set(dirt) == set(recipe.DIRT)
    assert 0.18 < dirt.total() / 2000 < 0.32


def test_answers_are_well_formed_pages_except_where_labelled(made: Corpus) -> None:
    for record in made.records:
        broken = [
            i for i, turn in enumerate(record.turns) if turn["value"].startswith("<div") and faults(turn["value"])
        ]
        assert broken == (list(record.label.turns) if record.label.dirt == "malformed html" else [])


def test_sound_conversations_alternate_and_hold_no_debris(made: Corpus) -> None:
    for record in made.records:
        if record.label.dirt:
            continue
        assert [turn["from"] for turn in record.turns] == ["human", "gpt"] * (len(record.turns) // 2)
        for turn in record.turns:
            assert turn["value"].strip()
            assert "Share Prompt" not in turn["value"]
            assert (turn["from"] == "gpt") == turn["value"].startswith(WRAPPER)
            assert RATE_LIMIT not in turn["value"]
            assert NETWORK_ERROR not in turn["value"]


def test_labels_of_broken_order_are_true(made: Corpus) -> None:
    assert all(record.turns[0]["from"] == "gpt" for record in of_kind(made, "starts with gpt"))
    assert all(record.turns[-1]["from"] == "human" for record in of_kind(made, "ends with human"))
    assert all(not record.turns for record in of_kind(made, "no turns"))
    for record in of_kind(made, "repeated role"):
        roles = [turn["from"] for turn in record.turns]
        (at,) = record.label.turns
        assert roles[at] in (roles[at - 1 : at] + roles[at + 1 : at + 2])
    for record in of_kind(made, "unknown role"):
        (at,) = record.label.turns
        assert record.turns[at]["from"] not in ("human", "gpt", "user", "assistant", "system")
    for record in of_kind(made, "empty turn"):
        (at,) = record.label.turns
        assert not text_of(record.turns[at]["value"]).strip("\u200b \n")


def test_labels_of_debris_are_true(made: Corpus) -> None:
    patterns = {
        "rate limit": RATE_LIMIT,
        "network error": NETWORK_ERROR,
        "regenerate counter": r"^(<div class=\"text-xs.*?<span[^>]*>)?\d / \d",
        "copy debris": r"Copy\d+ chars / \d+ words",
        "share prompt": r"Share Prompt$",
        "old copy code": r"<pre>[a-z]+Copy code<code>",
    }
    for kind, pattern in patterns.items():
        for record in of_kind(made, kind):
            assert record.label.turns
            assert all(re.search(pattern, record.turns[at]["value"]) for at in record.label.turns)
    for record in of_kind(made, "literal text") + of_kind(made, "control text"):
        assert re.search(r"[<&*]|</?s>|<\|", record.turns[record.label.turns[0]]["value"])


def test_labels_of_duplicates_languages_and_lengths_are_true(made: Corpus) -> None:
    for kind in ("duplicate", "duplicate id"):
        for record in of_kind(made, kind):
            original = made.records[record.label.duplicate_of or 0]
            assert record.turns == original.turns
            assert original.label.index < record.label.index
            assert (record.label.id == original.label.id) == (kind == "duplicate id")
    assert {record.label.language for record in of_kind(made, "other language")} == {"es", "de", "fr", "zh", "ja", "ru"}
    low, high = recipe.LONG_ROUNDS
    assert all(low <= len(record.turns) // 2 <= high + 5 for record in of_kind(made, "over-long"))
    for record in of_kind(made, "over-long round"):
        assert len(record.turns[record.label.turns[1]]["value"]) > 2500


def test_only_planted_duplicates_repeat(made: Corpus) -> None:
    texts = [json.dumps(r.turns) for r in made.records if r.turns and not r.label.dirt.startswith("duplicate")]
    assert len(set(texts)) == len(texts)
    ids = [record.label.id for record in made.records if record.label.dirt != "duplicate id"]
    assert len(set(ids)) == len(ids)


def test_markdown_becomes_the_page_that_it_describes() -> None:
    assert page("Use *a* & **b**:\n\n- `x < y`\n- [here](https://a.org/?b=1&c=2)") == (
        f"{WRAPPER}<p>Use <em>a</em> &amp; <strong>b</strong>:</p><ul><li><code>x &lt; y</code></li>"
        '<li><a href="https://a.org/?b=1&amp;c=2" target="_new">here</a></li></ul></div>'
    )
    assert page("1. one\n2. two:\n\n   - in\n\n3. three\n\nlines  \nend") == (
        f"{WRAPPER}<ol><li><p>one</p></li><li><p>two:</p><ul><li>in</li></ul></li>"
        "<li><p>three</p></li></ol><p>lines<br>end</p></div>"
    )
    code = page('```python\nif a < b:\n    # c_d *e*\n\n    print("f")\n```')
    assert text_of(code) == 'pythonCopy codeif a &lt; b:\n    # c_d *e*\n\n    print("f")\n'


@pytest.mark.parametrize("code_block", [code_box, old_code_box])
def test_cleaning_a_page_gives_back_the_markdown_that_it_was_made_from(code_block: CodeBlock) -> None:
    rng = random.Random(0)
    answers = {prose(rng).answer for _ in range(400)} | {
        family.say(fact) for family in FAMILIES for fact in family.facts
    }
    for answer in sorted(answers):
        assert html_to_markdown(page(answer, code_block)).strip("\n") == answer


def test_the_command_writes_files_that_others_read_and_knows_finished_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--out", str(tmp_path), "--conversations", "150", "--questions", "5"]) == 0
    rows = json.loads((tmp_path / "raw.json").read_text())
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    questions = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [label["id"] for label in labels]
    assert len(rows) == 150
    assert len(questions) == 5
    assert set(questions[0]) == {"question_id", "category", "turns", "reference"}
    assert manifest.verify(tmp_path).facts["conversations"] == 150
    before = (tmp_path / "manifest.json").read_text()
    main(CorpusConfig(out=str(tmp_path), conversations=150, questions=5))
    assert "already" in capsys.readouterr().out
    assert (tmp_path / "manifest.json").read_text() == before
    main(CorpusConfig(out=str(tmp_path), conversations=151, questions=5))
    assert len(json.loads((tmp_path / "raw.json").read_text())) == 151


def test_a_wrong_setting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--out", str(tmp_path), "--conversations", "0"]) == 2
    assert "conversations is 1 to 100000; got 0" in capsys.readouterr().err
