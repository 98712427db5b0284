"""Settings of the data commands."""

import re
from dataclasses import dataclass, field
from typing import Literal

from vicuna.config import ModelConfig
from vicuna.conversation import Layout
from vicuna.hardware import cpu_count


@dataclass(frozen=True, kw_only=True)
class MarkdownConfig:
    """HTML of chat pages → markdown."""

    pages: Literal["auto", "never"] = "auto"
    """auto converts messages that are HTML of a chat page and leaves all others byte for byte; never leaves all."""
    debris: bool = True
    """Remove what the page's controls left in plain text: `2 / 3` counters, `Share Prompt`, `Copy9 chars / 2 words`."""


@dataclass(frozen=True, kw_only=True)
class ValidityConfig:
    """Question, answer, question, answer, ...: nothing missing, and repairs that have names."""

    drop_leading_answer: bool = True
    """Repair: an answer before the first question is dropped; without it the whole conversation is."""
    drop_trailing_question: bool = True
    """Repair: a last question without an answer is dropped; without it the whole conversation is."""
    merge_repeats: bool = False
    """Repair: messages of one role in a row become one message; without it the whole conversation is dropped."""
    drop_plugins: bool = True
    """Drop conversations that were held with plugins (the record has `plugins`): their answers need tools."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Answers that teach nothing good. Each filter looks at one round at a time."""

    errors: bool = True
    """Drop rounds whose answer is, or ends in, an error message of the page (rate limit, network error)."""
    refusals: bool = False
    """Drop rounds whose answer opens with refusal boilerplate ("As an AI language model, I cannot ...")."""
    blocked: tuple[str, ...] = ()
    """Drop rounds in which one of these words or phrases stands as a whole word; letter case does not count."""
    repetition: float = 0.5
    """Drop rounds when more than this share of the answer's words lies in repeated stretches of 8 words; 1 is off."""
    min_characters: int = 16
    """Drop conversations with fewer characters than this in all their messages together."""

    def __post_init__(self) -> None:
        if not 0 < self.repetition <= 1:
            raise ValueError(f"repetition is a share above 0 and at most 1; got {self.repetition}")
        if any(not re.search(r"\w", word) for word in self.blocked):
            raise ValueError("blocked holds an entry without a letter or digit")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which languages to keep."""

    keep: tuple[str, ...] = ()
    """ISO 639-1 codes to keep, such as en; empty keeps every language."""
    skip: tuple[str, ...] = ()
    """ISO 639-1 codes to drop."""
    min_bytes: int = 40
    """Conversations with less prose than this (UTF-8 bytes, code left out) are kept: too little to tell."""
    min_confidence: float = 0.7
    """Conversations whose language is less certain than this (0 to 1) are kept."""

    def __post_init__(self) -> None:
        for name, codes in (("keep", self.keep), ("skip", self.skip)):
            if wrong := [code for code in codes if not re.fullmatch(r"[a-z]{2,3}", code)]:
                raise ValueError(f"{name} holds ISO 639 codes such as en; got {wrong[0]!r}")
        if both := set(self.keep) & set(self.skip):
            raise ValueError(f"skip names {sorted(both)[0]!r}, which keep names too")


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """Conversations that are the same."""

    exact: bool = True
    """Drop a conversation whose messages equal an earlier one's, up to white space and letter case."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Cut long conversations between rounds so that every piece fits the context (`model.max_length`)."""

    enabled: bool = True
    """Split; needs the tokenizer in `model.path`. Without it conversations stay whole, e.g. to train a tokenizer."""
    too_long: Literal["drop", "truncate"] = "drop"
    """A single round that does not fit: drop it, or cut its answer's end off."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The files that are written."""

    layout: Layout = "messages"
    """messages ({"role", "content"}; OpenAI, TRL, Axolotl) or sharegpt ({"from", "value"}; FastChat, LLaMA-Factory)."""
    shard: int = 10_000
    """Conversations in each file."""

    def __post_init__(self) -> None:
        if self.shard < 1:
            raise ValueError(f"shard is a number of conversations, at least 1; got {self.shard}")


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Clean shared chats into training conversations; every dropped round is in the ledger with its reason."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Files, folders or patterns: ShareGPT JSON arrays or JSON Lines, plain or .gz or .zst (told by content)."""
    out: str
    """Folder for conversations/, ledger.jsonl, report.html and manifest.json."""
    workers: int = field(default_factory=cpu_count)
    """Processes; the output's bytes do not depend on it."""
    markdown: MarkdownConfig = field(default_factory=MarkdownConfig)
    validity: ValidityConfig = field(default_factory=ValidityConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is a number of processes, at least 1; got {self.workers}")
        if not self.inputs:
            raise ValueError("inputs is empty; give at least one file")
        if self.split.enabled and not self.model.path:
            raise ValueError(
                "split needs a tokenizer to count tokens: give its folder as --model.path, "
                "or leave conversations whole with --split.enabled=false"
            )


@dataclass(frozen=True, kw_only=True)
class SplitOnlyConfig:
    """Split cleaned conversations to a context length, counted exactly as training will count it."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `clean` wrote, or conversation files."""
    out: str
    """Folder for conversations/, ledger.jsonl, report.html and manifest.json."""
    workers: int = field(default_factory=cpu_count)
    """Processes; the output's bytes do not depend on it."""
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def as_clean(self) -> CleanConfig:
        """The same work as settings of `clean`, with everything before the split switched off."""
        return CleanConfig(
            inputs=self.inputs,
            out=self.out,
            workers=self.workers,
            markdown=MarkdownConfig(pages="never", debris=False),
            quality=QualityConfig(errors=False, repetition=1.0, min_characters=0),
            validity=ValidityConfig(drop_plugins=False),
            dedup=DedupConfig(exact=False),
            split=self.split,
            model=self.model,
            output=self.output,
        )

    def __post_init__(self) -> None:
        if not self.split.enabled:
            raise ValueError("split.enabled is false, so there is nothing to do")
        self.as_clean()
