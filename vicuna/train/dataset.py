"""Conversation files → samples: token ids and which of them are learnt, with every row that is left out counted."""

import collections
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vicuna import manifest
from vicuna.conversation import Conversation, problems, read_conversations
from vicuna.errors import InputError
from vicuna.files import sha256_file
from vicuna.prompt import Template, encode
from vicuna.train.config import DataConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence that is never cut and never sees its neighbours."""

    id: str
    ids: npt.NDArray[np.int32]
    """Token ids, shape (T,)."""
    is_target: npt.NDArray[np.bool_]
    """Whether the token is learnt, shape (T,)."""


@dataclass(frozen=True)
class Dataset:
    """All samples of a run, and what was left out."""

    samples: list[Sample]
    dropped: dict[str, int]
    """Reason → number of rows."""
    hash: str
    """Content hash of the conversations."""

    @property
    def tokens(self) -> int:
        """Tokens in all samples."""
        return sum(len(sample.ids) for sample in self.samples)

    @property
    def targets(self) -> int:
        """Learnt tokens in all samples."""
        return sum(int(sample.is_target.sum()) for sample in self.samples)


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


def load(config: DataConfig, tokenizer: Any, template: Template, max_length: int) -> Dataset:
    """Read, tokenise and mask every conversation.

    Raises:
        InputError: a row cannot be read or is not a valid conversation, or no sample is left.
    """
    make = _from_conversation if config.format == "conversations" else _from_text
    samples: list[Sample] = []
    dropped: collections.Counter[str] = collections.Counter()
    for path in files_of(config.path):
        for conversation in read_conversations(path):
            for sample in make(conversation, tokenizer, template, max_length):
                if len(sample.ids) > max_length:
                    dropped[f"longer than {max_length} tokens"] += 1
                elif not sample.is_target[1:].any():
                    dropped["no token to learn"] += 1
                else:
                    samples.append(sample)
    for reason, count in dropped.items():
        logger.warning("%d of %d rows left out: %s", count, count + len(samples), reason)
    if not samples:
        raise InputError(f"{config.path} holds nothing to learn from ({dict(dropped) or 'no conversations'})")
    return Dataset(samples, dict(dropped), dataset_hash(config.path))


def _from_conversation(
    conversation: Conversation, tokenizer: Any, template: Template, max_length: int
) -> Iterator[Sample]:
    if reasons := problems(conversation):
        raise InputError(f"{conversation.source} ({conversation.id}): {reasons[0]}; clean it with vicuna.data first")
    encoded = encode(conversation, tokenizer, template)
    yield Sample(conversation.id, np.asarray(encoded.ids, np.int32), np.asarray(encoded.is_target, np.bool_))


def _from_text(conversation: Conversation, tokenizer: Any, template: Template, max_length: int) -> Iterator[Sample]:
    """The messages' texts as one document: BOS, text, EOS, in pieces of at most `max_length` tokens, all learnt."""
    text = "\n".join(message.content for message in conversation.messages)
    ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    for start in range(0, len(ids), max_length):
        piece = np.asarray(ids[start : start + max_length], np.int32)
        yield Sample(f"{conversation.id}[{start}]", piece, np.ones(len(piece), np.bool_))
