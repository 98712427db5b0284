"""A file of named parts, each read by itself: what a step leaves for the next. Whole or absent, and checked by CRC."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vicuna.data.shingles import Array
from vicuna.errors import InputError
from vicuna.files import replacing


def write_parts(path: Path, parts: Mapping[str, Array | bytes]) -> None:
    """Write arrays and byte strings under their names, uncompressed."""
    arrays = {name: np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part for name, part in parts.items()}
    with replacing(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes **kwds for allow_pickle


def read_part(path: Path, name: str) -> Array:
    """One part as an array (of bytes, where bytes were written); see `read_parts`."""
    return read_parts(path, (name,))[0]


def read_parts(path: Path, names: Sequence[str]) -> list[Array]:
    """Some parts as arrays.

    Raises:
        InputError: the file was changed or damaged after it was written.
    """
    try:
        with np.load(path, allow_pickle=False) as parts:
            return [np.asarray(parts[name]) for name in names]
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:  # what zipfile raises
        raise InputError(f"cannot read {path}: {error}; remove the folder {path.parent} and start again") from error


def read_bytes(path: Path, name: str) -> bytes:
    """One part that was written as bytes."""
    return read_part(path, name).tobytes()
