"""Files that paths, folders and patterns name, and the records in them."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vicuna import manifest
from vicuna.data.sources import cuts
from vicuna.data.sources.record import Record, Source, whole_text
from vicuna.data.sources.unpack import conversation_files
from vicuna.errors import InputError
from vicuna.files import sha256_file

__all__ = ["Record", "Source", "expand", "hashes", "read", "whole_text"]


def expand(inputs: Sequence[str]) -> list[Source]:
    """The files that paths, folders and patterns name, each once, in a fixed order.

    A folder that `clean` wrote, or an unpacked ChatGPT export, stands for its conversations; any other folder for the
    files in it.

    Raises:
        InputError: a path that does not exist, a pattern that nothing matches, an unfinished dataset folder.
    """
    found: dict[Path, None] = {}
    for each in inputs:
        for path in _matches(each):
            found.update(dict.fromkeys(_inside(path) if path.is_dir() else [path]))
    for path in found:
        if not path.is_file():
            raise InputError(f"{path} is not a regular file")
    names = Counter(path.name for path in found)
    return [Source(path, _readable(path.name if names[path.name] == 1 else path.as_posix())) for path in found]


def _readable(name: str) -> str:
    """A name that UTF-8 can hold; file systems take others."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _matches(given: str) -> list[Path]:
    path = Path(given)
    if path.exists():
        return [path]
    matches = sorted(Path(each) for each in glob.glob(given, recursive=True))  # noqa: PTH207 (absolute too)
    if not matches:
        kind = "no file matches" if glob.has_magic(given) else "there is no file"
        raise InputError(f"{kind} {given}")
    return matches


def _inside(folder: Path) -> list[Path]:
    if (folder / "conversations").is_dir():  # a dataset: never one that is unfinished or was changed since
        named = manifest.verify(folder).files
        return [folder / name for name in sorted(named) if name.startswith("conversations/")]
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    names = [path.name for path in files]
    if {"chat.html", "user.json"}.intersection(names) and (chosen := conversation_files(names)):  # a ChatGPT export
        return [folder / name for name in chosen]
    if not files:
        raise InputError(f"folder {folder} holds no files")
    return files


def hashes(inputs: Sequence[Source]) -> dict[str, str]:
    """Name → SHA-256 of each input file: what the output is made from."""
    return {source.name: sha256_file(source.path) for source in inputs}


def read(source: Source) -> Iterator[Record]:
    """The records of one input in order, in constant memory; see `cuts.cut` for what it may hold."""
    return cuts.read(source)
