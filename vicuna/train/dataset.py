"""Samples to learn from and to hold out, mapped from the folder that `prepare` made of conversations."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.files import sha256_file
from vicuna.train.tokens import SAMPLE

MOST_PIECES = 100
"""Pieces of one conversation, which are named NAME_NUMBER; more such names of one source are just numbered."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence that never sees its neighbours."""

    id: str
    ids: npt.NDArray[np.int32]
    """Token ids, shape (T,)."""
    is_target: npt.NDArray[np.bool_]
    """Whether the token is learnt, shape (T,)."""


class Dataset:
    """Tokenised samples, or some of them. Only what is asked for is read from the disk."""

    def __init__(self, folder: Path, rows: npt.NDArray[np.int64] | None = None) -> None:
        """
        Args:
            folder: of kind "tokens".
            rows: which of its samples; None is all.

        Raises:
            IncompleteError: the folder is unfinished or damaged.
        """
        made = manifest.verify(folder, contents=False)
        samples = table(folder)
        self._starts, self._name_starts = _starts(samples["tokens"]), _starts(samples["name"])
        self._ids = _mapped(folder / "ids.bin", made.facts["dtype"], int(self._starts[-1]))
        self._is_target = _mapped(folder / "is_target.bin", "?", int(self._starts[-1]))
        self._names = _mapped(folder / "names.bin", "u1", int(self._name_starts[-1]))
        self._rows = np.arange(len(samples)) if rows is None else rows
        self.hash = made.hash
        """Content hash of the folder."""
        self.dropped: Mapping[str, int] = made.facts["dropped"]
        """Reason → samples of the folder that are not learnt."""
        self.cut: int = made.facts["cut"]
        """Samples of the folder that lost their end."""
        self.lengths: npt.NDArray[np.int32] = samples["tokens"][self._rows]
        """Tokens of each sample, shape (N,)."""
        self.targets: npt.NDArray[np.int32] = samples["targets"][self._rows]
        """Learnt tokens of each sample, shape (N,)."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sample {index}; there are {len(self)}")
        row = self._rows[index]
        here = slice(self._starts[row], self._starts[row + 1])
        name = self._names[self._name_starts[row] : self._name_starts[row + 1]].tobytes().decode()
        return Sample(name, self._ids[here].astype(np.int32), np.array(self._is_target[here]))

    @property
    def tokens(self) -> int:
        """Tokens in all samples."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def target_tokens(self) -> int:
        """Learnt tokens in all samples."""
        return int(self.targets.sum(dtype=np.int64))


def _starts(lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def table(folder: Path) -> npt.NDArray[Any]:
    """What is known of each sample of a folder, see `tokens.SAMPLE`.

    Raises:
        IncompleteError: the folder is unfinished or damaged.
    """
    return _mapped(folder / "samples.bin", SAMPLE, int(manifest.read(folder).facts["samples"]))


def _mapped(path: Path, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
    if path.stat().st_size != count * np.dtype(dtype).itemsize:
        raise IncompleteError(f"{path} is not as long as it was made; remove {path.parent} to make it again")
    return np.memmap(path, dtype, "r", shape=(count,))


# ------------------------------------------------------------------------------------------------ what is held out
def held_apart(folder: Path, share: float) -> tuple[Dataset, Dataset]:
    """The samples of a folder that are learnt, and those that are held out.

    The hash of each conversation's id decides, not its place, and pieces of one conversation stay together.

    Args:
        folder: of kind "tokens".
        share: of the conversations, held out; above 0 and below 1.

    Raises:
        InputError: the share takes all conversations or none.
        IncompleteError: the folder is unfinished or damaged.
    """
    held = _groups(table(folder)) < np.uint64(share * 2**64)
    if held.all() or not held.any():
        what = "all" if held.all() else "none"
        raise InputError(f"data.held_out_share {share} takes {what} of the {len(held):,} samples; set another share")
    return Dataset(folder, np.flatnonzero(~held)), Dataset(folder, np.flatnonzero(held))


def _groups(samples: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """A number for each sample, equal where samples come from one conversation."""
    places = np.unique(samples[["place", "conversation"]])["place"]  # one entry for each piece, or conversation
    found, pieces = np.unique(places, return_counts=True)
    count = pieces[np.searchsorted(found, samples["place"])]
    return np.where((count > 1) & (count <= MOST_PIECES), samples["stem"], samples["conversation"])


# ------------------------------------------------------------------------------------------------ what it is made from
def files_of(path: str | Path) -> list[Path]:
    """The conversation files that a dataset folder's manifest names, or the one file that is named.

    Raises:
        InputError: nothing is there.
        IncompleteError: the folder's manifest is missing: whatever made it did not finish.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder of conversations")
    made = manifest.read(path)
    files = re.compile(r"conversations/[^/]+\.(?:jsonl|jsonl\.zst|parquet)")
    found = [path / name for name in sorted(made.files) if files.fullmatch(name)]
    if not found:
        raise InputError(f"{path} ({made.kind}) holds no conversations; give a folder that vicuna.data made")
    return found


def dataset_hash(path: str | Path) -> str:
    """Content hash of a dataset folder, whose files are all compared with its manifest, or of one file's bytes.

    Raises:
        InputError: nothing is there.
        IncompleteError: the folder is unfinished, or its files are not as they were when it was made.
    """
    path = Path(path)
    if path.is_dir():
        return manifest.verify(path).hash
    if not path.exists():
        raise InputError(f"{path}: no such file or folder of conversations")
    return sha256_file(path)
