"""Read conversation files of any size, record by record; what a file holds is told by its content, not by its name."""

import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vicuna import manifest
from vicuna.errors import InputError
from vicuna.files import sha256_file, sha256_text

_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_PEEK = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """An input file and the name that it has in the output."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, or the reason why there is none at this place."""

    file: str
    position: str
    """`:12` is a line, `[11]` an element of an array."""
    row: Any = None
    problem: str = ""
    """Why the record could not be read; "" for a good one."""
    text_hash: str = ""
    """SHA-256 of the unreadable text, where there is a problem."""
    damaged: bool = False
    """Nothing after this place could be read."""


def expand(inputs: Sequence[str]) -> list[Source]:
    """The files that paths, folders and patterns name, each once, in a fixed order.

    A folder that `clean` wrote stands for its conversations; any other folder for the files in it.

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
    names = [path.name for path in found]
    return [Source(path, path.name if names.count(path.name) == 1 else path.as_posix()) for path in found]


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
    if not files:
        raise InputError(f"folder {folder} holds no files")
    return files


def hashes(inputs: Sequence[Source]) -> dict[str, str]:
    """Name → SHA-256 of each input file: what the output is made from."""
    return {source.name: sha256_file(source.path) for source in inputs}


def read(source: Source) -> Iterator[Record]:
    """The records of one file in order, in constant memory.

    Understands JSON arrays, JSON Lines, and JSON objects one after another, each plain or compressed with gzip or zstd.
    A line that is no JSON object gives a record with a problem, and reading goes on; a file that breaks off gives all
    records before the break and then one that is `damaged`.

    Raises:
        InputError: the file cannot be opened, or is none of these.
    """
    try:
        with open(source.path, "rb") as raw:
            stream = _decompressed(raw)
            start, lines_before = _peek(stream)
            if start[:1] == b"[":
                yield from _array(source, stream)
            elif start[:1] == b"{":
                first_line = start.split(b"\n", 1)[0].strip()
                lines = _is_json(first_line) or not (first_line == b"{" or len(first_line) >= _PEEK - 16)
                yield from _lines(source, stream, lines_before + 1) if lines else _objects(source, stream)
            elif not start:
                yield from _break(source, stream, "[0]")
            else:
                raise InputError(f"{source.path} holds no conversations: JSON begins with [ or {{, not {start[:12]!r}")
    except OSError as error:
        raise InputError(f"cannot read {source.path}: {error.strerror or error}") from error


def _decompressed(raw: IO[bytes]) -> io.BufferedReader:
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(_GZIP):
        chunks = _gzip_chunks(raw)
    elif magic == _ZSTD:
        chunks = _zstd_chunks(raw)
    else:
        chunks = iter(lambda: raw.read(_PEEK), b"")
    return io.BufferedReader(_Chunks(chunks), _PEEK)


def _gzip_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as file:
        while data := file.read1(_PEEK):
            yield data


def _zstd_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    while chunk := raw.read(_PEEK):
        while chunk:
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(chunk)
            chunk = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("the last frame is not complete")


class _Chunks(io.RawIOBase):
    """A stream of chunks of bytes that ends where the compressed data breaks off, and remembers why it did."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self.broken = ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import zstandard

        try:
            while not self._rest and not self.broken:
                self._rest = next(self._chunks)
        except StopIteration:
            return 0
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            self.broken = " ".join(str(error).split())
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _peek(stream: io.BufferedReader) -> tuple[bytes, int]:
    """The first bytes that are no white space or byte order mark, and how many line ends stood before them."""
    lines = 0
    while True:
        start = stream.peek(_PEEK)
        skip = len(start) - len(start.removeprefix(_BOM).lstrip())
        if not skip:
            return start, lines
        lines += stream.read(skip).count(b"\n")


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _lines(source: Source, stream: io.BufferedReader, first: int) -> Iterator[Record]:
    complete, number = True, first - 1
    for number, line in enumerate(stream, first):
        if not line.strip():
            continue
        where = f":{number}"
        complete = line.endswith(b"\n")
        try:
            row = json.loads(line)
        except ValueError as error:
            text_hash = sha256_text(line.decode("utf-8", "replace").rstrip("\n"))
            cut = not complete
            problem = f"the file breaks off: {error}" if cut else f"not JSON: {error}"
            yield Record(source.name, where, problem=problem, text_hash=text_hash, damaged=cut)
            if cut:
                return
        else:
            yield _record(source, where, row)
    yield from _break(source, stream, f":{number + 1}")


def _break(source: Source, stream: io.BufferedReader, where: str) -> Iterator[Record]:
    """One damaged record if the compressed data broke off, else nothing."""
    broken = getattr(stream.raw, "broken", "")
    if broken:
        problem = f"the compressed data breaks off: {broken}"
        yield Record(source.name, where, problem=problem, text_hash=sha256_text(""), damaged=True)


def _array(source: Source, stream: io.BufferedReader) -> Iterator[Record]:
    yield from _streamed(source, stream, "item", "[{}]", multiple=False)


def _objects(source: Source, stream: io.BufferedReader) -> Iterator[Record]:
    yield from _streamed(source, stream, "", "[{}]", multiple=True)


def _streamed(source: Source, stream: io.BufferedReader, prefix: str, place: str, multiple: bool) -> Iterator[Record]:
    import ijson

    count = 0
    try:
        for row in ijson.items(stream, prefix, use_float=True, multiple_values=multiple):
            yield _record(source, place.format(count), row)
            count += 1
    except (ijson.JSONError, UnicodeDecodeError) as error:
        broken = getattr(stream.raw, "broken", "")
        why = broken or " ".join(str(error).split())[:120]
        problem = f"the file breaks off or is not JSON from here on: {why}"
        yield Record(source.name, place.format(count), problem=problem, text_hash=sha256_text(""), damaged=True)


def _record(source: Source, where: str, row: Any) -> Record:
    if isinstance(row, dict):
        return Record(source.name, where, row)
    problem = f"expected an object, got {type(row).__name__}"
    text_hash = sha256_text(json.dumps(row, ensure_ascii=False))
    return Record(source.name, where, problem=problem, text_hash=text_hash)


def whole_text(text: str) -> str:
    """The text with halves of surrogate pairs, which no UTF-8 file can hold, replaced by U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
