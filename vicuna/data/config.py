"""Settings of the data commands."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from vicuna.config import ModelConfig
from vicuna.conversation import Layout
from vicuna.hardware import cpu_count

Stage = Literal[
    "markdown", "validity", "quality", "toxicity", "language", "personal", "decontaminate", "dedup", "split"
]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""All stages in their usual order."""
KnownQuestions = Literal["vicuna-80", "vicuna-2023"]


@dataclass(frozen=True, kw_only=True)
class MarkdownConfig:
    """HTML of chat pages → markdown."""

    enabled: bool = True
    """Convert."""
    pages: Literal["chat", "any"] = "chat"
    """chat converts messages that chat pages made and leaves all others byte for byte; any also converts answers that
    are HTML of unknown origin."""
    debris: bool = True
    """Remove what the page's controls left in plain text: `2 / 3` counters, `Share Prompt`, `Copy9 chars / 2 words`."""


@dataclass(frozen=True, kw_only=True)
class ValidityConfig:
    """Question, answer, question, answer, ...: nothing missing, and repairs that have names."""

    enabled: bool = True
    """Check and repair the order of turns."""
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
    """Answers that teach nothing good. Each filter looks at one round at a time; fenced code is never judged."""

    enabled: bool = True
    """Judge the rounds."""
    errors: bool = True
    """Drop rounds whose answer is, or ends in, an error message of the page (rate limit, network error)."""
    refusals: bool = False
    """Drop rounds whose answer refuses ("I'm sorry, but I cannot ...", "I am unable to assist with ...")."""
    boilerplate: bool = False
    """Drop rounds whose answer speaks of itself "as an AI language model", wherever it does so."""
    moralizing: bool = False
    """Drop rounds whose answer has a paragraph that lectures ("It is essential to treat everyone with respect ...")."""
    blocked: tuple[str, ...] = ()
    """Drop rounds in which one of these words or phrases stands as a whole word; letter case does not count."""
    repetition: float = 0.6
    """Drop rounds when more than this share of the answer's words only repeats stretches of 8 words that stood before;
    1 is off."""
    repeated_lines: float = 0.6
    """Drop rounds when more than this share of the answer's characters is in lines and sentences that stood before;
    1 is off."""
    loop: int = 10
    """Drop rounds whose answer says one line or sentence (of 24 characters or more) oftener than this, if that makes up
    a fifth of the answer; 0 is off."""
    garbled: float = 0.03
    """Drop rounds when more than this share of a message's words (and more than two) has broken characters: UTF-8 read
    as something else, U+FFFD, control characters; 1 is off."""
    blobs: float = 0.5
    """Drop rounds when more than this share of the answer's characters is in stretches of 50 or more without white
    space, such as base64 or random bytes; 1 is off."""
    same_digit: int = 0
    """Drop rounds whose answer has one digit more than this many times in a row; 0 is off."""
    stuck_lists: bool = False
    """Drop rounds whose answer numbers the steps of a list 1., 1., 1. with nothing but code between them."""
    min_characters: int = 16
    """Drop conversations with fewer characters than this in all their messages together."""

    def __post_init__(self) -> None:
        for name, least in (("repetition", 0.4), ("repeated_lines", 0.2), ("garbled", 0.001), ("blobs", 0.2)):
            if not least <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from {least} to 1; got {getattr(self, name)}")
        for name, least in (("loop", 2), ("same_digit", 4)):
            if getattr(self, name) and getattr(self, name) < least:
                raise ValueError(f"{name} is a number from {least} on, or 0 for off; got {getattr(self, name)}")
        if self.min_characters < 0:
            raise ValueError(f"min_characters is a number, 0 or more; got {self.min_characters}")
        if any(not re.search(r"\w", word) for word in self.blocked):
            raise ValueError("blocked holds an entry without a letter or digit")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which languages to keep."""

    enabled: bool = True
    """Tell languages; without `keep` and `skip` they are only counted."""
    keep: tuple[str, ...] = ()
    """ISO 639-1 codes to keep, such as en; empty keeps every language."""
    skip: tuple[str, ...] = ()
    """ISO 639-1 codes to drop."""
    min_bytes: int = 16
    """Conversations with less prose than this (UTF-8 bytes, code left out) are kept: too little to tell."""
    min_confidence: float = 0.35
    """Conversations whose language is less certain than this (0 to 1) are kept."""

    def __post_init__(self) -> None:
        for name, codes in (("keep", self.keep), ("skip", self.skip)):
            if wrong := [code for code in codes if not re.fullmatch(r"[a-z]{2,3}", code)]:
                raise ValueError(f"{name} holds ISO 639 codes such as en; got {wrong[0]!r}")
        if both := set(self.keep) & set(self.skip):
            raise ValueError(f"skip names {sorted(both)[0]!r}, which keep names too")


@dataclass(frozen=True, kw_only=True)
class ToxicityConfig:
    """Hateful, sexual or violent rounds, found by a scorer."""

    enabled: bool = False
    """Score the rounds."""
    scorer: Literal["words", "openai", "huggingface"] = "words"
    """words: a list of words; openai: a moderation endpoint; huggingface: a text classifier."""
    threshold: float = 0.5
    """Drop rounds whose question or answer scores at least this (0 to 1)."""
    words: str = ""
    """File with words and phrases for `words`, one to a line, each followed, if it shall count for less than 1, by a
    tab and its weight (0 to 1); empty is the built-in English list."""
    model: str = ""
    """The classifier's folder or Hugging Face name, or the endpoint's model (empty: omni-moderation-latest)."""
    labels: tuple[str, ...] = ()
    """Labels of the classifier, or categories of the endpoint, that count; the highest is the score. Empty is every
    category of the endpoint; a classifier needs them."""
    base_url: str = "https://api.openai.com/v1"
    """Address of the moderation endpoint, up to and including /v1."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's API key; an endpoint of your own needs none."""
    timeout: float = 60.0
    """Seconds to wait for one answer of the endpoint."""
    attempts: int = 6
    """Tries for each request to the endpoint."""
    batch: int = 32
    """Texts that the endpoint or the classifier gets at once."""
    device: str = "cpu"
    """Where the classifier runs, such as cpu or cuda:0."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is a score above 0 and at most 1; got {self.threshold}")
        if self.scorer == "huggingface" and not (self.model and self.labels):
            raise ValueError("scorer huggingface needs model (a folder or name) and labels (those that count)")
        if self.words and self.scorer != "words":
            raise ValueError(f"words is a list for the scorer words, but scorer is {self.scorer}")
        if self.attempts < 1 or self.batch < 1 or self.timeout <= 0:
            raise ValueError("attempts and batch are at least 1, and timeout is above 0")


PersonalKind = Literal["email", "phone", "card", "ip", "key"]


@dataclass(frozen=True, kw_only=True)
class PersonalConfig:
    """Personal data → typed placeholders such as [EMAIL]."""

    enabled: bool = True
    """Replace personal data; nothing is dropped, and the replacements are counted."""
    kinds: tuple[PersonalKind, ...] = get_args(PersonalKind)
    """What is replaced: e-mail addresses, phone numbers, card numbers, public IP addresses, keys and passwords."""
    regions: tuple[str, ...] = ("US",)
    """Countries (ISO 3166, such as US or DE) whose phone numbers are known without +1 or +49 too."""

    def __post_init__(self) -> None:
        if wrong := [each for each in self.regions if not re.fullmatch("[A-Z]{2}", each)]:
            raise ValueError(f"regions holds ISO 3166 codes such as US; got {wrong[0]!r}")


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """Conversations that are the same, or nearly; of each cluster the longest stays, then the lowest id."""

    enabled: bool = True
    """Drop duplicates."""
    exact: bool = True
    """Conversations whose messages are equal up to white space and letter case."""
    near: bool = True
    """Conversations that share most of their words in the same order (MinHash-LSH)."""
    threshold: float = 0.8
    """Near-duplicates have at least this Jaccard similarity of their runs of 5 words, as MinHash estimates it."""
    reworded: float = 0.05
    """Near-duplicates have questions that differ in at most this share of their words (one word always may): the same
    answer to another question is no duplicate. 1 leaves the questions out of account."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is a similarity above 0 and at most 1; got {self.threshold}")
        if not 0 <= self.reworded <= 1:
            raise ValueError(f"reworded is a share, 0 to 1; got {self.reworded}")


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Conversations that hold questions of an evaluation, so that the evaluation stays honest."""

    enabled: bool = True
    """Look for the questions of `questions` and `known`."""
    questions: tuple[str, ...] = ()
    """Question files or patterns: JSON Lines or JSON arrays of texts or of objects with `turns`, `text`, `prompt`,
    `question` or `instruction` (our own, MT-bench, Arena-Hard, AlpacaEval), or what `fingerprint` wrote."""
    known: tuple[KnownQuestions, ...] = ("vicuna-80",)
    """Questions that come with the package as fingerprints: vicuna-80, the 80 that `python -m vicuna.eval` asks, and
    vicuna-2023, those of the first Vicuna evaluation."""
    ngram: int = 13
    """A question is found by so many of its words in a row, or by all of them if it has fewer; one of fewer than 6
    words only as a whole message."""
    action: Literal["drop", "cut"] = "drop"
    """drop the conversation, or cut it before the round that holds the question."""

    def __post_init__(self) -> None:
        if self.ngram < 6:
            raise ValueError(f"ngram is a number of words, at least 6; got {self.ngram}")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Cut long conversations between rounds so that every piece fits the context (`model.max_length`)."""

    enabled: bool = True
    """Split; needs the tokenizer in `model.path`. Without it conversations stay whole, e.g. to train a tokenizer."""
    too_long: Literal["drop", "truncate", "carry"] = "drop"
    """A single round that does not fit: drop it, cut its answer's end off, or carry its answer on in further pieces."""
    carry_prompt: str = "Continue."
    """What the user says before a further part of a carried answer."""
    overlap: int = 0
    """Earlier rounds that each further piece begins with as context; they are not trained on again."""

    def __post_init__(self) -> None:
        if self.overlap < 0:
            raise ValueError(f"overlap is a number of rounds, 0 or more; got {self.overlap}")
        if not self.carry_prompt.strip():
            raise ValueError("carry_prompt is what the user says, so it cannot be empty")


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The files that are written."""

    layout: Layout = "messages"
    """messages ({"role", "content"}; OpenAI, TRL, Axolotl) or sharegpt ({"from", "value"}; FastChat, LLaMA-Factory)."""
    format: Literal["jsonl", "jsonl.zst", "parquet"] = "jsonl"
    """jsonl: one record on each line; jsonl.zst: the same, compressed (not read by LLaMA-Factory); parquet: a table."""
    shard: int = 10_000
    """Conversations in each file."""

    def __post_init__(self) -> None:
        if self.shard < 1:
            raise ValueError(f"shard is a number of conversations, at least 1; got {self.shard}")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What runs the stages; the output's bytes do not depend on it."""

    kind: Literal["local", "ray"] = "local"
    """local: processes on this machine; ray: Ray Data (`pip install vicuna[ray]`), on a cluster if one is named."""
    workers: int = field(default_factory=cpu_count)
    """Processes (local), or tasks at once (ray)."""
    address: str = ""
    """Ray cluster to join, such as auto or ray://host:10001; empty starts one on this machine."""
    block: float = 1.0
    """Megabytes of input that a process takes at a time; with terabytes of input, 64 makes fewer files."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is a number of processes, at least 1; got {self.workers}")
        if not 0 < self.block <= 1024:
            raise ValueError(f"block is a number of megabytes above 0 and at most 1024; got {self.block}")


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Clean shared chats into training conversations; every dropped round is in the ledger with its reason."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Files, folders or patterns: JSON arrays, JSON Lines (plain, gzip or zstd) or Parquet, told by content."""
    out: str
    """Folder for conversations/, ledger.jsonl, report.html and manifest.json."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    order: tuple[Stage, ...] = STAGES
    """The stages in the order in which they run, each once; `STAGE.enabled` switches one off."""
    markdown: MarkdownConfig = field(default_factory=MarkdownConfig)
    validity: ValidityConfig = field(default_factory=ValidityConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    toxicity: ToxicityConfig = field(default_factory=ToxicityConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    personal: PersonalConfig = field(default_factory=PersonalConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(STAGES):
            raise ValueError(f"order names each stage once: {', '.join(STAGES)}; got {', '.join(self.order)}")
        if self.order[-1] != "split":
            raise ValueError("order ends with split, because what comes after would change the lengths")
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
    engine: EngineConfig = field(default_factory=EngineConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def as_clean(self) -> CleanConfig:
        """The same work as settings of `clean`, with everything before the split switched off."""
        return CleanConfig(
            inputs=self.inputs,
            out=self.out,
            engine=self.engine,
            markdown=MarkdownConfig(enabled=False),
            validity=ValidityConfig(drop_plugins=False),
            quality=QualityConfig(enabled=False),
            language=LanguageConfig(enabled=False),
            personal=PersonalConfig(enabled=False),
            dedup=DedupConfig(enabled=False),
            decontaminate=DecontaminateConfig(enabled=False),
            split=self.split,
            model=self.model,
            output=self.output,
        )

    def __post_init__(self) -> None:
        if not self.split.enabled:
            raise ValueError("split.enabled is false, so there is nothing to do")
        self.as_clean()
