"""What the tools write: one conversation file, or a dataset folder with its manifest; whole or not at all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from vicuna import manifest
from vicuna.config import to_dict
from vicuna.conversation import Conversation
from vicuna.data.config import OutputConfig
from vicuna.data.tools.inputs import Inputs
from vicuna.data.writers import KIND, open_shard
from vicuna.errors import InputError

Write = Callable[[Conversation], object]
Body = Callable[[Inputs, Write, dict[str, Any]], None]


class Settings(Protocol):
    """What the settings of every such command have."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files, folders and patterns."""

    @property
    def out(self) -> str:
        """A file or a folder."""

    @property
    def output(self) -> OutputConfig:
        """How it is written."""


_FILES = {".jsonl": "jsonl", ".jsonl.zst": "jsonl.zst", ".parquet": "parquet"}
"""How the name of an output file ends → its format."""
_OTHER_FILES = (".json", ".gz", ".zst", ".csv", ".txt", ".zip")
_PLACES = ("inputs", "out")
"""Settings that are no part of what is made: the inputs' hashes stand for their paths."""


def file_format(out: str) -> str:
    """The format of the file that `out` names; "" for a folder."""
    return next((form for ending, form in _FILES.items() if out.endswith(ending)), "")


def check_out(out: str, output: OutputConfig) -> None:
    """For a config's own checks: `out` is a file that can be written, or a folder.

    Raises:
        ValueError: the name's ending is of another format than `output.format` or of one that is not written.
    """
    form = file_format(out)
    if form and output.format not in ("jsonl", form):
        raise ValueError(f"out ends as {form} files do, but output.format is {output.format}; leave one of them out")
    if not form and out.endswith(_OTHER_FILES):
        raise ValueError(f"out is a file that ends in {', '.join(_FILES)}, or a folder; got {out}")


def identity(command: str, config: Any) -> dict[str, Any]:
    """What decides the output: the command and all its settings but places."""
    return {"command": command} | {key: value for key, value in to_dict(config).items() if key not in _PLACES}


def is_made(out: str, parents: Mapping[str, str], settings: Mapping[str, Any]) -> bool:
    """Whether `out` is a dataset folder made from the same inputs with the same settings."""
    return not file_format(out) and manifest.matches(out, KIND, parents, settings)


def check_place(out: str, inputs: Inputs) -> None:
    """Raise before long work if the output cannot stand there.

    Raises:
        InputError: the file is one of the inputs or a folder, the folder holds something, or it would stand in a
            finished folder.
    """
    check_outside(out)
    place = Path(out)
    if not file_format(out):
        manifest.check_free(place)
    elif place.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file in it")
    elif place.resolve() in [each.path.resolve() for each in inputs.files]:
        raise InputError(f"--out {out} is one of the inputs; give another name")


def check_outside(out: str) -> None:
    """Raise if `out` is inside a finished folder, which one more file would make unusable.

    Raises:
        InputError: it is; the folder is named.
    """
    for folder in Path(out).resolve().parents:
        if manifest.is_complete(folder):
            raise InputError(
                f"--out {out} is inside {folder}, which is finished and must stay as it is; give another place"
            )


def make(command: str, config: Settings, body: Body) -> dict[str, Any] | None:
    """The way of a command that reads conversations and writes some: make the output, or recognise that it is made.

    Args:
        command: its name, for the manifest.
        config: its settings.
        body: reads the inputs, writes conversations, and puts what is worth knowing into the facts.

    Returns:
        the facts with the number of `conversations`, or None (after saying so) where a folder is finished already.

    Raises:
        InputError: an input cannot be read, or the output's place is taken.
    """
    inputs = Inputs.find(config.inputs)
    parents, settings = inputs.parents(), identity(command, config)
    if is_made(config.out, parents, settings):
        print(f"{config.out} is made already")
        return None
    check_place(config.out, inputs)
    facts: dict[str, Any] = {"files": len(inputs.files)}
    with writing(config.out, config.output, parents, settings, facts, inputs.have_flags()) as write:
        body(inputs, write, facts)
    return facts


@contextmanager
def writing(
    out: str,
    output: OutputConfig,
    parents: Mapping[str, str],
    settings: Mapping[str, Any],
    facts: dict[str, Any],
    flags: bool = False,
) -> Iterator[Write]:
    """Write conversations to a file, or to a dataset folder: `with writing(...) as write: write(conversation)`.

    Args:
        out: `x.jsonl`, `x.jsonl.zst` or `x.parquet` for a file, which replaces an older one; else a new folder.
        output: layout, and for a folder the format and size of its files.
        parents: name → hash of what it is made from.
        settings: see `identity`.
        facts: for the manifest; read at the end, with the number of `conversations` added.
        flags: write in every turn whether it is to be learnt, see `Inputs.have_flags`.
    """
    count = 0
    with ExitStack() as stack:
        if form := file_format(out):
            into = stack.enter_context(open_shard(Path(out), form, output.layout, flags)).write
        else:
            made = manifest.making(out, KIND, parents=parents, config=settings, facts=facts)
            into = stack.enter_context(_Shards(stack.enter_context(made), output, flags)).write

        def write(conversation: Conversation) -> None:
            nonlocal count
            into(conversation)
            count += 1

        yield write
        facts["conversations"] = count


class _Shards:
    """The numbered conversation files of a folder; there is always a first one."""

    def __init__(self, folder: Path, output: OutputConfig, flags: bool) -> None:
        self._folder, self._output, self._flags = folder / "conversations", output, flags
        self._shard: AbstractContextManager[Any] | None = None
        self._into: Write = lambda _: None
        self._files = self._filled = 0

    def __enter__(self) -> "_Shards":
        self._folder.mkdir()
        self._open()
        return self

    def _open(self) -> None:
        path = self._folder / f"{self._files:05d}.{self._output.format}"
        self._shard = open_shard(path, self._output.format, self._output.layout, self._flags)
        self._into = self._shard.__enter__().write
        self._files, self._filled = self._files + 1, 0

    def write(self, conversation: Conversation) -> None:
        if self._filled == self._output.shard:
            self._close(None, None, None)
            self._open()
        self._into(conversation)
        self._filled += 1

    def _close(self, *error: Any) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.__exit__(*error)

    def __exit__(self, *error: Any) -> None:
        self._close(*error)


def need_inputs(inputs: tuple[str, ...]) -> None:
    """For a config's own checks.

    Raises:
        ValueError: nothing is given to read.
    """
    if not inputs:
        raise ValueError("inputs is empty; give at least one file or folder")
