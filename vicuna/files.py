"""Files that are either whole or absent: temporary name, fsync, rename. Whatever a file refuses is one line."""

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from vicuna.errors import InputError

_TEMPORARY = ".partial"
_BOM = b"\xef\xbb\xbf"
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
"""How zstd data begins: with a frame, or (from programs that compress in parallel) with one that readers pass over."""
_COMPRESSED = 1 << 14
"""zstd data read at once: all that it unpacks to comes at once too."""
_TAIL = 1 << 16
"""Bytes read at once when the end of a log is looked for."""


@contextlib.contextmanager
def replacing(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` only when the block ends without an error.

    Args:
        path: where the finished file shall stand; missing folders are made.
        mode: "w" for UTF-8 text with "\\n" line ends, "wb" for bytes.

    Raises:
        InputError: this file cannot be written (disk full, no permission, a folder of that name, half a surrogate
            pair in the text, ...). What the block itself raises about other files stays as it is.
    """
    path = _possible(path)
    with _written(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _Raw(temporary, path)
    buffer: io.BufferedWriter = io.BufferedWriter(raw)
    file: IO[Any] = buffer if mode == "wb" else _Text(buffer, path)
    try:
        yield file
        file.flush()
        with _written(path):
            os.fsync(raw.fileno())
            file.close()
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError, InputError):  # what is still buffered cannot be written either
            file.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


class _Raw(io.FileIO):
    """A file for writing whose failures name the path that it will have in the end."""

    def __init__(self, temporary: Path, path: Path) -> None:
        self._path = path
        super().__init__(temporary, "w")

    def write(self, data: Any, /) -> int:
        with _written(self._path):
            return super().write(data)


class _Text(io.TextIOWrapper):
    """UTF-8 text that names its file when it is given what UTF-8 cannot hold."""

    def __init__(self, buffer: io.BufferedWriter, path: Path) -> None:
        self._path = path
        super().__init__(buffer, encoding="utf-8", newline="\n")

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except UnicodeEncodeError as error:
            raise InputError(f"cannot write {self._path}: the text holds {surrogate(text)}") from error


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Any failure of the operating system within is a failure to write `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {_cause(error)}") from error


@contextlib.contextmanager
def _read(path: str | Path) -> Iterator[None]:
    """Any failure of the operating system within is a failure to read `path`."""
    try:
        yield
    except UnicodeDecodeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"cannot read {path}: {_cause(error)}") from error


def _possible(path: str | Path) -> Path:
    """The path, if a file can have that name."""
    path = Path(path)
    try:
        possible = bool(path.name) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise InputError(f"cannot write {str(path)!r}: no file can have that name")
    return path


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def write_failure(error: BaseException, folder: Path) -> str | None:
    """Why a file in `folder` could not be written, from what Python, a Rust or a C++ library raised about it.

    Returns:
        the cause in words; None for an error that says something else.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        name = error.filename
        ours = name is None or (isinstance(name, str | bytes) and Path(os.fsdecode(name)).is_relative_to(folder))
        return _cause(error) if error.errno and ours else None
    if type(error) is Exception or type(error).__name__ == "SafetensorError":  # tokenizers and safetensors
        code = re.search(r"\(os error (\d+)\)", text)
        return os.strerror(int(code[1])) if code else text if text.startswith("Error while serializing") else None
    if isinstance(error, RuntimeError) and "inline_container.cc" in text:  # torch.save, which hides the cause
        return "a file broke off while it was written; is the disk full?"
    return None


def surrogate(text: str) -> str:
    """What to call the first half of a surrogate pair in a text; "" where there is none, so that UTF-8 can hold it."""
    found = None if text.isascii() else re.search("[\ud800-\udfff]", text)
    return f"half a surrogate pair (U+{ord(found[0]):04X}), which is no character" if found else ""


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with a final line end, whole or not at all."""
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any UTF-8 file can hold: readable characters, and escapes where there is half a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if surrogate(text) else text


def read_text(path: str | Path) -> str:
    """The file's text without a byte order mark; an InputError that names the file where it cannot be had."""
    try:
        with _read(path):
            return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: byte {error.start} does not fit") from error


def read_json(path: str | Path) -> Any:
    """The file's JSON value; an InputError that names file and line where it is malformed."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: {_beyond(error)}") from error


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each object of a JSON Lines file, plain or zstd, with its line number (from 1); blank lines are passed over.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object (file and line are named).
    """
    with _read(path):
        file = open(path, "rb")  # noqa: SIM115 (closed below; what the reader of the rows does must not be in `_read`)
    with file:
        lines = enumerate(_lines(file), 1)
        while True:
            with _read(path):
                number, line = next(lines, (0, b""))
            if not number:
                return
            line = line.removeprefix(_BOM) if number == 1 else line
            if line.strip():
                yield number, _object(line, f"{path}:{number}")


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, unpacked where it is compressed with zstd.

    Raises:
        OSError: the file cannot be read, or what is compressed is damaged or breaks off.
    """
    start = file.read(4)
    file.seek(0)
    if not is_zstd(start):
        yield from file
        return
    rest = b""
    try:
        for piece in unzstd(file):
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in whole)
    except EOFError as error:
        raise OSError(f"the compressed data breaks off: {error}") from error
    if rest:
        yield rest


def is_zstd(start: bytes) -> bool:
    """Whether a file that begins with these (four or more) bytes is compressed with zstd."""
    return _ZSTD.match(start) is not None


def unzstd(file: IO[bytes]) -> Iterator[bytes]:
    """What zstd data unpacks to, in pieces; it may be several frames one after another.

    Raises:
        EOFError: the data breaks off or is damaged; the pieces before are right.
    """
    from zstandard import ZstdDecompressor, ZstdError

    frame = ZstdDecompressor().decompressobj()
    while chunk := file.read(_COMPRESSED):
        while chunk:
            frame = ZstdDecompressor().decompressobj() if frame.eof else frame
            try:
                yield frame.decompress(chunk)
            except ZstdError as error:
                raise EOFError(f"damaged zstd data: {error}") from error
            chunk = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("the last zstd frame is not complete")


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text: byte {error.start} does not fit") from error
    except json.JSONDecodeError as error:
        broken_array = line.lstrip().startswith(b"[") and where.endswith(":1")
        raise InputError(f"{where}: {_ARRAY if broken_array else f'not JSON: {error.msg}'}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{where}: {_beyond(error)}") from error
    if not isinstance(value, dict):
        got = f"expected a JSON object, got {type(value).__name__}"
        raise InputError(f"{where}: {_ARRAY if isinstance(value, list) else got}")
    return value


_ARRAY = (
    "a JSON array; JSON Lines has one object on each line (of conversations `python -m vicuna.data convert` makes it)"
)


def _beyond(error: Exception) -> str:
    """What no reader of ours takes although it is JSON."""
    return "JSON nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"


def sha256_text(text: str) -> str:
    """SHA-256 of the UTF-8 bytes, as 64 hexadecimal digits (lone surrogates pass through)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's list of names, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in pieces, as 64 hexadecimal digits."""
    with _read(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class AppendLog:
    """A JSON Lines file that grows by whole rows and survives a kill in the middle of one.

    A last line without its line end is cut off when the log is opened, unless the row itself is whole; a bad line
    anywhere else is an InputError when the rows are read, because it means that something else wrote to the file.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the log, or start one.

        Raises:
            InputError: the path cannot be written, e.g. because it is a folder.
        """
        self.path = _possible(path)
        with _written(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (kept open, see close)
            try:
                self._mend_last_line()
            except BaseException:
                self._file.close()
                raise

    def _mend_last_line(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        tail, start = b"", size
        while start and b"\n" not in tail:
            end, start = start, max(0, start - _TAIL)
            self._file.seek(start)
            tail = self._file.read(end - start) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return
        try:
            _object(torn, "")
        except InputError:
            self._file.truncate(size - len(torn))
        else:
            self._write(b"\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row and hand it to the operating system before returning.

        Raises:
            InputError: it cannot be written; then the log holds what it held before.
        """
        line = (to_json(row) + "\n").encode()
        with _written(self.path):
            before = os.fstat(self._file.fileno()).st_size
            try:
                self._write(line)
            except OSError:
                with contextlib.suppress(OSError):  # the torn line is cut at the next start
                    self._file.truncate(before)
                raise

    def _write(self, data: bytes) -> None:
        while data:  # a disk that fills up takes a part first and refuses the rest
            data = data[self._file.write(data) :]

    def rows(self) -> list[dict[str, Any]]:
        """Every row so far, oldest first."""
        return [row for _, row in read_jsonl(self.path)]

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        with _written(self.path):
            self._file.close()

    def __enter__(self) -> "AppendLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
