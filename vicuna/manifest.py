"""What an artefact is and what it was made from: `manifest.json`, written last into every artefact folder.

A folder without a manifest is incomplete and is never used. The content hash covers names and bytes of all other files,
so that the parents' hashes chain from the raw pages to the report.
"""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any

from vicuna import __version__
from vicuna.errors import IncompleteError, InputError
from vicuna.files import read_json, sha256_file, sync, write_failure, write_json

NAME = "manifest.json"
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Manifest:
    """Identity and origin of one artefact folder."""

    kind: str
    """What it is: "dataset", "checkpoint", "evaluation", ..."""
    hash: str
    """SHA-256 over the names and bytes of all files in the folder, as hexadecimal digits."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """What it was made from: name → content hash."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The settings it was made with."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is worth knowing about it: counts, losses, template name and hash, ..."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File name → SHA-256 of its bytes."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package → version at the time."""
    commit: str = ""
    """Git commit of this package's checkout, "+changes" where it was edited; empty outside a checkout."""
    created: str = ""
    """UTC time in ISO 8601."""


def write(
    folder: str | Path,
    kind: str,
    *,
    parents: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    hashes: Mapping[str, str] | None = None,
) -> Manifest:
    """Hash every file below `folder` and write its manifest; from then on the artefact counts as complete.

    Args:
        folder: the artefact.
        kind, parents, config, facts: as in `Manifest`.
        hashes: file name → SHA-256 of its bytes, for files that are hashed already and need not be read again.

    Raises:
        InputError: there is no such folder, or it cannot be read or written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"cannot write {folder / NAME}: {folder} is not a folder")
    known = hashes or {}
    files = {name: known.get(name) or sha256_file(path) for name, path in _files(folder).items()}
    manifest = Manifest(
        kind=kind,
        hash=_content_hash(files),
        parents=_plain(parents or {}),
        config=_plain(config or {}),
        facts=_plain(facts or {}),
        files=files,
        versions=_versions(),
        commit=_commit(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_json(folder / NAME, asdict(manifest))
    return manifest


@contextlib.contextmanager
def making(
    folder: str | Path,
    kind: str,
    *,
    parents: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Make an artefact folder that is whole or not there: `with making(out, "checkpoint", ...) as part: ...`.

    The block writes its files into `part`, a hidden folder beside `folder` (what a killed start left there is removed).
    When it ends without an error, the manifest is written and `part` gets the name `folder`.

    Args:
        folder: where the artefact shall stand; it must not exist, or be empty.
        kind, parents, config, facts: as for `write`; `facts` is read at the end, so the block may fill it.

    Raises:
        InputError: something else stands there, or it cannot be written (disk full, no permission, ...).
    """
    check_free(folder)
    place = Path(folder).resolve()
    part = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield part
        write(part, kind, parents=parents, config=config, facts=facts)
        _share(part)
        _settle(part)
        os.replace(part, place)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if why := write_failure(error, part):
            raise InputError(f"cannot write {folder}: {why}") from error
        raise


def check_free(folder: str | Path) -> None:
    """Raise unless `making` may make this folder; for commands that work long before they write.

    Raises:
        InputError: it is a file, or not empty: nobody's work is written over.
    """
    folder = Path(folder)
    try:
        first = next(folder.iterdir(), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    if first:
        what = f"other work (kind {read(folder).kind})" if is_complete(folder) else f"other files ({first.name})"
        raise InputError(f"{folder} holds {what}; choose another --out or remove it")
    if folder.is_mount():
        raise InputError(f"{folder} is a mount point and cannot be replaced; name a folder inside it")


def _share(folder: Path) -> None:
    """Let whoever may read the folder read its files: safetensors gives them to their owner alone."""
    rights = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | rights)


def _settle(folder: Path) -> None:
    """Have every file on the disk itself, so that not even a power cut leaves a manifest without its files."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def read(folder: str | Path) -> Manifest:
    """The folder's manifest.

    Raises:
        IncompleteError: there is none, so whatever made the folder did not finish, or it is not a manifest.
    """
    found = find(folder)
    if found is None:
        raise IncompleteError(f"{folder} has no {NAME}: it is incomplete; make it again")
    return found


def find(folder: str | Path) -> Manifest | None:
    """The folder's manifest, or None where there is none: the folder is unfinished, or it is from elsewhere.

    Raises:
        IncompleteError: the manifest is unreadable or is not one.
    """
    path = Path(folder) / NAME
    try:
        return _manifest(read_json(path))
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise IncompleteError(f"{error}; make {folder} again") from error
    except ValueError as error:
        raise IncompleteError(f"{path} is not a manifest: {error}; make {folder} again") from error


def _manifest(value: Any) -> Manifest:
    """The manifest in a JSON value.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type, or the hash is not the files' one.
    """
    if not isinstance(value, dict):
        raise ValueError(f"it is a JSON {type(value).__name__}, not an object")
    needed, known = ("kind", "hash"), {each.name for each in fields(Manifest)}
    if lacking := [name for name in needed if name not in value]:
        raise ValueError(f"it has no {lacking[0]}")
    for name, each in value.items():
        if name not in known:
            raise ValueError(f"it has an unknown field {name!r}")
        if not isinstance(each, str if name in _TEXTS else dict):
            raise ValueError(f"its {name} is not {'text' if name in _TEXTS else 'an object'}")
        if isinstance(each, dict) and name in _TABLES and not all(isinstance(cell, str) for cell in each.values()):
            raise ValueError(f"its {name} holds what is not text")
    found = Manifest(**value)
    if found.hash != _content_hash(found.files):
        raise ValueError("its hash is not that of the files that it names")
    return found


_TEXTS = ("kind", "hash", "commit", "created")
_TABLES = ("parents", "files", "versions")
"""Fields that are objects of texts."""


def is_complete(folder: str | Path) -> bool:
    """Whether the folder has a readable manifest."""
    try:
        read(folder)
    except IncompleteError:
        return False
    return True


def verify(folder: str | Path, *, contents: bool = True) -> Manifest:
    """Read the manifest and compare every file with its hash.

    Args:
        folder: the artefact.
        contents: False compares only which files there are, without reading them.

    Raises:
        IncompleteError: no manifest, or a file is missing, added or changed (the first one is named).
    """
    manifest = read(folder)
    now = _hashes(Path(folder)) if contents else {name: manifest.files.get(name, "") for name in _files(Path(folder))}
    for name in sorted(set(now) | set(manifest.files)):
        if now.get(name) != manifest.files.get(name):
            change = "missing" if name not in now else "new" if name not in manifest.files else "changed"
            raise IncompleteError(f"{folder}/{name} is {change} since the manifest was written")
    return manifest


def matches(folder: str | Path, kind: str, parents: Mapping[str, str], config: Mapping[str, Any]) -> bool:
    """Whether the folder holds finished work of this kind, from these parents, with these settings."""
    if not is_complete(folder):
        return False
    manifest = read(folder)
    wanted = [kind, _plain(parents), _plain(config)]
    return bool([manifest.kind, dict(manifest.parents), dict(manifest.config)] == wanted)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings in which two trees differ.

    Args:
        stored: as a manifest holds it.
        wanted: as `making` would be given it.
    """
    return _differences(stored, _plain(wanted), "")


def _differences(a: Any, b: Any, prefix: str) -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [
            name for key in sorted(set(a) | set(b)) for name in _differences(a.get(key), b.get(key), f"{prefix}{key}.")
        ]
    return [] if a == b else [prefix.rstrip(".")]


def content_hash(folder: str | Path) -> str:
    """The content hash that a manifest of the folder would state now."""
    return _content_hash(_hashes(Path(folder)))


def _hashes(folder: Path) -> dict[str, str]:
    """Relative name → SHA-256 of every file of an artefact."""
    return {name: sha256_file(path) for name, path in _files(folder).items()}


def _files(folder: Path) -> dict[str, Path]:
    """Relative name → path of every file below `folder` but its manifest and hidden (temporary) files."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != NAME and not any(part.startswith(".") for part in name.split("/")):
            files[name] = path
    return files


def _content_hash(files: Mapping[str, str]) -> str:
    lines = b"".join(os.fsencode(f"{digest}  {name}\n") for name, digest in sorted(files.items()))
    return hashlib.sha256(lines).hexdigest()


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree as it reads back from JSON: tuples as lists, paths as text."""

    def text(value: Any) -> str:
        if isinstance(value, PurePath):
            return str(value)
        raise TypeError(f"a manifest cannot hold a {type(value).__name__}")

    plain: dict[str, Any] = json.loads(json.dumps(dict(tree), default=text))
    return plain


def _versions() -> dict[str, str]:
    found = {"vicuna": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _commit() -> str:
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return ""
    try:
        run = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True, timeout=10)
        head = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""  # no git here: the version stands in for the commit
    return head + ("+changes" if changed else "")
