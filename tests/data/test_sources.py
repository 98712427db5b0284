"""Reading files: told by content, cut into blocks, record by record, and what is broken is named."""

import dataclasses
import gzip
import json
import pickle
import struct
import subprocess
import sys
import zipfile

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vicuna.data.sources import Source, expand, lines, read, values
from vicuna.data.sources.cuts import Block, cut
from vicuna.data.sources.cuts import records as records_of
from vicuna.data.sources.record import whole_text
from vicuna.errors import IncompleteError, InputError

ROWS = [{"id": str(n), "conversations": [{"from": "human", "value": f"q{n} é"}]} for n in range(5)]
ARRAY = json.dumps(ROWS, indent=2, ensure_ascii=False).encode()
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
BARE = ARRAY.strip(b"[]").replace(b"\n  },", b"\n  }")
PACKS = [bytes, gzip.compress, zstandard.ZstdCompressor().compress]


def records(path, data):
    path.write_bytes(data)
    return list(read(Source(path, path.name)))


def blocks(path, spool, most_records=2, most_bytes=1 << 20):
    return list(cut(Source(path, path.name), spool, most_records, most_bytes))


# ------------------------------------------------------------------------------------------------ what is understood
@pytest.mark.parametrize("data", [ARRAY, LINES, b"\xef\xbb\xbf \n" + ARRAY, LINES.rstrip(b"\n"), BARE])
@pytest.mark.parametrize("pack", PACKS)
def test_arrays_lines_and_objects_are_read_whatever_the_file_is_called(tmp_path, data, pack):
    found = records(tmp_path / "chats.txt", pack(data))
    assert [record.row for record in found] == ROWS
    assert not any(record.problem for record in found)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("data", [ARRAY, LINES])
@pytest.mark.parametrize("pack", PACKS)
def test_utf_16_is_read_like_utf_8(tmp_path, data, encoding, pack):
    found = records(tmp_path / "x", pack(data.decode().encode(encoding)))
    assert [record.row for record in found] == ROWS


def test_windows_line_ends_blank_lines_and_marks_of_joined_files_are_passed_over(tmp_path):
    data = b"\r\n".join(b"\xef\xbb\xbf" + line + b"\n" for line in LINES.splitlines())
    found = records(tmp_path / "x", data)
    assert [record.row for record in found] == ROWS
    assert [record.position for record in found] == [":1", ":3", ":5", ":7", ":9"]


def test_arrays_one_after_another_and_arrays_of_arrays_are_one_list(tmp_path):
    found = records(tmp_path / "x", ARRAY + b"\n" + json.dumps([ROWS, ROWS]).encode())
    assert [record.row for record in found] == ROWS * 3
    assert found[-1].position == "[14]"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("more", [{}, {"next": None, "tags": ["a"]}])
def test_an_array_that_is_a_member_of_an_object_is_read(tmp_path, indent, more):
    rows = [{"id": "a", "mapping": {}}, *ROWS]
    data = json.dumps({"version": 1, "conversations": rows, **more}, indent=indent).encode()
    assert [record.row for record in records(tmp_path / "x", data)] == rows


def test_further_rows_after_such_an_array_are_not_lost_silently(tmp_path):
    found = records(tmp_path / "x", json.dumps({"train": ROWS, "test": ROWS}).encode())
    assert [record.row for record in found[:-1]] == ROWS
    assert found[-1].damaged
    assert "comes more" in found[-1].problem


@pytest.mark.parametrize("indent", [None, 1])
def test_one_conversation_is_not_taken_for_a_list_of_them(tmp_path, indent):
    (found,) = records(tmp_path / "x", json.dumps(ROWS[0], indent=indent).encode())
    assert found.row == ROWS[0]


def test_positions_are_lines_or_elements(tmp_path):
    assert [record.position for record in records(tmp_path / "a", ARRAY)] == ["[0]", "[1]", "[2]", "[3]", "[4]"]
    assert [record.position for record in records(tmp_path / "b", b"\n" + LINES)][:2] == [":2", ":3"]


def test_commas_too_many_or_too_few_lose_nothing(tmp_path):
    found = records(tmp_path / "x", b'[,{"id": 1} {"id": 2},, {"id": 3},]')
    assert [record.row["id"] for record in found] == [1, 2, 3]


def test_what_json_does_not_have_becomes_null_and_control_characters_may_stand_in_text(tmp_path):
    (found,) = records(tmp_path / "x", b'[{"a": NaN, "b": -Infinity, "c": 1e999, "d": "x\ty", "e": 1, "e": 2}]')
    assert found.row == {"a": None, "b": None, "c": None, "d": "x\ty", "e": 2}


def test_a_first_line_longer_than_any_buffer_is_a_line(tmp_path):
    rows = [{"id": "a", "text": "x" * 300_000}, {"id": "b"}]
    found = records(tmp_path / "x", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    assert [(record.row, record.position) for record in found] == [(rows[0], ":1"), (rows[1], ":2")]


def test_an_archive_of_something_else_is_named_and_not_where_it_was_unpacked_to(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(b"./a.txt\0\0"))
    with pytest.raises(InputError, match=r"^x\.tar\.gz holds no conversations"):
        list(read(Source(tmp_path / "x.tar.gz", "x.tar.gz")))


def test_a_file_of_something_else_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"x\.csv holds no conversations"):
        records(tmp_path / "x.csv", b"id,text\n1,a\n")


@pytest.mark.parametrize("data", [b"", b" \n", b"[]", b"[ ]\n"])
def test_an_empty_file_has_no_records(tmp_path, data):
    assert records(tmp_path / "x", data) == []


# ------------------------------------------------------------------------------------------------ what is broken
def test_a_bad_line_is_named_and_reading_goes_on(tmp_path):
    found = records(tmp_path / "x.jsonl", b'{"id": "half\n' + LINES + b"[1]\n" + b'{"id": "\xff"}\n' + LINES)
    assert [record.position for record in found if record.problem] == [":1", ":7", ":8"]
    assert [record.row for record in found if not record.problem] == ROWS + ROWS
    assert not any(record.damaged for record in found)


def test_an_element_that_is_no_object_is_named_and_reading_goes_on(tmp_path):
    found = records(tmp_path / "x.json", b'[1, {"id": "a"}, "text"]')
    assert [(record.position, record.problem) for record in found] == [
        ("[0]", "expected an object, got int"), ("[1]", ""), ("[2]", "expected an object, got str"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        b'{"id": "x", "conversations": [{"from": "human", "value": "He said "no" twice"}]}',
        b'{"id": "x", "conversations": [{"from": "human", "value": "one " quote"}]}',
        b'{"id": "x", "conversations": [{"from": "human", "value": "no end}]}',
        b'{"id": "x", "conversations": [{"from": "human", "value": "no brackets"',
        b'{"id": "x" "conversations": []}',
        b"nul",
        b"\0\0\0\0",
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_malformed_element_costs_only_itself(tmp_path, bad, indent):
    texts = [json.dumps(row, indent=indent).encode() for row in ROWS]
    found = records(tmp_path / "x", b"[" + b",\n".join([*texts[:2], bad, *texts[2:]]) + b"]")
    assert [record.row for record in found if not record.problem] == ROWS
    (problem,) = [record for record in found if record.problem]
    assert (problem.position, problem.damaged) == ("[2]", False)
    assert problem.problem.startswith("not JSON")
    assert len(problem.text_hash) == 64


def test_what_python_cannot_hold_is_named_and_reading_goes_on(tmp_path):
    deep, long = b'{"id": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"id": ' + b"1" * 5000 + b"}"
    found = records(
        tmp_path / "x", b"[" + b", ".join([b'{"id": 1}', deep, long, b'{"id": "\xff"}', b'{"id": 2}']) + b"]"
    )
    assert [record.problem for record in found] == [
        "", "not readable: nested too deeply", "not readable: a number with too many digits",
        "not UTF-8 text: byte 8 does not fit", "",
    ]  # fmt: skip


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("data", [ARRAY, LINES])
def test_a_file_that_breaks_off_gives_all_before_the_break_and_says_so(tmp_path, data, pack):
    found = records(tmp_path / "x", pack(data)[:-20])
    assert found[-1].damaged
    assert "breaks off" in found[-1].problem
    whole = [record.row for record in found[:-1]]
    assert whole == ROWS[: len(whole)]
    assert len(whole) == 4 or pack is not bytes


def test_zstd_frames_after_each_other_and_frames_to_be_passed_over_are_one_file(tmp_path):
    skipped = struct.pack("<II", 0x184D2A50, 4) + b"size"
    data = b"".join(skipped + zstandard.compress(line + b"\n") for line in LINES.splitlines())
    assert [record.row for record in records(tmp_path / "x", data)] == ROWS


def test_a_compressed_file_that_lost_only_its_end_mark_says_so(tmp_path):
    found = records(tmp_path / "x", gzip.compress(LINES)[:-8])
    assert [record.row for record in found[:-1]] == ROWS
    assert found[-1].damaged


# ------------------------------------------------------------------------------------------------ blocks
@pytest.mark.parametrize("data", [ARRAY, LINES, BARE])
@pytest.mark.parametrize("pack", PACKS)
def test_blocks_are_small_can_travel_and_give_the_same_records(tmp_path, data, pack):
    (tmp_path / "x").write_bytes(pack(data))
    found = blocks(tmp_path / "x", tmp_path / "spool")
    assert [len(records_of(block)) for block in found] == [2, 2, 1]
    again = [Block(**json.loads(json.dumps(dataclasses.asdict(pickle.loads(pickle.dumps(block)))))) for block in found]
    assert again == found
    assert [record.row for block in reversed(again) for record in reversed(records_of(block))] == ROWS[::-1]


def test_a_block_ends_before_it_has_too_many_bytes_but_holds_at_least_one_record(tmp_path):
    for name, data in (("a", ARRAY), ("b", LINES)):
        (tmp_path / name).write_bytes(data)
        size = len(data) // 2
        assert all(block.end - block.start <= size for block in blocks(tmp_path / name, tmp_path, 9, size))
        assert len(blocks(tmp_path / name, tmp_path, 9, 1)) == 5


def test_what_was_unpacked_is_not_unpacked_again(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(LINES)[:-8])
    first = blocks(tmp_path / "x.gz", tmp_path / "spool")
    (unpacked,) = (path for path in (tmp_path / "spool").iterdir() if path.suffix != ".broken")
    before = unpacked.stat()
    assert blocks(tmp_path / "x.gz", tmp_path / "spool") == first
    assert unpacked.stat().st_mtime_ns == before.st_mtime_ns
    assert first[-1].damaged


json_values = st.recursive(
    st.none() | st.integers(-9, 9**30) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"{}[],:\\ é', max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
rows = st.lists(st.dictionaries(st.text(max_size=3), json_values, min_size=1, max_size=3), min_size=1, max_size=6)
layouts = st.sampled_from(["array", "lines", "bare", "arrays"])


def written(found, layout, indent, ascii_only):
    texts = [json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in found]
    if layout == "lines":
        return "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in found).encode()
    text = {
        "array": f"[{','.join(texts)}]",
        "bare": "\n".join(texts),
        "arrays": "".join(f"[{each}]\n" for each in texts),
    }
    return text[layout].encode()


@given(rows, layouts, st.sampled_from([None, 1]), st.booleans(), st.integers(1, 99), st.integers(1, 4))
def test_any_json_is_cut_without_loss_however_little_is_looked_at_at_once(
    tmp_path_factory, found, layout, indent, ascii_only, chunk, most
):
    folder = tmp_path_factory.mktemp("any")
    (folder / "x").write_bytes(written(found, layout, indent, ascii_only))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_CHUNK", chunk)
        patch.setattr(lines, "_CHUNK", chunk)
        made = blocks(folder / "x", folder, most)
        assert [record.row for block in made for record in records_of(block)] == found
    assert all(len(records_of(block)) <= most for block in made)


@given(rows, st.sampled_from(["array", "lines"]), st.sampled_from([None, 1]), st.integers(1, 99), st.data())
def test_any_file_cut_off_anywhere_gives_all_whole_records_before(tmp_path_factory, found, layout, indent, chunk, data):
    folder = tmp_path_factory.mktemp("any")
    whole = written(found, layout, indent, False)
    length = data.draw(st.integers(1, len(whole) - 1))
    (folder / "x").write_bytes(whole[:length])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_CHUNK", chunk)
        read_back = [record for block in blocks(folder / "x", folder) for record in records_of(block)]
    good = [record.row for record in read_back if not record.problem]
    assert good == found[: len(good)]
    if layout == "array":
        assert read_back[-1].damaged
        assert len(good) == sum(
            length >= len(written(found[:n], layout, indent, False)) - 1 for n in range(1, len(found) + 1)
        )


# ------------------------------------------------------------------------------------------------ archives and tables
def test_an_export_archive_gives_its_conversation_files_only(tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for name, data in (("user.json", b"{}"), ("conversations-001.json", LINES), ("conversations-000.json", ARRAY),
                           ("chat.html", b"<html>"), ("shared_conversations.json", b"[{}]")):  # fmt: skip
            archive.writestr(name, data)
    found = list(read(Source(tmp_path / "export.zip", "export.zip")))
    assert [record.row for record in found] == ROWS * 2
    assert found[0].file == "export.zip/conversations-000.json"


def test_another_archive_gives_its_json_files_or_says_that_there_are_none(tmp_path):
    for name, member in (("a.zip", "chats.jsonl"), ("b.zip", "chats.csv")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, LINES)
    assert len(list(read(Source(tmp_path / "a.zip", "a.zip")))) == 5
    with pytest.raises(InputError, match=r"b\.zip holds no conversations"):
        list(read(Source(tmp_path / "b.zip", "b.zip")))


def table(path, found, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(found), path, **options)


def test_tables_are_read_by_row_groups(tmp_path):
    table(tmp_path / "x", ROWS, row_group_size=1)
    found = blocks(tmp_path / "x", tmp_path)
    assert [(block.start, block.end, block.first) for block in found] == [(0, 2, 0), (2, 4, 2), (4, 5, 4)]
    read_back = [record for block in found for record in records_of(block)]
    assert [record.row for record in read_back] == ROWS
    assert read_back[3].position == "[3]"


def test_row_groups_that_are_too_large_are_made_smaller_once(tmp_path):
    table(tmp_path / "x", ROWS * 100)
    found = blocks(tmp_path / "x", tmp_path / "spool", 60)
    assert [len(records_of(block)) for block in found] == [60] * 8 + [20]
    assert [record.row for block in found for record in records_of(block)] == ROWS * 100
    (copy,) = (tmp_path / "spool").iterdir()
    before = copy.stat().st_mtime_ns
    assert blocks(tmp_path / "x", tmp_path / "spool", 60) == found
    assert copy.stat().st_mtime_ns == before


def test_values_of_tables_become_json(tmp_path):
    import datetime

    time = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    table(tmp_path / "x", [{"t": time, "b": b"ab", "f": float("nan"), "n": None, "l": [{"a": 1, "b": None}]}])
    (found,) = read(Source(tmp_path / "x", "x"))
    assert found.row == {"t": "2024-05-06T07:08:09+00:00", "b": "YWI=", "f": None, "l": [{"a": 1}]}


def test_a_table_that_breaks_off_is_one_damaged_place(tmp_path):
    table(tmp_path / "x", ROWS)
    (found,) = records(tmp_path / "y", (tmp_path / "x").read_bytes()[:-20])
    assert found.damaged
    assert "Parquet file breaks off" in found.problem


def test_a_damaged_row_group_names_each_of_its_rows(tmp_path):
    table(tmp_path / "x", ROWS, row_group_size=3, compression="zstd")
    data = bytearray((tmp_path / "x").read_bytes())
    data[8:40] = b"\xff" * 32
    found = records(tmp_path / "y", bytes(data))
    assert [bool(record.problem) for record in found] == [True] * 3 + [False] * 2


# ------------------------------------------------------------------------------------------------ names
def test_patterns_and_folders_name_files_once_in_order(tmp_path):
    for name in ("b.json", "a.json", "c.txt", ".hidden"):
        (tmp_path / name).write_bytes(ARRAY)
    names = [source.name for source in expand([str(tmp_path / "*.json"), str(tmp_path), str(tmp_path / "a.json")])]
    assert names == ["a.json", "b.json", "c.txt"]


def test_an_unpacked_export_stands_for_its_conversations(tmp_path):
    for name in ("conversations-001.json", "conversations-000.json", "user.json", "chat.html"):
        (tmp_path / name).write_bytes(ARRAY)
    assert [each.name for each in expand([str(tmp_path)])] == ["conversations-000.json", "conversations-001.json"]


@pytest.mark.parametrize("given", ["nowhere.json", "no*.json"])
def test_what_is_not_there_is_an_error(tmp_path, given):
    with pytest.raises(InputError, match=r"there is no file|no file matches"):
        expand([str(tmp_path / given)])


def test_an_unfinished_dataset_folder_is_refused(tmp_path):
    (tmp_path / "conversations").mkdir()
    (tmp_path / "conversations" / "00000.jsonl").write_bytes(LINES)
    with pytest.raises(IncompleteError, match="incomplete"):
        expand([str(tmp_path)])


def test_text_becomes_whole():
    assert whole_text("a\ud83d\ude00b\ud83dc") == "a\U0001f600b\ufffdc"


# ------------------------------------------------------------------------------------------------ memory
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))
from pathlib import Path
from vicuna.data.sources.cuts import cut, records
from vicuna.data.sources import Source
source = Source(Path(sys.argv[1]), "big.json")
print(sum(len(records(block)) for block in cut(source, Path(sys.argv[2]), 256, 1 << 22)))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory, and reads its peak, as Linux has them")
def test_two_hundred_megabytes_in_one_array_on_one_line_fit_in_little_memory(tmp_path):
    row = json.dumps(ROWS[0] | {"text": "\\ \n é x" * 2000}).encode()
    count = 200_000_000 // len(row)
    with open(tmp_path / "big.json", "wb") as file:
        file.write(b"[" + row)
        for _ in range(count // 100):
            file.write((b", " + row) * 100)
        file.write(b"]")
    run = [sys.executable, "-c", LIMITED, str(tmp_path / "big.json"), str(tmp_path / "spool")]
    found, kilobytes = map(int, subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    assert found == 1 + count // 100 * 100
    assert kilobytes < 100_000
