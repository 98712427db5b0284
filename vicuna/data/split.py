"""Cut conversations between rounds so that each piece fits the context, counted exactly as training will count it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vicuna.conversation import Conversation
from vicuna.counting import TokenCounter
from vicuna.data.chat import Chat, Drop, Round
from vicuna.data.config import SplitConfig
from vicuna.data.cutter import Cutter
from vicuna.prompt import Template
from vicuna.template import TemplateError


@dataclass(frozen=True)
class Piece:
    """A training sample: some rounds of a conversation."""

    conversation: Conversation
    tokens: int | None
    """Length as training counts it; None where nothing was counted."""
    rounds: int
    """Rounds of the chat that it accounts for: neither context nor the later parts of an answer count again."""
    truncated: bool = False
    """Its answer's end was cut off to make it fit."""


class Splitter:
    """Cuts chats to a context length."""

    def __init__(self, tokenizer: Any, template: Template, limit: int, config: SplitConfig) -> None:
        """
        Args:
            tokenizer: fast Hugging Face tokenizer.
            template: the prompt template that training will use.
            limit: most tokens a piece may have, special tokens included.
            config: what happens to a single round that is too long, and how much context further pieces have.
        """
        self._count = TokenCounter(tokenizer, template)
        self._limit = limit
        self._config = config

    def __call__(self, chat: Chat) -> tuple[list[Piece], list[Drop]]:
        """Pieces in order, and the rounds that fit nowhere; each round is learnt in one piece or dropped once."""
        whole = chat.conversation()
        try:
            tokens = self.count(whole)
            if tokens <= self._limit:
                return [Piece(whole, tokens, len(chat.rounds))], []
            return self._pieces(chat, max(1, len(chat.rounds) * self._limit // tokens))
        except TemplateError as error:
            reason = "prompt template cannot say it"
            return [], [Drop("split", reason, str(error), each) for each in chat.rounds]

    def count(self, conversation: Conversation) -> int:
        """Tokens of a conversation, exactly as training counts them."""
        return self._count(conversation.messages)

    def _pieces(self, chat: Chat, guess: int) -> tuple[list[Piece], list[Drop]]:
        pieces: list[Piece] = []
        drops: list[Drop] = []
        start, first, rounds = 0, 0, chat.rounds
        while start < len(rounds):
            context = self._context(chat, rounds[first:start], rounds[start])
            taken, tokens = self._longest(chat, context, rounds[start:], guess)
            if taken:
                new = rounds[start : start + taken]
                pieces.append(Piece(_conversation(chat, context, new), tokens, taken))
                start, guess = start + taken, taken
                continue
            made = self._alone(chat, rounds[start], tokens)
            if isinstance(made, Drop):
                drops.append(made)
            else:
                pieces += made
            start = first = start + 1
        return pieces, drops

    def _context(self, chat: Chat, before: Sequence[Round], new: Round) -> Sequence[Round]:
        """The last rounds before a new one, as many as `overlap` allows and as fit together with it."""
        taken = 0
        while taken < min(self._config.overlap, len(before)):
            if self.count(chat.conversation([*before[len(before) - taken - 1 :], new])) > self._limit:
                break
            taken += 1
        return before[len(before) - taken :]

    def _longest(self, chat: Chat, context: Sequence[Round], rounds: Sequence[Round], guess: int) -> tuple[int, int]:
        """How many of the first rounds fit after the context, and the tokens; (0, tokens with one) if none does."""
        counted: dict[int, int] = {}

        def fits(n: int) -> bool:
            if n not in counted:
                counted[n] = self.count(chat.conversation([*context, *rounds[:n]]))
            return counted[n] <= self._limit

        taken = min(guess, len(rounds))
        while taken and not fits(taken):
            taken -= 1
        while 0 < taken < len(rounds) and fits(taken + 1):
            taken += 1
        return taken, counted[taken or 1]

    def _alone(self, chat: Chat, each: Round, tokens: int) -> list[Piece] | Drop:
        """A round that is too long by itself."""
        if self._config.too_long == "drop" or len(each.users) != 1 or len(each.answers) != 1 or not each.train:
            return Drop("split", "round longer than the context", f"{tokens} tokens", each)
        cutter = Cutter(self._count, self._limit, chat.system, each.user, each.answer)
        if not cutter.has_room:
            return Drop("split", "question leaves no room for its answer", f"{cutter.asked} tokens", each)
        if self._config.too_long == "truncate":
            samples = cutter.truncated()
        else:
            samples = cutter.carried(self._config.carry_prompt)
        if not samples:
            return Drop("split", "answer cannot be cut to fit", f"{tokens} tokens", each)
        truncated, found = self._config.too_long == "truncate", []
        for part, messages in enumerate(samples):
            name = _piece_id(chat, each) + (f".{part}" if part else "")
            conversation = replace(chat.conversation([], name), messages=tuple(messages))
            found.append(Piece(conversation, self._count(messages), int(part == 0), truncated))
        return found


def _conversation(chat: Chat, context: Sequence[Round], new: Sequence[Round]) -> Conversation:
    """Some rounds of a chat under the name of the first that is new; the context is not learnt again."""
    found = chat.conversation([*context, *new], _piece_id(chat, new[0]))
    known = len(chat.conversation(context).messages)
    messages = [replace(each, train=False) if each.role == "assistant" else each for each in found.messages[:known]]
    return replace(found, messages=(*messages, *found.messages[known:]))


def _piece_id(chat: Chat, first: Round) -> str:
    """The conversation's id and the place of the piece's first new turn in it, as FastChat's splitter names pieces."""
    return f"{chat.id}_{2 * first.index}"
