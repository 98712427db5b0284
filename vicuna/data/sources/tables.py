"""Parquet: rows of a table, read one row group at a time."""

import base64
import datetime
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vicuna.data.sources.record import Block, Record, problem
from vicuna.files import replacing, sha256_text

MAGIC = b"PAR1"
_BUFFER = 1 << 20
"""Bytes read ahead of each column."""


def cut(whole: Block, spool: Path, most: tuple[int, int]) -> Iterator[Block]:
    """Blocks of row groups; a file whose groups are too large is written anew with smaller ones, once, into the spool.

    Args:
        whole: the file as one block.
        spool: folder for such a copy.
        most: rows and bytes (in memory) of a block; a group may have up to four times as many bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(whole.path)
    except pa.ArrowInvalid as error:  # the description of a Parquet file stands at its end
        why = f"the Parquet file breaks off, or its end is damaged: {_line(error)}"
        yield Block(whole.path, whole.name, "damage", 0, whole.end, 0, problem=why, damaged=True)
        return
    with file:
        sizes = _sizes(file)
        if any(rows > most[0] or size > 4 * most[1] for rows, size in sizes):
            path = _smaller(whole.path, file, spool, most)
            with pq.ParquetFile(path) as copy:
                sizes = _sizes(copy)
            whole = replace(whole, path=str(path))
    yield from _groups(replace(whole, kind="table"), sizes, most)


def _groups(whole: Block, sizes: list[tuple[int, int]], most: tuple[int, int]) -> Iterator[Block]:
    start = first = rows = size = 0
    for group, (more_rows, more_size) in enumerate(sizes):
        if rows and (rows + more_rows > most[0] or size + more_size > most[1]):
            yield replace(whole, start=start, end=group, first=first)
            start, first, rows, size = group, first + rows, 0, 0
        rows, size = rows + more_rows, size + more_size
    if rows:
        yield replace(whole, start=start, end=len(sizes), first=first)


def _sizes(file: Any) -> list[tuple[int, int]]:
    """Rows and bytes of each row group."""
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]


def _smaller(given: str, file: Any, spool: Path, most: tuple[int, int]) -> Path:
    """A copy of the file with row groups of at most `most`, made in constant memory unless it is there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, size = file.metadata.num_rows, sum(size for _, size in _sizes(file))
    batch = max(1, min(most[0], most[1] * rows // max(size, 1)))
    facts = Path(given).stat()
    key = sha256_text(f"{Path(given).resolve()}\n{facts.st_size}\n{facts.st_mtime_ns}\n{batch}")[:32]
    path = spool / key
    if not path.exists():
        with (
            replacing(path, "wb") as target,
            pq.ParquetFile(given, buffer_size=_BUFFER, pre_buffer=False) as source,
            pq.ParquetWriter(target, source.schema_arrow, compression="zstd") as writer,
        ):
            for each in source.iter_batches(batch, use_threads=False):
                writer.write_table(pa.Table.from_batches([each]), row_group_size=batch)
    return path


def read(block: Block) -> list[Record]:
    """The records of a block that `cut` made, one for each row.

    Absent and null are the same in a table, so members that are null are left out. Times become ISO 8601 text, bytes
    base64, decimals text.
    """
    import pyarrow.parquet as pq

    found: list[Record] = []
    with pq.ParquetFile(block.path) as file:
        for group in range(block.start, block.end):
            found += _rows(file, group, block, len(found))
    return found


def _rows(file: Any, group: int, block: Block, before: int) -> list[Record]:
    """The records of one row group, which come after `before` others of the block."""
    import pyarrow as pa

    try:
        rows = file.read_row_group(group, use_threads=False).to_pylist(maps_as_pydicts="lossy")
    except (pa.ArrowException, OSError) as error:
        why = f"not readable: {_line(error)}"
        count = file.metadata.row_group(group).num_rows
        return [problem(block, offset, why, b"") for offset in range(before, before + count)]
    return [Record(block.name, block.position(offset), _plain(row)) for offset, row in enumerate(rows, before)]


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
