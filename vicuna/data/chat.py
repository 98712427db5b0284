"""A conversation on its way through the stages: its rounds, each with the raw text it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vicuna.conversation import Conversation, Message
from vicuna.files import sha256_text


@dataclass(frozen=True, slots=True)
class Round:
    """A user's messages and the assistant's messages that answer them.

    A round begins with a run of user messages and ends with the run of assistant messages after it. Usually each run is
    one message. Answers before the first question, and a last question without an answer, are rounds too, with one side
    missing: every turn belongs to exactly one round, so rounds can be counted before anything is repaired.
    """

    index: int
    """Place in the conversation as it was read, from 0."""
    users: tuple[str, ...]
    answers: tuple[str, ...]
    text_hash: str
    """SHA-256 of the messages as they were read, joined by line ends."""
    train: bool = True
    """Whether training learns the answer; a record may say that it is context only."""

    @property
    def user(self) -> str:
        """The question; "" where it is missing, several messages of an unrepaired round together."""
        return self.users[0] if len(self.users) == 1 else "\n\n".join(self.users)

    @property
    def answer(self) -> str:
        """The answer; "" where it is missing, several messages of an unrepaired round together."""
        return self.answers[0] if len(self.answers) == 1 else "\n\n".join(self.answers)


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation between two stages."""

    id: str
    file: str
    """Name of the input file."""
    position: str
    """Place in it: `:12` is a line, `[11]` an element of an array."""
    source: str
    """Where the conversation first came from; `file` and `position` unless the record says otherwise."""
    rounds: tuple[Round, ...]
    system: str | None = None
    misplaced_system: bool = False
    """A system message stood after the first turn."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def with_rounds(self, rounds: Sequence[Round]) -> "Chat":
        """The same chat with these rounds only."""
        return replace(self, rounds=tuple(rounds))

    def texts(self) -> tuple[str, ...]:
        """All that is said: the questions of all rounds, then the answers of all rounds, then the system prompt."""
        questions = [text for each in self.rounds for text in each.users]
        answers = [text for each in self.rounds for text in each.answers]
        return (*questions, *answers, self.system or "")

    def renamed(self, name: str) -> "Chat":
        """The same chat under another id."""
        return replace(self, id=name)

    def conversation(self, rounds: Sequence[Round] | None = None, name: str | None = None) -> Conversation:
        """The chat, or some of its rounds under another id, as a conversation."""
        messages = [Message("system", self.system)] if self.system is not None else []
        for each in self.rounds if rounds is None else rounds:
            messages += [Message("user", text) for text in each.users]
            messages += [Message("assistant", text, train=each.train) for text in each.answers]
        return Conversation(
            id=self.id if name is None else name,
            messages=tuple(messages),
            source=self.source,
            metadata=self.metadata,
        )


@dataclass(frozen=True, slots=True)
class Drop:
    """Why something is not in the training data."""

    stage: str
    reason: str
    detail: str = ""
    """What exactly: the word, the language, the other conversation's id, the number of tokens."""
    round: Round | None = None
    """The round; None for a record without rounds, which counts as one."""


Result = tuple[Chat, list[Drop]]
"""What a stage leaves: the chat with the rounds that stay, and why the others do not."""


def group(messages: Sequence[Message]) -> list[Round]:
    """Cut turns (without system messages) into rounds; see Round."""
    rounds: list[Round] = []
    users: list[Message] = []
    answers: list[Message] = []
    for message in messages:
        if message.role == "user":
            if answers:
                rounds.append(_round(len(rounds), users, answers))
                users, answers = [], []
            users.append(message)
        else:
            answers.append(message)
    if users or answers:
        rounds.append(_round(len(rounds), users, answers))
    return rounds


def _round(index: int, users: Sequence[Message], answers: Sequence[Message]) -> Round:
    asked, said = tuple(each.content for each in users), tuple(each.content for each in answers)
    train = all(each.train for each in answers)
    return Round(index, asked, said, sha256_text("\n".join([*asked, *said])), train)


def from_conversation(conversation: Conversation, file: str, position: str) -> Chat:
    """Begin the way: nothing is judged yet, and every turn is in a round."""
    turns = [message for message in conversation.turns if message.role != "system"]
    return Chat(
        id=conversation.id,
        file=file,
        position=position,
        source=conversation.source,
        rounds=tuple(group(turns)),
        system=conversation.system,
        misplaced_system=len(turns) < len(conversation.turns),
        metadata=conversation.metadata,
    )
