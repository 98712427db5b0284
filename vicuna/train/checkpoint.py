"""Checkpoints: everything that decides the next step, complete or not there at all.

Each rank writes its part with torch.distributed.checkpoint while training goes on; only a copy in main memory holds it
up. What is found at the next start, all ranks have agreed on.
"""

import contextlib
import datetime
import logging
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from vicuna import manifest
from vicuna.errors import InputError, VicunaError
from vicuna.files import read_json, sha256_file, sync, write_failure, write_json
from vicuna.train import state as states
from vicuna.train.parallel import OthersLost, World, first_line
from vicuna.train.verified import VerifiedFiles

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class Position:
    """Where a run stands."""

    step: int = 0
    """Optimiser steps done; it is the data position too, because the plan is fixed."""
    tokens: int = 0
    """Tokens seen."""
    targets: int = 0
    """Target tokens learnt."""
    seconds: float = 0.0
    """Time spent in steps, over all starts of the run."""


class Checkpoints:
    """The checkpoints of a run, in a folder that all of its nodes share. All ranks call the same methods together."""

    blocked = 0.0
    """Seconds that training stood for the last save."""
    written = 0.0
    """Seconds from the start of the last finished save until its checkpoint was complete."""

    def __init__(self, folder: Path, run: Mapping[str, Any], keep: int, world: World, asynchronous: bool) -> None:
        """Open the folder; it is made by the first save.

        Args:
            folder: `step-XXXXXXXX` folders, and hidden ones while they are written.
            run: what identifies the run (settings that decide the weights, hash of the data).
            keep: complete checkpoints that stay.
            world: the ranks.
            asynchronous: write in the background; otherwise `save` returns when the checkpoint is complete.
        """
        self._folder, self._run, self._keep = folder, run, keep
        limit = datetime.timedelta(seconds=world.timeout)
        group = dist.new_group(backend="gloo", timeout=limit) if world.size > 1 else None
        self._world = _Aside(**vars(world), group=group)
        self._staging = states.Staging(world.device) if asynchronous else None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._stored = -1  # step of the newest checkpoint
        self._torn: list[Path] = []
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # a world of one may be without

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._thread is not None and self._thread.is_alive()

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first; without those that `restore` found torn."""
        found = [each for each in sorted(self._folder.glob("step-*")) if manifest.is_complete(each)]
        return [each for each in found if each not in self._torn]

    # -------------------------------------------------------------------------------------------------------- write
    def save(self, position: Position, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Store where the run stands. Returns when training may go on; a step that is stored already is left alone.

        Args:
            position: where the run stands.
            model: its trainable weights are stored; the sharded root, if it is sharded.
            optimizer: its states are stored; plain tensors in them are the same on every rank.

        Raises:
            VicunaError: this checkpoint, or the one before in the background, could not be written.
        """
        began = time.perf_counter()
        self.finish()
        if position.step == self._stored:
            return
        state = states.learnt(model, optimizer) | states.random_numbers(self._world)
        where = asdict(position)
        if self._staging:
            work = (self._staging.copy(state), where, began)
            self._thread = threading.Thread(target=self._write_aside, args=work, name="checkpoint", daemon=True)
            self._thread.start()
        else:
            self._write(state, where, began)
        self.blocked = time.perf_counter() - began

    def finish(self) -> None:
        """Wait until what is written in the background is complete.

        Raises:
            VicunaError: it could not be written; what was there before is untouched.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def _write_aside(self, state: dict[str, Any], where: dict[str, Any], began: float) -> None:
        try:
            self._write(state, where, began)
        except BaseException as error:  # noqa: BLE001 (raised again by `finish`)
            self._failure = error

    def _write(self, state: dict[str, Any], where: dict[str, Any], began: float) -> None:
        """All ranks come to the same end, good or bad."""
        target = self._folder / f"step-{where['step']:08d}"
        part = target.with_name(f".{target.name}.partial")
        try:
            with self._one_end(f"cannot write {target}", part):
                self._on_main(target, self._make_room, part)
                hashes = self._write_files(part, state)
                self._on_main(target, self._complete, part, target, where, hashes)
                self._torn = []
                self._on_main(target, self._remove_old)
        except BaseException:
            if self._world.is_main:
                shutil.rmtree(part, ignore_errors=True)
            raise
        self._stored = where["step"]
        self.written = time.perf_counter() - began

    def _on_main(self, target: Path, work: Callable[..., None], *arguments: Any) -> None:
        """Have the first rank do some work; if it fails, all fail to write `target`."""
        with self._world.one_fails_all_fail(f"writing {target}"):
            try:
                if self._world.is_main:
                    work(*arguments)
            except OSError as error:
                raise InputError(f"cannot write {target}: {error.strerror or error}") from error

    def _make_room(self, part: Path) -> None:
        """Remove what killed starts left, and make the folder to write in."""
        for left in self._folder.glob(".step-*"):
            shutil.rmtree(left)
        part.mkdir(parents=True)

    def _write_files(self, part: Path, state: dict[str, Any]) -> dict[str, str]:
        """Write every rank's files; name → SHA-256 of all of them."""
        writer: Any = FileSystemWriter(part, sync_files=False)  # `VerifiedFiles` does
        writer.fs = VerifiedFiles()
        save_parts(state, storage_writer=writer, process_group=self._world.group, no_dist=self._world.size == 1)
        return {name: digest for found in self._world.gather(writer.fs.hashes) for name, digest in found.items()}

    def _complete(self, part: Path, target: Path, where: dict[str, Any], hashes: dict[str, str]) -> None:
        """Say what it is and where the run stands, and give it its name."""
        write_json(part / "position.json", where)
        seen = manifest.write(part, "training-state", config=self._run, hashes=hashes).files
        if unseen := sorted(set(hashes) - set(seen)):
            raise InputError(f"another node wrote {unseen[0]} of {target} where the first cannot see it; "
                             "--out must be a folder that all nodes share")  # fmt: skip
        sync(part)
        for each in {target, *self._torn}:  # or this step would not be done again
            _remove(each)
        part.rename(target)
        sync(self._folder)

    def _remove_old(self) -> None:
        """Remove all but the newest."""
        for old in self.complete()[: -self._keep]:
            _remove(old)

    # --------------------------------------------------------------------------------------------------------- read
    def restore(self, model: Any, optimizer: torch.optim.Optimizer) -> Position | None:
        """Go on from the newest checkpoint that every rank finds whole. The number of ranks may be another than then.

        Args:
            model, optimizer: as for `save`; their states are replaced.

        Returns:
            where the run stands; None where there is no such checkpoint.

        Raises:
            InputError: the checkpoint belongs to a run with other settings or other data, or cannot be read.
        """
        found = self._world.gather([each.name for each in self._folder.glob("step-*")])
        for name in sorted({name for names in found for name in names}, reverse=True):
            path = self._folder / name
            if wrong := next(filter(None, self._world.gather(self._trouble(path))), None):
                self._torn.append(path)
                if self._world.is_main:
                    logger.warning("not using a checkpoint: %s", wrong)
                continue
            self._check_run(path)
            return self._load(path, model, optimizer)
        return None

    def _trouble(self, path: Path) -> str:
        """What is wrong with the names of the files, or with the contents of this rank's share of them."""
        try:
            stored = manifest.verify(path, contents=False).files
            for name in sorted(stored)[self._world.rank :: self._world.size]:
                if sha256_file(path / name) != stored[name]:
                    return f"{path}/{name} is changed since the manifest was written"
        except VicunaError as error:
            return str(error)
        return ""

    def _check_run(self, path: Path) -> None:
        if changed := manifest.differences(manifest.read(path).config, self._run):
            raise InputError(f"{self._folder} is of a run with another {changed[0]}; choose another --out or remove it")

    def _load(self, path: Path, model: Any, optimizer: torch.optim.Optimizer) -> Position:
        reader: Any = FileSystemReader(path)
        reader.fs = VerifiedFiles()
        stored = reader.read_metadata().state_dict_metadata
        state = states.like(stored, model, optimizer) | states.stored_random_numbers(stored, self._world)
        with self._one_end(f"cannot read {path}", path):
            load_parts(state, storage_reader=reader, process_group=self._world.group, no_dist=self._world.size == 1)
        position = Position(**read_json(path / "position.json"))
        states.take_numbers(state, model, optimizer)
        states.set_random_numbers(state, position.step, self._world)
        self._stored = position.step
        return position

    @contextlib.contextmanager
    def _one_end(self, what: str, folder: Path) -> Iterator[None]:
        """Put what torch.distributed raises, on every rank, into a line."""
        try:
            yield
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            where = f" (on rank {rank})" if self._world.size > 1 else ""
            raise InputError(f"{what}: {write_failure(cause, folder) or first_line(cause)}{where}") from cause
        except RuntimeError as error:
            if self._world.size == 1:
                raise
            raise OthersLost(f"{what}: a rank was lost meanwhile") from error


@dataclass(frozen=True)
class _Aside(World):
    """The same ranks over a group of their own, so that what the background sends never meets what training sends."""

    group: Any = None

    def gather(self, value: T) -> list[T]:
        """As `World.gather`."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill in the middle leaves nothing that looks like one."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.removed")))
