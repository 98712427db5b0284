"""`clean` and `split`: run the stages over every record, keep the books, and write the dataset folder."""

import functools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from vicuna import manifest
from vicuna.command import run
from vicuna.config import to_dict
from vicuna.conversation import to_line
from vicuna.data import sources, stages
from vicuna.data.chat import Chat, Drop
from vicuna.data.config import CleanConfig, OutputConfig, SplitOnlyConfig
from vicuna.data.dedup import Seen
from vicuna.data.ledger import Books, write_drop
from vicuna.data.report import show, write_report
from vicuna.data.sources import Record, Source, whole_text
from vicuna.data.split import Piece, Splitter
from vicuna.data.stages import Example, Outcome
from vicuna.data.workers import ordered_map
from vicuna.errors import InputError
from vicuna.files import replacing, sha256_file, sha256_text

logger = logging.getLogger(__name__)

KIND = "dataset"
EXAMPLES = 4
"""Before/after examples of each kind in the report."""
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model", "chat_template*")


def clean(argv: list[str]) -> int:
    """The command `python -m vicuna.data clean`."""
    return run(CleanConfig, _command, argv, prog="python -m vicuna.data clean")


def split(argv: list[str]) -> int:
    """The command `python -m vicuna.data split`."""
    return run(SplitOnlyConfig, lambda config: _command(config.as_clean()), argv, prog="python -m vicuna.data split")


def _command(config: CleanConfig) -> int:
    made = build(config)
    show(made, Path(config.out))
    if damaged := made.facts.get("damaged"):
        raise InputError(f"{'; '.join(damaged)}. What came before is in {config.out}; the ledger names the place")
    return 0


def build(config: CleanConfig) -> manifest.Manifest:
    """Make the dataset folder `config.out`, or recognise that it is made already.

    Returns:
        the folder's manifest; its facts hold all counts, and `damaged` names inputs that broke off.

    Raises:
        InputError: an input is missing or is no conversation file, or the folder holds other files.
        UnbalancedError: rounds were lost; nothing was finished.
    """
    found = sources.expand(config.inputs)
    parents = sources.hashes(found)
    facts: dict[str, Any] = {}
    make_splitter: Callable[[], Splitter | None] = _no_splitter
    if config.split.enabled:
        make_splitter = functools.partial(_make_splitter, config)
        parents["tokenizer"] = _tokenizer_hash(Path(config.model.path))
        facts = _template_facts(config)
        parents["template"] = facts["template_hash"]
    settings = _settings(config)
    out = Path(config.out)
    if manifest.matches(out, KIND, parents, settings):
        logger.info("%s is finished already, from the same inputs with the same settings", out)
        return manifest.read(out)
    _make_room(out)
    books, damaged = Books(), list[str]()
    make = functools.partial(_make_process, config, make_splitter)
    with (  # closed in reverse order, so that the processes end before what they read from and what is written
        _Writer(out, config.output) as writer,
        closing(_watched(_records(found), damaged)) as records,
        closing(ordered_map(make, records, config.workers)) as outcomes,
    ):
        examples = _keep_books(outcomes, config, books, writer)
    books.balance()
    facts |= books.facts() | ({"damaged": damaged} if damaged else {})
    write_report(out / "report.html", books, facts, examples)
    return manifest.write(out, KIND, parents=parents, config=settings, facts=facts)


# ------------------------------------------------------------------------------------------------ set-up
def _settings(config: CleanConfig) -> dict[str, Any]:
    """What decides the output: all settings but places and the number of processes."""
    tree = to_dict(config)
    for name in ("inputs", "out", "workers"):
        del tree[name]
    del tree["model"]["path"]
    return tree


def _make_room(out: Path) -> None:
    """Remove an older dataset, its manifest first; refuse a folder that holds anything else."""
    ours = {"conversations", "ledger.jsonl", "report.html", manifest.NAME}
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    foreign = [path.name for path in out.iterdir() if path.name not in ours] if out.exists() else []
    foreign = [name for name in foreign if not (name.startswith(".") and name.endswith(".partial"))]
    if foreign:
        raise InputError(f"--out {out} holds other files ({sorted(foreign)[0]}); give a new folder")
    (out / manifest.NAME).unlink(missing_ok=True)
    if out.exists():
        old = [*out.glob("conversations/*"), *out.glob("conversations/.*.partial"), *out.glob(".*.partial")]
        for path in [*old, out / "ledger.jsonl", out / "report.html"]:
            path.unlink(missing_ok=True)


def _tokenizer_hash(folder: Path) -> str:
    """One hash over the files that decide how text becomes tokens."""
    files = sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise InputError(f"--model.path {folder} holds no tokenizer; give the folder of a tokenizer or a checkpoint")
    return sha256_text("\n".join(f"{path.name} {sha256_file(path)}" for path in files))


def _template_facts(config: CleanConfig) -> dict[str, Any]:
    from vicuna.models.load import load_template

    template = load_template(config.model.path, config.model.template)
    return {"template": template.name, "template_hash": template.hash, "max_length": config.model.max_length}


def _no_splitter() -> None:
    return None


def _make_splitter(config: CleanConfig) -> Splitter:
    from vicuna.models.load import load_template, load_tokenizer

    tokenizer = load_tokenizer(config.model.path)
    template = load_template(config.model.path, config.model.template, tokenizer)
    return Splitter(tokenizer, template, config.model.max_length, config.split)


def _make_process(config: CleanConfig, make_splitter: Callable[[], Splitter | None]) -> Callable[[Record], Outcome]:
    return functools.partial(stages.process, config=config, splitter=make_splitter())


# ------------------------------------------------------------------------------------------------ the run
def _records(found: list[Source]) -> Iterator[Record]:
    for source in found:
        yield from sources.read(source)


def _watched(records: Iterator[Record], damaged: list[str]) -> Generator[Record, None, None]:
    """Pass records on under a progress bar and note inputs that broke off."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} conversations read"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        for record in records:
            if record.damaged:
                damaged.append(f"{record.file}{record.position}: {record.problem}")
            progress.advance(task)
            yield record


def _keep_books(outcomes: Iterable[Outcome], config: CleanConfig, books: Books, writer: "_Writer") -> list[Example]:
    seen, ids = Seen(), dict[str, int]()
    examples: dict[str, list[Example]] = {}
    for outcome in outcomes:
        chat, drops, pieces = outcome.chat, outcome.drops, outcome.pieces
        if outcome.key and config.dedup.exact:
            _, duplicates = seen.first(chat, outcome.key)
            if duplicates:
                drops = [drop for drop in drops if drop.stage != "split"] + duplicates
                pieces = []
        if pieces:
            pieces = _unique(chat, pieces, ids)
        _count(outcome, drops, pieces, books)
        for drop in sorted(drops, key=lambda each: each.round.index if each.round else 0):
            writer.drop(chat, drop, outcome.record_hash)
        for piece in pieces:
            writer.piece(piece)
        if outcome.example and len(examples.setdefault(outcome.example.kind, [])) < EXAMPLES:
            examples[outcome.example.kind].append(outcome.example)
    return [example for kind in sorted(examples) for example in examples[kind]]


def _unique(chat: Chat, pieces: list[Piece], ids: dict[str, int]) -> list[Piece]:
    """Pieces of a conversation whose id another one had before get `~2`, `~3`, ... after the id."""
    ids[chat.id] = ids.get(chat.id, 0) + 1
    if ids[chat.id] == 1:
        return pieces
    new = f"{chat.id}~{ids[chat.id]}"
    return [
        replace(piece, conversation=replace(piece.conversation, id=new + piece.conversation.id[len(chat.id) :]))
        for piece in pieces
    ]


def _count(outcome: Outcome, drops: list[Drop], pieces: list[Piece], books: Books) -> None:
    kept = sum(len(piece.conversation.rounds()) for piece in pieces)
    books.conversations_in += 1
    books.conversations_kept += bool(pieces)
    books.samples += len(pieces)
    books.truncated += sum(piece.truncated for piece in pieces)
    books.rounds_in += outcome.rounds_in
    books.rounds_kept += kept
    books.dropped.update((drop.stage, drop.reason) for drop in drops)
    books.sources.update({(outcome.chat.file, "in"): outcome.rounds_in, (outcome.chat.file, "kept"): kept})
    books.roles.update(outcome.mapped)
    books.tokens += [piece.tokens for piece in pieces if piece.tokens is not None]
    if outcome.languages_known:
        books.languages[outcome.language] += 1


# ------------------------------------------------------------------------------------------------ writing
@dataclass
class _Writer:
    """The ledger and the numbered conversation files, each whole or absent."""

    out: Path
    config: OutputConfig
    _stack: ExitStack = field(default_factory=ExitStack)
    _shard: ExitStack = field(default_factory=ExitStack)
    _file: IO[str] = field(init=False)
    _ledger: IO[str] = field(init=False)
    _in_shard: int = 0
    _shards: int = 0

    def __enter__(self) -> "_Writer":
        self._ledger = self._stack.enter_context(replacing(self.out / "ledger.jsonl"))
        self._open()
        return self

    def _open(self) -> None:
        path = self.out / "conversations" / f"{self._shards:05d}.jsonl"
        self._file = self._shard.enter_context(replacing(path))
        self._shards, self._in_shard = self._shards + 1, 0

    def piece(self, piece: Piece) -> None:
        """Add one sample to the current file, or to a new one if that is full."""
        if self._in_shard == self.config.shard:
            self._shard.close()
            self._open()
        self._file.write(whole_text(to_line(piece.conversation, self.config.layout)))
        self._in_shard += 1

    def drop(self, chat: Chat, drop: Drop, record_hash: str) -> None:
        """Add one line to the ledger."""
        write_drop(self._ledger, chat, drop, record_hash)

    def __exit__(self, *error: Any) -> None:
        try:
            self._shard.__exit__(*error)
        finally:
            self._stack.__exit__(*error)
