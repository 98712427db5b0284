"""Merging, converting and extracting: which conversations come out, and as which files."""

import json

import pytest

from vicuna import manifest
from vicuna.conversation import Conversation, Message, read_conversations, write_conversations
from vicuna.data.__main__ import main
from vicuna.data.tools.inputs import Inputs


def chat(name, *texts, model=None, **rest):
    roles = ("user", "assistant")
    messages = tuple(Message(roles[n % 2], text) for n, text in enumerate(texts or (f"Who is {name}?", "Nobody.")))
    metadata = {"model": model} if model else {}
    return Conversation(name, messages, source="raw.json[0]", metadata=metadata, **rest)


def write(path, *conversations, layout="messages"):
    write_conversations(path, conversations, layout)
    return str(path)


def read(path):
    return list(Inputs.find([str(path)]).conversations("read"))


def ids(path):
    return [each.id for each in read(path)]


# ------------------------------------------------------------------------------------------------ merge
def test_merged_ids_are_unique_and_pieces_stay_recognisable(tmp_path, capsys):
    first = write(tmp_path / "a.jsonl", chat("x"), chat("y_0"), chat("y_4.1", "more", "of y"))
    second = write(
        tmp_path / "b.jsonl", chat("x", "another", "one"), chat("y_0", "another", "y"), chat("y_4.1", "3", "4")
    )
    third = write(tmp_path / "c.jsonl", chat("x", "a third", "one"))
    assert main(["merge", first, second, third, "--out", str(tmp_path / "out")]) == 0
    assert ids(tmp_path / "out") == ["x", "y_0", "y_4.1", "x~2", "y~2_0", "y~2_4.1", "x~3"]
    assert "4 with the id of an earlier one got a new id" in capsys.readouterr().out


def test_a_new_id_is_never_one_that_is_taken(tmp_path):
    source = write(
        tmp_path / "a.jsonl", chat("x~2"), chat("x"), chat("x", "b", "b"), chat("x", "c", "c"), chat("x~2", "d", "d")
    )
    assert main(["merge", source, "--out", str(tmp_path / "out.jsonl")]) == 0
    found = ids(tmp_path / "out.jsonl")
    assert len(found) == len(set(found)) == 5


def test_what_is_there_twice_is_left_out_and_reported(tmp_path, capsys):
    first = write(tmp_path / "a.jsonl", chat("x"), chat("y"))
    second = write(tmp_path / "b.jsonl", chat("x"), chat("w", "Who is y?", "Nobody."), chat("v"))
    assert main(["merge", first, second, "--out", str(tmp_path / "out")]) == 0
    assert ids(tmp_path / "out") == ["x", "y", "w", "v"]
    said = capsys.readouterr().out
    assert "1 with the id and the messages of an earlier one, left out: x" in said
    assert "1 with the messages of an earlier one under another id are kept" in said
    facts = manifest.verify(tmp_path / "out").facts
    assert (facts["conversations"], facts["repeated"], facts["same_messages"], facts["files"]) == (4, 1, 1, 2)
    assert main(["merge", first, second, "--out", str(tmp_path / "all.jsonl"), "--repeats"]) == 0
    assert ids(tmp_path / "all.jsonl") == ["x", "y", "x~2", "w", "v"]


# ------------------------------------------------------------------------------------------------ convert
def mixed():
    turns = (Message("system", "Be kind."), Message("user", "a\u2028b\t<b>"), Message("assistant", " ünï\n\n ``` "))
    skipped = (
        Message("user", "one"),
        Message("assistant", "old", train=False),
        Message("user", "2"),
        Message("assistant", "3"),
    )
    return [
        Conversation("s", turns, "raw.json[0]", {"model": "gpt-4", "n": {"deep": [1, None]}}),
        Conversation("t", skipped, "raw.json[1]"),
    ]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.zst", "parquet"])
@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
def test_every_layout_and_format_reads_back_to_the_same_conversations(tmp_path, ending, layout):
    source = write(tmp_path / "a.jsonl", *mixed())
    assert main(["convert", source, "--out", str(tmp_path / f"out.{ending}"), "--output.layout", layout]) == 0
    assert read(tmp_path / f"out.{ending}") == mixed()
    assert main(["convert", str(tmp_path / f"out.{ending}"), "--out", str(tmp_path / "back.jsonl")]) == 0
    assert read(tmp_path / "back.jsonl") == mixed()


def test_a_folder_has_files_of_the_format_that_was_asked_for(tmp_path):
    source = write(tmp_path / "a.jsonl", *(chat(str(n)) for n in range(5)))
    words = ["--output.format", "jsonl.zst", "--output.shard", "2"]
    assert main(["convert", source, "--out", str(tmp_path / "out"), *words]) == 0
    names = [path.name for path in sorted((tmp_path / "out" / "conversations").iterdir())]
    assert names == ["00000.jsonl.zst", "00001.jsonl.zst", "00002.jsonl.zst"]
    assert ids(tmp_path / "out") == ["0", "1", "2", "3", "4"]


def test_an_older_file_is_replaced_and_an_older_folder_is_not(tmp_path, capsys):
    source = write(tmp_path / "a.jsonl", chat("new"))
    write(tmp_path / "out.jsonl", chat("old"))
    assert main(["convert", source, "--out", str(tmp_path / "out.jsonl")]) == 0
    assert ids(tmp_path / "out.jsonl") == ["new"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    assert main(["convert", source, "--out", str(tmp_path / "folder")]) == 1
    assert "holds other files (thesis.txt)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["split-train-test", "sample --size 1", "convert", "stats", "inspect"])
def test_a_finished_folder_stays_as_it_is(tmp_path, capsys, command):
    assert main(["convert", write(tmp_path / "a.jsonl", chat("x"), chat("y")), "--out", str(tmp_path / "made")]) == 0
    name = {"stats": "s.html", "inspect": "s.html", "split-train-test": ""}.get(command, "sub/s.jsonl")
    out = str(tmp_path / "made" / name)
    assert main([*command.split(), str(tmp_path / "a.jsonl"), "--out", out]) == 1
    assert f"is inside {tmp_path / 'made'}, which is finished" in capsys.readouterr().err
    assert ids(tmp_path / "made") == ["x", "y"]


def test_a_record_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"id": "x", "messages": []}\n{"id": "y", "messages": [{"role": "wizard"}]}\n')
    for out in ("out.jsonl", "out"):
        assert main(["convert", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / out)]) == 1
        error = capsys.readouterr().err
        assert "a.jsonl:2" in error
        assert "clean" in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_file_that_breaks_off_is_an_error_not_half_a_dataset(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps([{"id": "x", "messages": []}] * 3)[:-9])
    assert main(["merge", str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]) == 1
    assert "a.json[2]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ extract
@pytest.fixture
def pile(tmp_path):
    german = ("Könntest du mir bitte erklären, warum es jeden Tag zweimal Ebbe und Flut gibt?", "Ja, wegen des Mondes.")
    english = (
        "Could you explain why there are two tides on every single day of the year?",
        "Yes, because of the moon.",
    )
    return write(
        tmp_path / "pile.jsonl",
        chat("a", *english, model="GPT-4"),
        chat("b", *english, "And the sun?", "It helps.", model="Model: GPT-4"),
        chat("c_0", *german, model="gpt-4-0613"),
        chat("c_2", *german, "Und die Sonne?", "Auch.", model="gpt-3.5-turbo"),
        chat("d", "?", "!", "?", "!", "?", "!"),
    )


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--model", "gpt-4"], ["a", "b"]),
        (["--model", "gpt-4*"], ["a", "b", "c_0"]),
        (["--model", "gpt-4", "gpt-3.5*"], ["a", "b", "c_2"]),
        (["--model", "gpt-4", "--unnamed"], ["a", "b", "d"]),
        (["--language", "de"], ["c_0", "c_2"]),
        (["--language", "en", "--max_rounds", "1"], ["a"]),
        (["--min-rounds", "2"], ["b", "c_2", "d"]),
        (["--min_rounds", "2", "--max_rounds", "2"], ["b", "c_2"]),
        (["--single-round", "only"], ["a", "c_0"]),
        (["--single-round", "first"], ["a", "b", "c_0", "c_2", "d"]),
    ],
    ids=" ".join,
)
def test_a_conversation_that_is_extracted_meets_every_condition(tmp_path, pile, words, found):
    assert main(["extract", pile, *words, "--out", str(tmp_path / "out.jsonl")]) == 0
    assert ids(tmp_path / "out.jsonl") == found


def test_the_first_round_alone_is_question_and_answer_with_the_system_message(tmp_path):
    source = write(tmp_path / "a.jsonl", Conversation("x", (Message("system", "s"), *chat("x", *"abcd").messages)))
    assert main(["extract", source, "--single_round", "first", "--out", str(tmp_path / "out.jsonl")]) == 0
    (found,) = read(tmp_path / "out.jsonl")
    assert [message.content for message in found.messages] == ["s", "a", "b"]


def test_an_id_of_a_list_stands_for_its_pieces_and_must_be_there(tmp_path, pile, capsys):
    (tmp_path / "ids.txt").write_text("c\n\na\n")
    words = ["extract", pile, "--ids", str(tmp_path / "ids.txt"), "--out"]
    assert main([*words, str(tmp_path / "out.jsonl")]) == 0
    assert ids(tmp_path / "out.jsonl") == ["a", "c_0", "c_2"]
    (tmp_path / "ids.txt").write_text("a\nnobody\n")
    assert main([*words, str(tmp_path / "other.jsonl")]) == 1
    assert "1 of 2 ids are in no input: nobody" in capsys.readouterr().err
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["extract", "pile.jsonl", "--out", "o"], 2, "nothing says what to extract"),
        (["extract", "pile.jsonl", "--out", "o", "--language", "English"], 2, "ISO 639"),
        (["extract", "pile.jsonl", "--out", "o", "--unnamed"], 2, "give model, too"),
        (["extract", "pile.jsonl", "--out", "o", "--min_rounds", "3", "--max_rounds", "2"], 2, "not below min_rounds"),
        (["extract", "pile.jsonl", "--out", "o", "--model", "llama"], 1, "none of 5 conversations meets"),
        (["extract", "pile.jsonl", "--out", "o", "--ids", "empty.txt"], 1, "holds no ids"),
        (["convert", "pile.jsonl", "--out", "x.parquet", "--output.format", "jsonl.zst"], 2, "leave one of them out"),
        (["convert", "pile.jsonl", "--out", "x.csv"], 2, "ends in .jsonl"),
        (["convert", "--out", "x.jsonl"], 2, "inputs is missing"),
        (["merge", "pile.jsonl", "gone.jsonl", "--out", "o"], 1, "there is no file gone.jsonl"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path, pile, monkeypatch, capsys, words, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    assert main(words) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "pile.jsonl"]


def test_plain_files_can_be_read_by_everything_else(tmp_path):
    source = write(tmp_path / "a.jsonl", *mixed(), layout="sharegpt")
    assert main(["convert", source, "--out", str(tmp_path / "b.jsonl")]) == 0
    assert [each.messages for each in read_conversations(tmp_path / "b.jsonl")] == [each.messages for each in mixed()]
