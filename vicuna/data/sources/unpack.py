"""Compressed, archived and UTF-16 files as plain UTF-8 files, unpacked once into a folder."""

import codecs
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from vicuna.data.sources.record import Source
from vicuna.errors import InputError
from vicuna.files import is_zstd, read_text, replacing, sha256_text, unzstd, write_text

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_UTF16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"[\0": "utf-16-le", b"{\0": "utf-16-le", b"\0[": "utf-16-be",
          b"\0{": "utf-16-be"}  # fmt: skip
_PIECE = 1 << 18
_JSON = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Plain:
    """A file that can be read where it lies."""

    path: Path
    name: str
    """What records say they come from."""
    broken: str = ""
    """Why the data ended too early; "" if it is whole."""


def unpacked(source: Source, spool: Path) -> list[Plain]:
    """The plain files that an input stands for.

    Plain files stand for themselves. Others are unpacked in pieces, unless that was done before: the names in the spool
    follow from the input's place, size and time. Damaged data gives all that comes before the damage.

    Args:
        source: gzip or zstd data, a ZIP archive, UTF-16 text, or anything else.
        spool: folder for what is unpacked; it is made if needed.

    Raises:
        InputError: an archive without conversations, or one that needs a password.
        OSError: the input cannot be read.
    """
    with open(source.path, "rb") as file:
        magic = file.read(4)
    if magic == _ZIP:
        return _archive(source, spool)
    if not magic.startswith(_GZIP) and not is_zstd(magic) and magic[:2] not in _UTF16:
        return [Plain(source.path, source.name)]
    with open(source.path, "rb") as raw:
        return [_spooled(source, source.name, _utf8(_decompressed(raw, magic)), spool)]


def _archive(source: Source, spool: Path) -> list[Plain]:
    """The conversation files of a ZIP archive, such as ChatGPT's export of an account."""
    with _damage_named(source.path), zipfile.ZipFile(source.path) as archive:
        names = sorted(each.filename for each in archive.infolist() if not each.is_dir())
        chosen = conversation_files(names) or [name for name in names if name.endswith(_JSON)]
        if not chosen:
            raise InputError(f"{source.path} holds no conversations: there is no .json or .jsonl file in the archive")
        found = []
        for name in chosen:
            with archive.open(name) as member:
                found.append(_spooled(source, f"{source.name}/{name}", _utf8(_pieces(member)), spool))
        return found


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is a damaged ZIP archive: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # a password; a method that zipfile does not know
        raise InputError(f"cannot unpack {path}: {error}; unpack it and give the files") from error


def conversation_files(names: list[str]) -> list[str]:
    """Those of an export's files that hold its conversations: conversations.json, or conversations-000.json, ..."""
    return [name for name in names if PurePosixPath(name).match("conversations*.json")]


def _spooled(source: Source, name: str, pieces: Iterator[bytes], spool: Path) -> Plain:
    facts = source.path.stat()
    key = sha256_text(f"{source.path.resolve()}\n{facts.st_size}\n{facts.st_mtime_ns}\n{name}")[:32]
    path, note = spool / key, spool / f"{key}.broken"
    if not path.exists():
        with replacing(path, "wb") as file:
            if broken := _copy(pieces, file):
                write_text(note, broken)  # before the file, so that a whole file never lacks its note
    return Plain(path, name, read_text(note) if note.exists() else "")


def _copy(pieces: Iterator[bytes], file: IO[bytes]) -> str:
    """Write all pieces; why they ended too early, or ""."""
    try:
        for piece in pieces:
            file.write(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        return "the compressed data breaks off: " + " ".join(str(error).split())
    except UnicodeDecodeError as error:
        return f"the file breaks off or is not UTF-16: {error.reason}"
    return ""


# ------------------------------------------------------------------------------------------------ pieces of bytes
def _decompressed(raw: IO[bytes], magic: bytes) -> Iterator[bytes]:
    if magic.startswith(_GZIP):
        return _gunzipped(raw)
    return unzstd(raw) if is_zstd(magic) else _pieces(raw)


def _pieces(raw: IO[bytes]) -> Iterator[bytes]:
    while data := raw.read(_PIECE):
        yield data


def _gunzipped(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as file:
        while data := file.read1(_PIECE):
            yield data


def _utf8(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, from UTF-16 to UTF-8 if they begin like that."""
    first = next((piece for piece in pieces if piece), b"")
    encoding = _UTF16.get(first[:2])
    if encoding is None:
        yield first
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    yield decoder.decode(first).encode()
    for piece in pieces:
        yield decoder.decode(piece).encode()
    yield decoder.decode(b"", final=True).encode()
