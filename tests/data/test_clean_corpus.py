"""The sample corpus: every kind of dirt planted in it is found, and nothing sound is touched."""

import collections
import json
import re

import pytest

from vicuna.conversation import read_conversations
from vicuna.data.__main__ import main

UNTOUCHED = {
    "", "share prompt", "regenerate counter", "copy debris", "old copy code", "literal text", "control text",
    "over-long",
    "over-long round", "malformed html",
}  # fmt: skip
"""Kinds of which every round stays (the debris goes, the text stays)."""
WHOLE = {
    "duplicate": "exact duplicate", "duplicate id": "exact duplicate", "other language": "language not wanted",
    "repeated role": "two messages of one role in a row", "no turns": "no turns",
}  # fmt: skip
"""Kinds of which the whole conversation goes, for this reason."""
ONE_ROUND = {
    "starts with gpt": "answer before the first question", "ends with human": "question without an answer",
    "rate limit": "error message instead of an answer", "network error": "error message instead of an answer",
}  # fmt: skip
"""Kinds of which a round goes, for this reason."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    assert main(["corpus", "--out", str(folder / "raw"), "--conversations", "600", "--seed", "3"]) == 0
    words = ["clean", str(folder / "raw" / "raw.json"), "--out", str(folder / "out"), "--split.enabled=false"]
    assert main([*words, "--language.keep", "en"]) == 0
    labels = [json.loads(line) for line in (folder / "raw" / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    raw = json.loads((folder / "raw" / "raw.json").read_text(encoding="utf-8"))
    copies = {raw[label["index"]]["id"]: label["index"] for label in labels if label["dirt"] == "duplicate"}
    reasons = collections.defaultdict(list)
    for line in (folder / "out" / "ledger.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        number = int(row["position"][1:-1])
        if row["reason"] == "exact duplicate":  # of two equal ones the lower id stays; here the copy shall be the one
            number = copies.get(row["detail"], number)
        reasons[number].append(row["reason"])
    kept = {}
    for sample in read_conversations(folder / "out" / "conversations" / "00000.jsonl"):
        kept[int(re.search(r"\[(\d+)\]$", sample.source)[1])] = sample
    for number in [number for number in copies.values() if number in kept]:
        turns = raw[number]["conversations"]
        same = next(n for n, row in enumerate(raw) if row.get("conversations") == turns and n != number)
        kept[same] = kept.pop(number)
    return labels, reasons, kept


def test_sound_conversations_keep_every_round(run):
    labels, reasons, kept = run
    sound = [number for number, label in enumerate(labels) if label["dirt"] in UNTOUCHED]
    assert len(sound) > 300
    assert [(number, reasons[number]) for number in sound if reasons[number] or number not in kept] == []


@pytest.mark.parametrize("dirt", WHOLE)
def test_dirty_conversations_go_whole_for_their_reason(run, dirt):
    labels, reasons, kept = run
    dirty = [number for number, label in enumerate(labels) if label["dirt"] == dirt]
    assert dirty
    assert [number for number in dirty if number in kept] == []
    assert [set(reasons[number]) for number in dirty] == [{WHOLE[dirt]}] * len(dirty)


@pytest.mark.parametrize("dirt", ONE_ROUND)
def test_dirty_rounds_go_for_their_reason(run, dirt):
    labels, reasons, _ = run
    dirty = [number for number, label in enumerate(labels) if label["dirt"] == dirt]
    assert dirty
    assert [reasons[number] for number in dirty if ONE_ROUND[dirt] not in reasons[number]] == []


def test_no_tag_of_a_page_and_no_control_is_left(run):
    _, _, kept = run
    left = re.compile(r"</?(?:div|p|span|svg|button)\b|Copy code|Share Prompt|Copy\d+ chars|^\d+ / \d+")
    fences = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
    texts = [message.content for sample in kept.values() for message in sample.messages]
    assert [text for text in texts if left.search(fences.sub("", text))] == []
