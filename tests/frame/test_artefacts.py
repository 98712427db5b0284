"""Files are whole or absent; an artefact is what its manifest says or is not used."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.files import AppendLog, read_json, replacing, write_json, write_text


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write("new")
        1 // 0
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["f.txt"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old")
    code = (
        "import sys,time; from vicuna.files import replacing\n"
        f"with replacing({str(path)!r}) as f:\n f.write('new'); f.flush(); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    log = AppendLog.__new__(AppendLog)
    log.path, log._file = path, open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(InputError, match=r"cannot write .*log.jsonl: No space left on device"):
        log.append({"a": 1})


def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="cannot write /proc/nowhere/f"):
        write_text("/proc/nowhere/f", "x")


def test_malformed_json_is_named_with_its_line(tmp_path):
    write_text(tmp_path / "f.json", '{\n"a": oops\n}')
    with pytest.raises(InputError, match=r"f.json:2: not JSON"):
        read_json(tmp_path / "f.json")


def test_a_log_drops_a_torn_last_line_and_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    with AppendLog(path) as log:
        log.append({"n": 1})
    with open(path, "a") as file:
        file.write('{"n": 2, "te')
    with AppendLog(path) as log:
        log.append({"n": 3})
        assert [row["n"] for row in log.rows()] == [1, 3]


def test_a_folder_without_a_manifest_is_incomplete(tmp_path):
    with pytest.raises(IncompleteError, match="incomplete; make it again"):
        manifest.read(tmp_path)
    assert not manifest.is_complete(tmp_path)


def test_a_torn_manifest_is_incomplete(tmp_path):
    write_text(tmp_path / "manifest.json", '{"kind": "dat')
    assert not manifest.is_complete(tmp_path)


def test_the_hash_covers_names_and_bytes_and_nothing_else(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        write_text(folder / "deep" / "f.txt", "one")
    first, second = manifest.write(a, "x", config={"lr": 1}), manifest.write(b, "y")
    assert first.hash == second.hash
    write_text(b / "deep" / "g.txt", "")
    assert manifest.write(b, "y").hash != first.hash


@pytest.mark.parametrize(("change", "word"), [("edit", "changed"), ("remove", "missing"), ("add", "new")])
def test_verification_names_the_file_that_is_not_as_it_was(tmp_path, change, word):
    write_json(tmp_path / "f.json", 1)
    manifest.write(tmp_path, "x")
    manifest.verify(tmp_path)
    if change == "edit":
        write_json(tmp_path / "f.json", 2)
    elif change == "remove":
        (tmp_path / "f.json").unlink()
    else:
        write_json(tmp_path / "g.json", 1)
    with pytest.raises(IncompleteError, match=rf"[fg].json is {word}"):
        manifest.verify(tmp_path)


def test_finished_work_is_recognised_by_kind_parents_and_settings(tmp_path):
    config = {"lr": 1e-3, "names": ("a", "b")}
    manifest.write(tmp_path, "x", parents={"data": "1"}, config=config)
    assert manifest.matches(tmp_path, "x", {"data": "1"}, config)
    assert not manifest.matches(tmp_path, "y", {"data": "1"}, config)
    assert not manifest.matches(tmp_path, "x", {"data": "2"}, config)
    assert not manifest.matches(tmp_path, "x", {"data": "1"}, {**config, "lr": 2e-3})


def test_a_manifest_says_when_and_with_what(tmp_path):
    made = manifest.write(tmp_path, "x")
    assert made.versions["vicuna"]
    assert made.created.startswith(time.strftime("%Y"))
    assert manifest.read(tmp_path) == made
