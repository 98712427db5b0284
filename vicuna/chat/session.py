"""A conversation with a model: what was said, and the settings for what comes next."""

import contextlib
import time
from collections.abc import Generator
from pathlib import Path

from vicuna.chat.client import Answer, Served, Service
from vicuna.config import SamplingConfig
from vicuna.conversation import Conversation, Message, read_conversations, write_conversations
from vicuna.errors import InputError
from vicuna.files import surrogate


class Session:
    """Questions and answers in turn. The last question may have no answer; the next one then takes its place."""

    def __init__(self, service: Service, model: str, system: str, sampling: SamplingConfig) -> None:
        self.service = service
        self.model = model
        self.system = system
        self.sampling = sampling
        self.turns: list[Message] = []
        self.last: Answer | None = None
        """The answer that came last, with its counts."""
        self._id = time.strftime("chat-%Y%m%d-%H%M%S")
        self._saved: set[Path] = set()

    @property
    def question(self) -> str | None:
        """The last question, answered or not."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == "user"), None)

    @property
    def messages(self) -> list[Message]:
        """What the model gets."""
        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    def ask(self, text: str) -> None:
        """Put a question.

        Raises:
            InputError: it holds what is not Unicode, which no service takes.
        """
        if half := surrogate(text):
            raise InputError(f"the question holds {half}")
        if self.turns and self.turns[-1].role == "user":
            self.turns.pop()
        self.turns.append(Message("user", text))

    def answer(self) -> Generator[str, None, None]:
        """The pieces of the answer to the open question. However it ends, what came is kept.

        An answer that did not end by itself is marked as not to be learnt.

        Raises:
            ServiceError: there is no answer, or it broke off.
        """
        answer = self.last = self.service.answer(self.model, self.messages, self.sampling)
        try:
            with contextlib.closing(answer.pieces()) as pieces:
                yield from pieces
        finally:
            if answer.text:
                self.turns.append(Message("assistant", answer.text, train=answer.finish == "stop"))

    def reopen(self) -> None:
        """Take the last answer back, so that its question is open.

        Raises:
            InputError: nothing was asked.
        """
        if not self.turns:
            raise InputError("nothing was asked yet")
        if self.turns[-1].role == "assistant":
            self.turns.pop()

    def undo(self) -> None:
        """Forget the last question and its answer.

        Raises:
            InputError: nothing was asked.
        """
        self.reopen()
        self.turns.pop()

    def clear(self) -> None:
        """Forget everything that was said."""
        self.turns.clear()
        self.last = None

    def served(self) -> Served | None:
        """The session's model, if it is served now."""
        name = self.model.partition("@")[0]
        return next((each for each in self.service.models() if each.name in (self.model, name)), None)

    def save(self, path: Path) -> None:
        """Write the conversation as one line of vicuna's own format.

        Raises:
            InputError: another file stands there, or the file cannot be written.
        """
        if path.exists() and path.resolve() not in self._saved:
            raise InputError(f"{path} exists already; give another name")
        made = Conversation(self._id, tuple(self.messages), "vicuna chat", {"model": self.model})
        write_conversations(path, [made])
        self._saved.add(path.resolve())

    def load(self, path: Path) -> int:
        """Go on with the last conversation of a file; returns how many the file holds.

        Raises:
            InputError: there is none, the file cannot be read, or its turns do not alternate.
        """
        conversations = list(read_conversations(path))
        if not conversations:
            raise InputError(f"{path} holds no conversation")
        found = conversations[-1]
        for index, turn in enumerate(found.turns):
            if turn.role != ("user", "assistant")[index % 2]:
                raise InputError(f"{path}: turn {index + 1} of {found.id} is {turn.role}'s; they have to alternate")
        self.system, self.turns, self.last = found.system or "", list(found.turns), None
        return len(conversations)
