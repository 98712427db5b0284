"""Conversations → a folder of tokens: made once, for every run and rank that needs the same."""

import contextlib
import fcntl
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from vicuna import manifest
from vicuna.conversation import read_conversations
from vicuna.errors import InputError
from vicuna.files import sha256_text, to_json
from vicuna.plain import plain_tokenizer
from vicuna.prompt import Template
from vicuna.train.config import DataConfig
from vicuna.train.dataset import Dataset, dataset_hash, files_of, held_apart
from vicuna.train.tokens import Block, Recipe, blocks

logger = logging.getLogger(__name__)

KIND = "tokens"
LAYOUT = 1
"""Changes when the files do, or the rules of tokenising, so that older folders are made again."""
LEDGER = "left_out.jsonl"
"""A line for each sample that is not learnt, or that loses its end."""
MOST_LOST = 0.5
"""Share of the samples that may be left out; where there are more, something is wrong with the settings."""
MOST_PIECES = 100
"""Pieces of one conversation, named NAME_NUMBER; more such names of one source are conversations with numbers."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Where a run's tokens are."""

    learnt: Path
    held_out: Path | None
    held_out_share: float
    """Of `learnt`, where there is no `held_out`."""

    def open(self) -> tuple[Dataset, Dataset | None]:
        """What is learnt, and what is held out, if anything is.

        Raises:
            InputError: the share that is held out takes all conversations or none.
            IncompleteError: a folder is damaged.
        """
        if self.held_out_share:
            return held_apart(self.learnt, self.held_out_share)
        return Dataset(self.learnt), Dataset(self.held_out) if self.held_out else None


def prepare(config: DataConfig, tokenizer: Any, template: Template, max_length: int, cache: Path) -> Prepared:
    """Tokenise and mask what `config` names, unless `cache` holds it from before. One process of a node does it.

    Args:
        config: what is learnt and held out, and how.
        tokenizer: fast Hugging Face tokenizer; it needs no padding token.
        template: the prompt template.
        max_length: most tokens of a sample.
        cache: gets one folder for each set of data, tokenizer, template and settings.

    Raises:
        InputError: a row cannot be read or is not a valid conversation, or most or all samples would be left out.
        TemplateError: the template cannot say a conversation.
        TokenizerError: the tokenizer has no fast (Rust) backend.
    """
    recipe = Recipe(tokenizer, template, max_length, config)
    learnt = _tokenised(config.path, recipe, cache)
    held_out = _tokenised(config.held_out, recipe, cache) if config.held_out else None
    return Prepared(learnt, held_out, config.held_out_share)


def _tokenised(path: str, recipe: Recipe, cache: Path) -> Path:
    """The folder of one path's tokens."""
    parents = {"data": dataset_hash(path), "tokenizer": _tokenizer_hash(recipe.tokenizer)}
    if recipe.data.format == "conversations":
        parents["template"] = recipe.template.hash
    settings = {
        "layout": LAYOUT, "max_length": recipe.max_length, "format": recipe.data.format,
        "rounds": recipe.data.rounds, "overlong": recipe.data.overlong,
    }  # fmt: skip
    folder = cache / sha256_text(json.dumps([parents, settings], sort_keys=True))[:16]
    with _locked(cache):
        if manifest.matches(folder, KIND, parents, settings):
            logger.info("%s is tokenised already: %s", path, folder)
            return folder
        facts: dict[str, Any] = {}
        with manifest.making(folder, KIND, parents=parents, config=settings, facts=facts) as part:
            facts |= _write(part, path, recipe)
    for reason, count in {**facts["dropped"], "with their end cut off": facts["cut"]}.items():
        if count:
            logger.warning("%d of %d samples: %s (%s)", count, facts["samples"] + sum(facts["dropped"].values()), reason, folder / LEDGER)
    return folder


def _tokenizer_hash(tokenizer: Any) -> str:
    plain_tokenizer(tokenizer)  # says what is wrong with a tokenizer that has no fast backend
    return sha256_text(tokenizer.backend_tokenizer.to_str() + json.dumps(sorted(tokenizer.all_special_tokens)))


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Others wait that want to tokenise into this cache: another run, or another node of this one."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / ".lock", "w")  # noqa: SIM115 (closed below; what the block raises is not about this file)
    except OSError as error:
        raise InputError(f"cannot write {cache}: {error.strerror or error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(part: Path, path: str, recipe: Recipe) -> dict[str, Any]:
    """Tokenise into a folder; returns the facts of its manifest."""
    conversations = (each for file in files_of(path) for each in read_conversations(file))
    with contextlib.ExitStack() as files:
        writer = _Writer(part, files)
        for block in _watched(blocks(conversations, recipe)):
            writer.add(block)
    facts = writer.finish() | {"dtype": recipe.dtype.str}
    samples, lost = facts["samples"], sum(facts["dropped"].values())
    if not samples:
        raise InputError(f"{path} holds nothing to learn from ({facts['dropped'] or 'no conversations'})")
    if lost > MOST_LOST * (samples + lost):
        reasons = ", ".join(f"{count:,}: {reason}" for reason, count in facts["dropped"].items())
        raise InputError(
            f"{path}: {lost:,} of {samples + lost:,} samples cannot be learnt ({reasons}); "
            "raise --model.max_length, set --data.overlong cut, or see whether --model.template is the right one"
        )
    return facts


def _watched(made: Iterable[Block]) -> Iterator[Block]:
    """The blocks, with a line on standard error that counts their conversations."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("conversations tokenised"), TimeElapsedColumn())
    blocks_made = iter(made)
    first = next(blocks_made, None)  # before the line's thread, so that no process is forked beside it
    if first is None:
        return
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        for block in itertools.chain([first], blocks_made):
            progress.advance(task, block.conversations)
            yield block


class _Writer:
    """Writes blocks into a folder as they come; keeps only some numbers for each sample."""

    def __init__(self, folder: Path, files: contextlib.ExitStack) -> None:
        def opened(name: str) -> IO[bytes]:
            return files.enter_context(open(folder / name, "wb"))

        self._folder = folder
        self._ids, self._is_target, self._names = opened("ids.bin"), opened("is_target.bin"), opened("names.bin")
        self._ledger = opened(LEDGER)
        self._numbers: dict[str, list[npt.NDArray[Any]]] = {}
        self._dropped: Counter[str] = Counter()
        self._conversations = self._cut = 0

    def add(self, block: Block) -> None:
        """Append a block."""
        names = [name.encode() for name in block.names]
        self._ids.write(block.ids.data)
        self._is_target.write(block.is_target.data)
        self._names.write(b"".join(names))
        name_lengths = np.array([len(name) for name in names], np.int32)
        for name, array in {
            "lengths": block.lengths, "targets": block.targets, "name_lengths": name_lengths, "keys": block.keys
        }.items():  # fmt: skip
            self._numbers.setdefault(name, []).append(array)
        for lost in block.lost:
            self._ledger.write((to_json({"id": lost.id, "source": lost.source, "reason": lost.reason}) + "\n").encode())
        self._dropped.update(lost.reason for lost in block.lost if not lost.kept)
        self._cut += sum(lost.kept for lost in block.lost)
        self._conversations += block.conversations

    def finish(self) -> dict[str, Any]:
        """Write what was kept; returns the counts."""
        numbers = {name: np.concatenate(arrays) for name, arrays in self._numbers.items()}
        ...
