"""Reading files: told by content, record by record, and what is broken is named."""

import gzip
import json

import pytest
import zstandard

from vicuna.data.sources import Source, expand, read
from vicuna.errors import IncompleteError, InputError

ROWS = [{"id": str(n), "conversations": [{"from": "human", "value": f"q{n} é"}]} for n in range(5)]
ARRAY = json.dumps(ROWS, indent=2, ensure_ascii=False).encode()
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def records(path, data):
    path.write_bytes(data)
    return list(read(Source(path, path.name)))


@pytest.mark.parametrize(
    "data",
    [ARRAY, LINES, b"\xef\xbb\xbf \n" + ARRAY, LINES.rstrip(b"\n"), ARRAY.strip(b"[]").replace(b"\n  },", b"\n  }")],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_arrays_lines_and_objects_are_read_whatever_the_file_is_called(tmp_path, data, pack):
    found = records(tmp_path / "chats.txt", pack(data))
    assert [record.row for record in found] == ROWS
    assert not any(record.problem for record in found)


def test_positions_are_lines_or_elements(tmp_path):
    assert [record.position for record in records(tmp_path / "a", ARRAY)] == ["[0]", "[1]", "[2]", "[3]", "[4]"]
    assert [record.position for record in records(tmp_path / "b", b"\n" + LINES)][:2] == [":2", ":3"]


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


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("data", [ARRAY, LINES])
def test_a_file_that_breaks_off_gives_all_before_the_break_and_says_so(tmp_path, data, pack):
    found = records(tmp_path / "x", pack(data)[:-20])
    assert found[-1].damaged
    assert "breaks off" in found[-1].problem
    whole = [record.row for record in found[:-1]]
    assert whole == ROWS[: len(whole)]
    assert len(whole) == 4 or pack is not bytes


def test_a_compressed_file_that_lost_only_its_end_mark_says_so(tmp_path):
    found = records(tmp_path / "x", gzip.compress(LINES)[:-8])
    assert [record.row for record in found[:-1]] == ROWS
    assert found[-1].damaged


def test_a_file_of_something_else_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"x\.csv holds no conversations"):
        records(tmp_path / "x.csv", b"id,text\n1,a\n")


def test_an_empty_file_has_no_records(tmp_path):
    assert records(tmp_path / "x", b"") == []


def test_patterns_and_folders_name_files_once_in_order(tmp_path):
    for name in ("b.json", "a.json", "c.txt", ".hidden"):
        (tmp_path / name).write_bytes(ARRAY)
    names = [source.name for source in expand([str(tmp_path / "*.json"), str(tmp_path), str(tmp_path / "a.json")])]
    assert names == ["a.json", "b.json", "c.txt"]


@pytest.mark.parametrize("given", ["nowhere.json", "no*.json"])
def test_what_is_not_there_is_an_error(tmp_path, given):
    with pytest.raises(InputError, match=r"there is no file|no file matches"):
        expand([str(tmp_path / given)])


def test_an_unfinished_dataset_folder_is_refused(tmp_path):
    (tmp_path / "conversations").mkdir()
    (tmp_path / "conversations" / "00000.jsonl").write_bytes(LINES)
    with pytest.raises(IncompleteError, match="incomplete"):
        expand([str(tmp_path)])
