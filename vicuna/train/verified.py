"""Files of torch.distributed.checkpoint that are on the disk, and read back, before they count as written."""

import contextlib
import hashlib
import io
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystem

from vicuna.errors import InputError
from vicuna.files import sha256_file


class VerifiedFiles(FileSystem):
    """For `fs` of torch's FileSystemWriter and FileSystemReader. No file is hidden: `.metadata` is `metadata`.

    (Manifests pass over hidden files.)
    """

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}
        """Name of each file that was written → SHA-256 of what was to be written."""

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> Path:
        return Path(path) / suffix.removeprefix(".")

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.hashes[Path(new_path).name] = self.hashes.pop(Path(path).name)

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        if mode != "wb":
            with super().create_stream(path, mode) as stream:
                yield stream
            return
        raw = _Hashed(path)
        with io.BufferedWriter(raw) as buffer:
            yield buffer
        if sha256_file(Path(path)) != raw.digest.hexdigest():
            raise InputError(f"{path} does not read back as it was written; check the disk")
        self.hashes[Path(path).name] = raw.digest.hexdigest()


class _Hashed(io.FileIO):
    """A file for writing that knows the hash of what it was given, and is on the disk itself when it is closed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.digest = hashlib.sha256()
        super().__init__(path, "w")

    def write(self, data: Any, /) -> int:
        taken = super().write(data)
        self.digest.update(memoryview(data)[:taken])
        return taken

    def close(self) -> None:
        if not self.closed:
            os.fsync(self.fileno())
        super().close()
