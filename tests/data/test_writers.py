"""Conversation files: every format holds the same, whole or not at all, with bytes that depend on nothing else."""

import json

import pytest
import zstandard

from vicuna.conversation import Conversation, Message, read_conversations
from vicuna.data.sources import Source, read
from vicuna.data.sources.rows import conversation
from vicuna.data.writers import line, open_shard
from vicuna.errors import InputError

FORMATS = ["jsonl", "jsonl.zst", "parquet"]
LAYOUTS = ["messages", "sharegpt"]


def chats(count):
    for n in range(count):
        system = [Message("system", "Be kind.")] if n % 3 == 0 else []
        rounds = [Message("user", f"q{n} é"), Message("assistant", "😀\n" * (n % 50), train=n % 5 > 0)]
        metadata = {} if n % 2 else {"model": n, "tags": ["a", None]}
        yield Conversation(f"c{n}", (*system, *rounds), f"f.json[{n}]" if n % 7 else "", metadata)


def written(path, form, layout, made, flags=True):
    with open_shard(path, form, layout, flags) as shard:
        for each in made:
            shard.write(each)
    return path.read_bytes()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_back_equal(tmp_path, form, layout):
    made = list(chats(1200))
    written(tmp_path / "x", form, layout, made)
    found = [conversation(each.row, each.file + each.position) for each in read(Source(tmp_path / "x", "x"))]
    assert found == made


def test_training_reads_the_plain_format(tmp_path):
    made = list(chats(20))
    written(tmp_path / "x.jsonl", "jsonl", "messages", made)
    assert list(read_conversations(tmp_path / "x.jsonl")) == made


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("flags", [True, False])
def test_lines_give_the_same_bytes_as_conversations_however_they_come(tmp_path, form, layout, flags):
    made = list(chats(2500))
    lines = [line(each, layout) for each in made]
    with open_shard(tmp_path / "y", form, layout, flags) as shard:
        shard.write_lines(lines[:7])
        shard.write_lines(iter(lines[7:2000]))
        shard.write_lines([])
        for each in made[2000:]:
            shard.write(each)
    assert written(tmp_path / "x", form, layout, made, flags) == (tmp_path / "y").read_bytes()


def test_compressed_lines_are_the_plain_lines(tmp_path):
    plain = written(tmp_path / "x", "jsonl", "messages", chats(3000))
    packed = written(tmp_path / "y", "jsonl.zst", "messages", chats(3000))
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == plain


@pytest.mark.parametrize(("layout", "turns"), [("messages", "messages"), ("sharegpt", "conversations")])
def test_all_records_have_the_same_columns(tmp_path, layout, turns):
    rows = [json.loads(each) for each in written(tmp_path / "x", "jsonl", layout, chats(30)).splitlines()]
    assert {tuple(row) for row in rows} == {("id", turns, "source", "metadata")}
    assert {type(row["metadata"]) for row in rows} == {str}
    assert len({tuple(turn) for row in rows for turn in row[turns]}) == 1
    assert json.loads(rows[2]["metadata"]) == {"model": 2, "tags": ["a", None]}


def test_a_table_has_typed_columns_and_row_groups_of_a_thousand(tmp_path):
    import pyarrow.parquet as pq

    written(tmp_path / "x", "parquet", "messages", chats(2001))
    with pq.ParquetFile(tmp_path / "x") as file:
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [1000, 1000, 1]
        assert str(file.schema_arrow.field("messages").type) == (
            "list<element: struct<role: string, content: string, train: bool>>"
        )
        assert all(str(file.schema_arrow.field(name).type) == "string" for name in ("id", "source", "metadata"))


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_without_conversations_can_be_read(tmp_path, form):
    written(tmp_path / "x", form, "messages", [])
    assert list(read(Source(tmp_path / "x", "x"))) == []


@pytest.mark.parametrize("form", FORMATS)
def test_half_surrogate_pairs_are_mended(tmp_path, form):
    bad = Conversation("x\ud83d", (Message("user", "\ud83d"), Message("assistant", "a")), "s", {"k": "\ud83d"})
    written(tmp_path / "x", form, "messages", [bad])
    (found,) = read(Source(tmp_path / "x", "x"))
    made = conversation(found.row, "x")
    assert (made.id, made.messages[0].content, made.metadata) == ("x\ufffd", "\ufffd", {"k": "\ufffd"})


@pytest.mark.parametrize("form", FORMATS)
def test_an_error_leaves_no_file(tmp_path, form):
    with pytest.raises(RuntimeError), open_shard(tmp_path / "x", form, "messages") as shard:
        shard.write(next(chats(1)))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        written(tmp_path / "x", "parquet", "messages", chats(1))


def test_a_format_that_there_is_not_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"jsonl, jsonl\.zst, parquet; got 'csv'"):
        written(tmp_path / "x", "csv", "messages", [])
