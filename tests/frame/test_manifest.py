"""Manifests of folders whose files are hashed already, and folders that are made with their manifest."""

import pytest

from vicuna import manifest
from vicuna.errors import IncompleteError
from vicuna.files import sha256_text, write_text


def test_hashes_that_are_known_are_taken_and_the_rest_is_read(tmp_path):
    write_text(tmp_path / "part", "one")
    write_text(tmp_path / "other", "two")
    found = manifest.write(tmp_path, "x", hashes={"part": sha256_text("one"), "elsewhere": "0" * 64})
    assert found.files == {"part": sha256_text("one"), "other": sha256_text("two")}
    assert found.hash == manifest.verify(tmp_path).hash == manifest.content_hash(tmp_path)


def test_a_known_hash_that_is_wrong_is_found_out(tmp_path):
    write_text(tmp_path / "part", "one")
    manifest.write(tmp_path, "x", hashes={"part": sha256_text("another")})
    with pytest.raises(IncompleteError, match="part is changed"):
        manifest.verify(tmp_path)


def test_whoever_may_read_a_made_folder_may_read_its_files(tmp_path):
    with manifest.making(tmp_path / "made", "x") as part:
        write_text(part / "weights", "one")
        (part / "weights").chmod(0o600)  # as safetensors leaves it
    made = tmp_path / "made"
    assert {each.stat().st_mode & 0o777 for each in made.iterdir()} == {made.stat().st_mode & 0o666}
