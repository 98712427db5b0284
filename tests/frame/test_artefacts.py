"""Files are whole or absent; an artefact is what its manifest says or is not used."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.files import AppendLog, read_json, read_jsonl, read_text, replacing, write_failure, write_json, write_text


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


def small_files_only(code: str) -> str:
    """Run a program that may write 1,000 bytes into a file, as on a disk that is nearly full; what it prints."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    done = subprocess.run([sys.executable, "-c", limit + code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_file_that_does_not_fit_is_one_line_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old")
    said = small_files_only(
        f"from vicuna.files import *\ntry: write_text({str(path)!r}, 'x' * 5000)\nexcept InputError as e: print('E', e)"
    )
    assert said == f"E cannot write {path}: File too large\n"
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["f.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_log_on_a_full_disk_is_one_line_that_names_the_file_and_can_still_be_closed(tmp_path):
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    with AppendLog(path) as log, pytest.raises(InputError, match=r"cannot write .*log.jsonl: No space left on device"):
        log.append({"a": 1})


def test_a_row_that_does_not_fit_leaves_the_log_as_it_was(tmp_path):
    path = tmp_path / "log.jsonl"
    said = small_files_only(
        f"from vicuna.files import *\nlog = AppendLog({str(path)!r})\nlog.append({{'n': 1}})\n"
        "try: log.append({'n': 'x' * 5000})\nexcept InputError as e: print(e)\nlog.append({'n': 2}); print(log.rows())"
    )
    assert said == f"cannot write {path}: File too large\n[{{'n': 1}}, {{'n': 2}}]\n"


def test_an_error_of_the_block_about_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(tmp_path / "f.txt"):
        (tmp_path / "elsewhere").read_text()
    if os.path.exists("/dev/full"):  # noqa: PTH110
        with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "f.txt"):
            Path("/dev/full").write_text("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file/below", "Not a directory"),
        ("file/deep/below", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("folder", "Is a directory"),
        ("a\0b", "no file can have that name"),
        ("a\ud800b", "no file can have that name"),
    ],
)
@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), AppendLog], ids=["file", "log"])
def test_a_name_that_cannot_be_written_is_one_line(tmp_path, write, name, why):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"^cannot write .*: ({why}|File exists)$"):
        write(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_text_that_is_not_unicode_is_refused_by_name_and_json_keeps_it_escaped(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*f.txt: the text holds half a surrogate pair \(U\+D800\)"):
        write_text(tmp_path / "f.txt", "fine, then \ud800")
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "f.json", "é \ud800")
    assert read_json(tmp_path / "f.json") == "é \ud800"
    with AppendLog(tmp_path / "log.jsonl") as log:
        log.append({"text": "\udfff"})
        assert log.rows() == [{"text": "\udfff"}]


def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="cannot write /proc/nowhere/f"):
        write_text("/proc/nowhere/f", "x")


def test_malformed_json_is_named_with_its_line(tmp_path):
    write_text(tmp_path / "f.json", '{\n"a": oops\n}')
    with pytest.raises(InputError, match=r"f.json:2: not JSON"):
        read_json(tmp_path / "f.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "JSON nested too deeply"),
        ("1" + "0" * 5000, "a number with too many digits"),
    ],
)
def test_json_beyond_what_we_read_is_one_line(tmp_path, text, why):
    write_text(tmp_path / "f.json", text)
    with pytest.raises(InputError, match=f"f.json: {why}"):
        read_json(tmp_path / "f.json")
    write_text(tmp_path / "f.jsonl", f'{{"a": 1}}\n{{"a": {text}}}\n')
    with pytest.raises(InputError, match=f"f.jsonl:2: {why}"):
        list(read_jsonl(tmp_path / "f.jsonl"))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "f.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(path) == {"a": 1}
    assert list(read_jsonl(path)) == [(1, {"a": 1})]
    assert read_text(path).startswith("{")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'[{"a": 1}]', ":1: a JSON array; JSON Lines has one object on each line"),
        (b'[\n{"a": 1}\n]\n', ":1: a JSON array; JSON Lines has one object on each line"),
        (b'{"a": 1}\n"text"\n', ":2: expected a JSON object, got str"),
        (b'{"a": 1}\n\n{"a": "\xff"}\n', ":3: not UTF-8 text: byte 7 does not fit"),
        (b'{"a": 1}\n[1, \n', ":2: not JSON: "),
    ],
)
def test_what_is_not_json_lines_is_named_with_its_line(tmp_path, data, why):
    path = tmp_path / "f.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        list(read_jsonl(path))
    assert f"f.jsonl{why}" in str(caught.value)


def test_what_a_reader_does_with_a_row_is_not_taken_for_a_reading_error(tmp_path):
    write_text(tmp_path / "f.jsonl", '{"a": 1}\n')
    with pytest.raises(FileNotFoundError):
        for _ in read_jsonl(tmp_path / "f.jsonl"):
            (tmp_path / "elsewhere").read_text()


def test_a_last_row_that_lacks_only_its_line_end_is_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    with AppendLog(path) as log:
        log.append({"n": 3})
        assert [row["n"] for row in log.rows()] == [1, 2, 3]


def test_a_long_torn_row_is_cut_too(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 1}\n{"n": "' + "x" * 200_000)
    with AppendLog(path) as log:
        log.append({"n": 2})
        assert [row["n"] for row in log.rows()] == [1, 2]


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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": 3}, "its kind is not text"),
        ({"files": ["a"]}, "its files is not an object"),
        ({"parents": {"data": 1}}, "its parents holds what is not text"),
        ({"config": None}, "its config is not an object"),
        ({"extra": 1}, "it has an unknown field 'extra'"),
        ({"hash": "0" * 64}, "its hash is not that of the files that it names"),
        (None, "it is a JSON list, not an object"),
        ("kind", "it has no kind"),
    ],
)
def test_a_manifest_with_wrong_values_is_not_one(tmp_path, change, why):
    manifest.write(tmp_path, "x")
    good = read_json(tmp_path / "manifest.json")
    bad = {**good, **change} if isinstance(change, dict) else []
    if change == "kind":
        bad = {name: value for name, value in good.items() if name != "kind"}
    write_json(tmp_path / "manifest.json", bad)
    with pytest.raises(IncompleteError, match=rf"manifest.json is not a manifest: {why}.*make .* again"):
        manifest.read(tmp_path)
    with pytest.raises(IncompleteError):
        manifest.find(tmp_path)
    assert not manifest.is_complete(tmp_path)


def test_a_folder_from_elsewhere_has_no_manifest_to_find(tmp_path):
    assert manifest.find(tmp_path) is None
    assert manifest.find(tmp_path / "nowhere") is None


def test_names_of_files_may_be_any_bytes(tmp_path):
    (tmp_path / "caf\udce9.txt").write_text("latin-1 on the disk")
    made = manifest.write(tmp_path, "x")
    assert manifest.verify(tmp_path) == made
    assert json.loads((tmp_path / "manifest.json").read_bytes().decode())["files"].keys() == made.files.keys()


def test_paths_in_settings_are_text_in_the_manifest(tmp_path):
    made = manifest.write(tmp_path, "x", config={"where": Path("a/b")})
    assert made.config == {"where": "a/b"}
    assert manifest.matches(tmp_path, "x", {}, {"where": Path("a/b")})


def test_a_manifest_for_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*nowhere is not a folder"):
        manifest.write(tmp_path / "nowhere", "x")
    assert not list(tmp_path.iterdir())


def test_names_alone_can_be_compared(tmp_path):
    write_text(tmp_path / "f", "1")
    manifest.write(tmp_path, "x")
    write_text(tmp_path / "f", "2")
    manifest.verify(tmp_path, contents=False)
    write_text(tmp_path / "g", "1")
    with pytest.raises(IncompleteError, match="g is new"):
        manifest.verify(tmp_path, contents=False)


# ------------------------------------------------------------------------------------------------ making
def test_a_folder_appears_whole_with_its_manifest_and_the_facts_of_the_end(tmp_path):
    out, facts = tmp_path / "deep" / "out", {}
    with manifest.making(out, "x", parents={"a": "1"}, config={"b": 2}, facts=facts) as part:
        write_text(part / "sub" / "f.txt", "one")
        facts["count"] = 1
        assert not out.exists()
    made = manifest.verify(out)
    assert (made.kind, made.parents, made.config, made.facts) == ("x", {"a": "1"}, {"b": 2}, {"count": 1})
    assert [each.name for each in out.parent.iterdir()] == ["out"]


def test_an_empty_folder_and_a_link_to_one_may_be_filled(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with manifest.making(tmp_path / "link", "x") as part:
        write_text(part / "f", "1")
    assert manifest.verify(tmp_path / "real").kind == "x"
    assert (tmp_path / "link").is_symlink()


def test_other_work_is_never_written_over(tmp_path):
    done, foreign, file = tmp_path / "done", tmp_path / "foreign", tmp_path / "file"
    with manifest.making(done, "checkpoint") as part:
        write_text(part / "f", "precious")
    write_text(foreign / "notes.txt", "mine")
    write_text(file, "mine")
    for out, why in [
        (done, r"done holds other work \(kind checkpoint\); choose another --out or remove it"),
        (foreign, r"foreign holds other files \(notes.txt\); choose another --out or remove it"),
        (file, r"cannot write .*file: Not a directory"),
    ]:
        with pytest.raises(InputError, match=why), manifest.making(out, "checkpoint"):
            pytest.fail("the block must not begin")
    assert (done / "f").read_text() == "precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["done", "file", "foreign"]


def test_work_that_appears_meanwhile_is_not_written_over(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"cannot write .*out: Directory not empty"), manifest.making(out, "x") as part:
        write_text(part / "f", "ours")
        write_text(out / "f", "theirs")
    assert (out / "f").read_text() == "theirs"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_an_error_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), manifest.making(tmp_path / "out", "x") as part:
        write_text(part / "f", "1")
        1 // 0
    with pytest.raises(FileNotFoundError), manifest.making(tmp_path / "out", "x"):
        (tmp_path / "elsewhere").read_text()
    assert not list(tmp_path.iterdir())


def test_a_killed_maker_leaves_no_folder_and_the_next_start_begins_afresh(tmp_path):
    out = tmp_path / "out"
    code = (
        "import time; from vicuna import manifest\n"
        f"with manifest.making({str(out)!r}, 'x') as part:\n"
        " (part / 'old').write_text('1'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert not out.exists()
    with manifest.making(out, "x") as part:
        write_text(part / "new", "1")
    assert list(manifest.verify(out).files) == ["new"]
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_hold_a_folder_is_named():
    with pytest.raises(InputError, match="cannot write /proc/nowhere/out: "), manifest.making("/proc/nowhere/out", "x"):
        pytest.fail("the block must not begin")


def test_what_libraries_raise_when_the_disk_is_full_is_one_line(tmp_path):
    """safetensors, tokenizers and torch each have errors of their own for it."""
    said = small_files_only(
        "import torch\nfrom safetensors.torch import save_file\nfrom tokenizers import Tokenizer, models\n"
        "from vicuna import manifest\nfrom vicuna.errors import InputError\n"
        "words = Tokenizer(models.WordLevel({str(i): i for i in range(1000)}, '0'))\n"
        "for save in (lambda p: save_file({'a': torch.zeros(1000)}, p), words.save,\n"
        "             lambda p: torch.save(torch.zeros(1000), p)):\n"
        "    try:\n"
        f"        with manifest.making({str(tmp_path / 'out')!r}, 'x') as part: save(str(part / 'f'))\n"
        "    except InputError as error: print(error)"
    )
    full = f"cannot write {tmp_path}/out: File too large"
    broken = f"cannot write {tmp_path}/out: a file broke off while it was written; is the disk full?"
    assert said.splitlines() == [full, full, broken]
    assert not list(tmp_path.iterdir())


def test_errors_that_say_something_else_are_not_taken_for_a_full_disk(tmp_path):
    for error in (ValueError("x"), OSError("cannot parse"), RuntimeError("shapes differ"), Exception("bad vocabulary")):
        assert write_failure(error, tmp_path) is None
