"""Conversation files of all formats, whole or absent, with the same bytes for the same conversations."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol, get_args

import orjson

from vicuna.conversation import Conversation, Layout, to_line
from vicuna.data.sources.record import whole_text
from vicuna.files import replacing

KIND = "dataset"
"""What the manifest of a folder of conversation files calls it."""
Format = Literal["jsonl", "jsonl.zst", "parquet"]

_ZSTD_LEVEL = 3
_PIECE = 1 << 20
"""Bytes handed to the compressor at once, however the lines come, so that its output depends on nothing else."""
_GROUP = 1000
"""Conversations in each row group of a Parquet file: what readers hold in memory at once, and can skip."""


class Shard(Protocol):
    """One file of conversations that is being written."""

    def write(self, conversation: Conversation) -> None:
        """Add a conversation."""

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Add conversations that are lines of JSON already, as `line` makes them, each with its line end."""


@contextmanager
def open_shard(path: Path, format: str, layout: Layout, flags: bool = False) -> Iterator[Shard]:  # noqa: A002
    """Write a conversation file, which is there when the block ends without an error, and not before.

    Every record has id, messages (or conversations), source and metadata; metadata is a JSON object written as text,
    because loaders want the same columns in all records.

    Args:
        path: the file.
        format: jsonl; jsonl.zst, compressed with zstd; or parquet, in row groups of 1,000.
        layout: messages, or sharegpt.
        flags: give every turn `train`, true or false. Without it only those turns have it that are not to be learnt,
            which the loader of Hugging Face datasets takes badly; so set it where any conversation has such turns.

    Raises:
        InputError: the file cannot be written.
        ValueError: there is no such format.
    """
    if format not in get_args(Format):
        raise ValueError(f"format is one of {', '.join(get_args(Format))}; got {format!r}")
    with replacing(path, "wb") as file:
        if format == "parquet":
            with _table(file, layout, flags) as table:
                yield table
        elif format == "jsonl.zst":
            with _compressed(file) as write:
                yield _Lines(write, layout, flags)
        else:
            yield _Lines(file.write, layout, flags)


def line(conversation: Conversation, layout: Layout) -> bytes:
    """A conversation as one line of a file, with its line end, in UTF-8; half surrogate pairs become U+FFFD."""
    return whole_text(to_line(conversation, layout)).encode()


class _Lines:
    def __init__(self, write: Callable[[bytes], Any], layout: Layout, flags: bool) -> None:
        self._write, self._layout, self._flags = write, layout, flags

    def write(self, conversation: Conversation) -> None:
        self.write_lines([line(conversation, self._layout)])

    def write_lines(self, lines: Iterable[bytes]) -> None:
        self._write(b"".join(map(_flagged, lines) if self._flags else lines))


def _flagged(given: bytes) -> bytes:
    """The line with `train` in every turn."""
    row = orjson.loads(given)
    for turn in row.get("messages") or row.get("conversations") or ():
        turn.setdefault("train", True)
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


@contextmanager
def _compressed(file: IO[bytes]) -> Iterator[Callable[[bytes], None]]:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
    waiting = bytearray()

    def write(data: bytes) -> None:
        waiting.extend(data)
        while len(waiting) >= _PIECE:
            file.write(compressor.compress(waiting[:_PIECE]))
            del waiting[:_PIECE]

    yield write
    file.write(compressor.compress(bytes(waiting)))
    file.write(compressor.flush())


# ------------------------------------------------------------------------------------------------ Parquet
@contextmanager
def _table(file: IO[bytes], layout: Layout, flags: bool) -> Iterator["_Table"]:
    import pyarrow.parquet as pq

    schema = _schema(layout, flags)
    with pq.ParquetWriter(file, schema, compression="zstd", compression_level=_ZSTD_LEVEL) as writer:
        table = _Table(writer, schema, layout)
        yield table
        table.flush()


def _schema(layout: Layout, flags: bool) -> Any:
    import pyarrow as pa

    names = ("role", "content") if layout == "messages" else ("from", "value")
    turn = [pa.field(name, pa.string()) for name in names] + ([pa.field("train", pa.bool_())] if flags else [])
    turns = pa.field("messages" if layout == "messages" else "conversations", pa.list_(pa.struct(turn)))
    return pa.schema(
        [pa.field("id", pa.string()), turns, pa.field("source", pa.string()), pa.field("metadata", pa.string())]
    )


class _Table:
    def __init__(self, writer: Any, schema: Any, layout: Layout) -> None:
        self._writer, self._schema, self._layout = writer, schema, layout
        self._rows: list[Mapping[str, Any]] = []

    def write(self, conversation: Conversation) -> None:
        self.write_lines([line(conversation, self._layout)])

    def write_lines(self, lines: Iterable[bytes]) -> None:
        for each in lines:
            self._rows.append(orjson.loads(each))
            if len(self._rows) == _GROUP:
                self.flush()

    def flush(self) -> None:
        """Write what is waiting as one row group."""
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema), row_group_size=_GROUP)
            self._rows = []
