"""Conversations → a folder of tokens: made once, for every run and rank that needs the same."""

import contextlib
import fcntl
import itertools
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vicuna import manifest
from vicuna.conversation import read_conversations
from vicuna.errors import InputError
from vicuna.files import sha256_text, to_json
from vicuna.plain import plain_tokenizer
from vicuna.prompt import Template
from vicuna.train.config import DataConfig
from vicuna.train.dataset import Dataset, dataset_hash, files_of, held_apart
from vicuna.train.tokens import Block, Rules, blocks

logger = logging.getLogger(__name__)

KIND = "tokens"
LAYOUT = 1
"""Changes when the files do, or the rules of tokenising, so that older folders are made again."""
LEDGER = "left_out.jsonl"
"""A line for each sample that is not learnt, or that loses its end."""
MOST_LOST = 0.5
"""Share of the samples that may be left out; where there are more, something is wrong with the settings."""


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


def prepare(
    config: DataConfig, tokenizer: Any, template: Template, max_length: int, cache: Path,
    hashes: Mapping[str, str] | None = None,
) -> Prepared:  # fmt: skip
    """Tokenise and mask what `config` names, unless `cache` holds it from before. One process of a node does it.

    Args:
        config: what is learnt and held out, and how.
        tokenizer: fast Hugging Face tokenizer; it needs no padding token.
        template: the prompt template.
        max_length: most tokens of a sample.
        cache: gets one folder for each set of data, tokenizer, template and settings.
        hashes: those of `data` and `held_out`, where this process has taken them already: it reads all of both.

    Raises:
        InputError: a row cannot be read or is not a valid conversation, or most or all samples would be left out.
        TemplateError: the template cannot say a conversation.
        TokenizerError: the tokenizer has no fast (Rust) backend.
    """
    rules = Rules(tokenizer, template, max_length, config)
    known = hashes or {}
    learnt = _tokenised(config.path, known.get("data") or dataset_hash(config.path), rules, cache)
    held_out = None
    if config.held_out:
        digest = known.get("held_out") or dataset_hash(config.held_out)
        held_out = _tokenised(config.held_out, digest, rules, cache)
    return Prepared(learnt, held_out, config.held_out_share)


def _tokenised(path: str, digest: str, rules: Rules, cache: Path) -> Path:
    """The folder of one path's tokens; `digest` is the hash of what is there."""
    parents = {"data": digest, "tokenizer": _tokenizer_hash(rules.tokenizer)}
    if rules.data.format == "conversations":
        parents["template"] = rules.template.hash
    settings = {
        "layout": LAYOUT, "max_length": rules.max_length, "format": rules.data.format,
        "rounds": rules.data.rounds, "overlong": rules.data.overlong,
    }  # fmt: skip
    folder = cache / sha256_text(json.dumps([parents, settings], sort_keys=True))[:16]
    with _locked(cache):
        if manifest.matches(folder, KIND, parents, settings):
            logger.info("%s is tokenised already: %s", path, folder)
            return folder
        facts: dict[str, Any] = {}
        with manifest.making(folder, KIND, parents=parents, config=settings, facts=facts) as part:
            facts |= _write(part, path, rules)
    _tell(path, folder, facts)
    return folder


def _tell(path: str, folder: Path, facts: Mapping[str, Any]) -> None:
    """Log what was made and what was not."""
    lost = sum(facts["dropped"].values())
    logger.info(
        "%s: %s samples, %s tokens, %.1f%% of them learnt: %s", path, f"{facts['samples']:,}", f"{facts['tokens']:,}",
        100 * facts["targets"] / facts["tokens"], folder,
    )  # fmt: skip
    whole = f"{facts['samples'] + lost:,}"
    for reason, count in facts["dropped"].items():
        logger.warning("%s of %s samples left out: %s", f"{count:,}", whole, reason)
    if facts["cut"]:
        logger.warning("%s of %s samples lost their end", f"{facts['cut']:,}", whole)
    if lost or facts["cut"]:
        logger.warning("they are listed in %s", folder / LEDGER)


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
        for part in cache.glob(".*.partial"):  # nobody is at work here, so a killed start left it
            shutil.rmtree(part, ignore_errors=True)
        yield


def _write(part: Path, path: str, rules: Rules) -> dict[str, Any]:
    """Tokenise into a folder; returns the facts of its manifest."""
    conversations = (each for file in files_of(path) for each in read_conversations(file))
    with contextlib.ExitStack() as files:
        writer = _Writer(part, files)
        for block in _watched(blocks(conversations, rules)):
            writer.add(block)
    facts = {"samples": 0, "cut": 0, **writer.facts, "dtype": rules.dtype.str}
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
    """The blocks; at a terminal, with a line on standard error that counts their conversations."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("conversations tokenised"), TimeElapsedColumn())
    blocks_made = iter(made)
    first = next(blocks_made, None)  # before the line's thread, so that no process is forked beside it
    if first is None:
        return
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        for block in itertools.chain([first], blocks_made):
            progress.advance(task, block.conversations)
            yield block


class _Writer:
    """Writes blocks into a folder as they come; keeps nothing but counts."""

    def __init__(self, folder: Path, files: contextlib.ExitStack) -> None:
        def opened(name: str) -> IO[bytes]:
            return files.enter_context(open(folder / name, "wb"))

        self._ids, self._is_target = opened("ids.bin"), opened("is_target.bin")
        self._names, self._samples, self._ledger = opened("names.bin"), opened("samples.bin"), opened(LEDGER)
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def add(self, block: Block) -> None:
        """Append a block."""
        self._ids.write(block.ids.data)
        self._is_target.write(block.is_target.data)
        self._names.write(block.names)
        self._samples.write(block.samples.data)
        for lost in block.lost:
            row = {"id": lost.id, "source": lost.source, "reason": lost.reason}
            self._ledger.write((to_json(row) + "\n").encode())
        self._dropped.update(lost.reason for lost in block.lost if not lost.kept)
        self._counts.update(
            conversations=block.conversations, samples=len(block.samples), tokens=len(block.ids),
            targets=int(block.samples["targets"].sum()), cut=sum(lost.kept for lost in block.lost),
        )  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """The counts so far."""
        return {**self._counts, "dropped": dict(self._dropped)}
