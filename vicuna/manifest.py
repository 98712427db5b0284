"""What an artefact is and what it was made from: `manifest.json`, written last into every artefact folder.

A folder without a manifest is incomplete and is never used. The content hash covers names and bytes of all other files,
so that the parents' hashes chain from the raw pages to the report.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vicuna import __version__
from vicuna.errors import IncompleteError, InputError
from vicuna.files import read_json, sha256_file, write_json

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
) -> Manifest:
    """Hash every file below `folder` and write its manifest; from then on the artefact counts as complete."""
    folder = Path(folder)
    files = _hashes(folder)
    manifest = Manifest(
        kind=kind,
        hash=_content_hash(files),
        parents=dict(parents or {}),
        config=json.loads(json.dumps(config or {})),
        facts=json.loads(json.dumps(facts or {})),
        files=files,
        versions=_versions(),
        commit=_commit(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_json(folder / NAME, asdict(manifest))
    return manifest


def read(folder: str | Path) -> Manifest:
    """The folder's manifest.

    Raises:
        IncompleteError: there is none, so whatever made the folder did not finish, or it is not a manifest.
    """
    path = Path(folder) / NAME
    if not path.exists():
        raise IncompleteError(f"{folder} has no {NAME}: it is incomplete; make it again")
    try:
        return Manifest(**read_json(path))
    except (TypeError, InputError) as error:
        raise IncompleteError(f"{path} is not a manifest ({error}); make {folder} again") from error


def is_complete(folder: str | Path) -> bool:
    """Whether the folder has a readable manifest."""
    try:
        read(folder)
    except IncompleteError:
        return False
    return True


def verify(folder: str | Path) -> Manifest:
    """Read the manifest and compare every file with its hash.

    Raises:
        IncompleteError: no manifest, or a file is missing, added or changed (the first one is named).
    """
    manifest = read(folder)
    now = _hashes(Path(folder))
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
    wanted = json.loads(json.dumps([kind, dict(parents), dict(config)]))
    return bool([manifest.kind, dict(manifest.parents), dict(manifest.config)] == wanted)


def content_hash(folder: str | Path) -> str:
    """The content hash that a manifest of the folder would state now."""
    return _content_hash(_hashes(Path(folder)))


def _hashes(folder: Path) -> dict[str, str]:
    """Relative name → SHA-256 of every file below `folder` but its manifest and hidden (temporary) files."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != NAME and not any(part.startswith(".") for part in name.split("/")):
            files[name] = sha256_file(path)
    return files


def _content_hash(files: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


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
