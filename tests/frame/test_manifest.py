"""Manifests of folders whose files are hashed already."""

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
