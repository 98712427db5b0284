"""Conversations of many files and folders as one stream, in order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vicuna.conversation import Conversation
from vicuna.data import sources
from vicuna.data.sources import Record, Source, rows
from vicuna.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """Files that are read as often as needed, one conversation at a time."""

    files: tuple[Source, ...]

    @classmethod
    def find(cls, inputs: Sequence[str]) -> "Inputs":
        """The files that paths, folders and patterns name.

        Raises:
            InputError: nothing is there.
            IncompleteError: a dataset folder is unfinished or was changed.
        """
        return cls(tuple(sources.expand(inputs)))

    def parents(self) -> dict[str, str]:
        """Name → SHA-256 of each file."""
        return sources.hashes(self.files)

    def records(self) -> Iterator[Record]:
        """All records, those that cannot be read too."""
        for file in self.files:
            yield from sources.read(file)

    def conversations(self, doing: str) -> Iterator[Conversation]:
        """All conversations, under a progress bar that says what is being done.

        Raises:
            InputError: a record cannot be read (file and position are named).
        """
        return watched((parsed(record) for record in self.records()), doing)

    def have_flags(self) -> bool:
        """Whether any turn is marked as not to be learnt, so that files for other loaders need the mark in every turn.

        Raises:
            InputError: a record cannot be read.
        """
        return any(not message.train for each in self.conversations("looked at") for message in each.messages)


def parsed(record: Record) -> Conversation:
    """The record as a conversation.

    Raises:
        InputError: it cannot be read as one.
    """
    where = record.file + record.position
    try:
        if record.problem:
            raise InputError(f"{where}: {record.problem}")
        return rows.conversation(record.row, where)
    except InputError as error:
        raise InputError(f"{error}; `python -m vicuna.data clean` leaves such records out") from error


def watched(items: Iterable[T], doing: str) -> Iterator[T]:
    """The items under a progress bar on standard error, which goes away at the end."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} conversations {task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=None)
        for item in items:
            progress.advance(task)
            yield item
