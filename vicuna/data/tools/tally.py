"""Counts over many conversations, in memory that does not grow with their number."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vicuna.conversation import Conversation, problems
from vicuna.data.tools.keys import PLACE

_DIGITS = 3


class Spread:
    """The distribution of a count: sum and ends exactly, percentiles to three digits."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0
        self.least = 0
        self.most = 0
        self.counts: Counter[int] = Counter()
        """Value, rounded to three digits → how often; at most 900 values for each power of ten."""

    def add(self, value: int) -> None:
        """Count one more value, 0 or more."""
        self.least = min(self.least, value) if self.n else value
        self.most = max(self.most, value)
        self.n += 1
        self.total += value
        self.counts[_rounded(value)] += 1

    @property
    def mean(self) -> float:
        """Mean; 0 without values."""
        return self.total / self.n if self.n else 0.0

    def percentile(self, share: float) -> int:
        """The smallest value that at least this share (0 to 1) of all values do not exceed; 0 without values."""
        seen = 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen >= share * self.n:
                return min(max(value, self.least), self.most)
        return 0


def _rounded(value: int) -> int:
    scale = int(10 ** max(0, len(str(value)) - _DIGITS))
    return value // scale * scale


@dataclass
class Tokens:
    """Lengths in tokens, as training counts them."""

    template: str
    """Name of the prompt template."""
    limit: int
    """The context, in tokens."""
    sample: Spread = field(default_factory=Spread)
    targets: Spread = field(default_factory=Spread)
    """Tokens of a conversation that are trained on."""
    too_long: int = 0
    """Conversations longer than the context."""
    unsayable: int = 0
    """Conversations that the prompt template cannot say."""


@dataclass
class Tally:
    """What is in a pile of conversations."""

    conversations: int = 0
    unreadable: int = 0
    """Records that could not be read."""
    faults: Counter[str] = field(default_factory=Counter)
    """Why a conversation cannot be trained on as it is → conversations."""
    faulty: int = 0
    """Conversations with at least one such fault."""
    roles: Counter[str] = field(default_factory=Counter)
    """Role → turns."""
    code: int = 0
    """Conversations with a fenced code block."""
    rounds: Spread = field(default_factory=Spread)
    characters: Spread = field(default_factory=Spread)
    """Of a conversation."""
    words: Spread = field(default_factory=Spread)
    """Of a conversation: runs of characters between white space."""
    questions: Spread = field(default_factory=Spread)
    """Characters of a user message."""
    answers: Spread = field(default_factory=Spread)
    """Characters of an assistant message."""
    languages: Counter[str] = field(default_factory=Counter)
    """ISO 639-1 code, or "" where it cannot be told → conversations."""
    models: Counter[str] = field(default_factory=Counter)
    """The model that a record names, or "" → conversations."""
    sources: Counter[str] = field(default_factory=Counter)
    """The file that a conversation first came from → conversations."""
    tokens: Tokens | None = None

    def add(self, conversation: Conversation, language: Callable[[Conversation], str] | None) -> None:
        """Count one conversation; `language` tells its language."""
        self.conversations += 1
        found = problems(conversation)
        self.faulty += bool(found)
        self.faults.update(found)
        roles = [message.role for message in conversation.messages]
        self.roles.update(roles)
        texts = [message.content for message in conversation.messages]
        self.code += any("```" in text for text in texts)
        self.characters.add(sum(map(len, texts)))
        self.words.add(sum(len(text.split()) for text in texts))
        self.rounds.add(rounds(roles))
        for role, text in zip(roles, texts, strict=True):
            if role != "system":
                (self.questions if role == "user" else self.answers).add(len(text))
        self.models[model_of(conversation)] += 1
        self.sources[PLACE.sub("", conversation.source)] += 1
        if language is not None:
            self.languages[language(conversation)] += 1


def rounds(roles: Sequence[str]) -> int:
    """Runs of user messages with the answers after them; an answer before the first question is a round, too."""
    turns = [role for role in roles if role != "system"]
    return sum(role == "user" and (i == 0 or turns[i - 1] != "user") for i, role in enumerate(turns)) + (
        turns[:1] == ["assistant"]
    )


def model_of(conversation: Conversation) -> str:
    """The model that a record names as the one that answered, without the `Model: ` of ChatGPT's pages; else ""."""
    found = conversation.metadata.get("model")
    return found.removeprefix("Model: ") if isinstance(found, str) else ""
