"""Cut conversations between rounds so that each piece fits the context, counted by the real tokenizer and template."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vicuna.conversation import Conversation
from vicuna.data.chat import Chat, Drop, Round
from vicuna.data.config import SplitConfig
from vicuna.prompt import Template, encode
from vicuna.template import TemplateError


@dataclass(frozen=True)
class Piece:
    """A training sample: some rounds of a conversation."""

    conversation: Conversation
    tokens: int | None
    """Length as training counts it; None where nothing was counted."""
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
            config: what happens to a single round that is too long.
        """
        self._tokenizer = tokenizer
        self._template = template
        self._limit = limit
        self._config = config

    def __call__(self, chat: Chat) -> tuple[list[Piece], list[Drop]]:
        """Pieces in order, each of whole rounds in a row, and the rounds that fit nowhere."""
        whole = chat.conversation()
        try:
            tokens = self.count(whole)
        except TemplateError as error:
            reason = "prompt template cannot say it"
            return [], [Drop("split", reason, str(error), each) for each in chat.rounds]
        if tokens <= self._limit:
            return [Piece(whole, tokens)], []
        pieces: list[Piece] = []
        drops: list[Drop] = []
        start, rounds = 0, chat.rounds
        guess = max(1, len(rounds) * self._limit // tokens)
        while start < len(rounds):
            taken, tokens = self._longest(chat, rounds[start:], guess)
            if taken:
                pieces.append(self._piece(chat, rounds[start : start + taken], tokens))
                start, guess = start + taken, taken
                continue
            piece = self._truncated(chat, rounds[start]) if self._config.too_long == "truncate" else None
            if piece:
                pieces.append(piece)
            else:
                drops.append(Drop("split", "round longer than the context", f"{tokens} tokens", rounds[start]))
            start += 1
        return pieces, drops

    def count(self, conversation: Conversation) -> int:
        """Tokens of a conversation, exactly as training counts them."""
        return len(encode(conversation, self._tokenizer, self._template).ids)

    def _longest(self, chat: Chat, rounds: Sequence[Round], guess: int) -> tuple[int, int]:
        """How many of the first rounds fit together, and their tokens; (0, tokens of the first) if none does."""
        counted: dict[int, int] = {}

        def fits(n: int) -> bool:
            if n not in counted:
                counted[n] = self.count(chat.conversation(rounds[:n]))
            return counted[n] <= self._limit

        taken = min(guess, len(rounds))
        while taken and not fits(taken):
            taken -= 1
        while 0 < taken < len(rounds) and fits(taken + 1):
            taken += 1
        return taken, counted[taken or 1]

    def _piece(self, chat: Chat, rounds: Sequence[Round], tokens: int) -> Piece:
        return Piece(chat.conversation(rounds, _piece_id(chat, rounds[0])), tokens)

    def _truncated(self, chat: Chat, each: Round) -> Piece | None:
        """The round with as much of its answer as fits; None where not one character of it does."""

        def conversation(characters: int) -> Conversation:
            short = Round(each.index, each.users, (each.answer[:characters].rstrip(),), each.text_hash)
            return chat.conversation([short], _piece_id(chat, each))

        length = _last(lambda n: self.count(conversation(n)) <= self._limit, len(each.answer))
        cut = conversation(length)
        if not cut.messages[-1].content:
            return None
        return Piece(cut, self.count(cut), truncated=True)


def _piece_id(chat: Chat, first: Round) -> str:
    """The conversation's id and the place of the piece's first turn in it, as FastChat's splitter names pieces."""
    return f"{chat.id}_{2 * first.index}"


def _last(fits: Callable[[int], bool], most: int) -> int:
    """The largest n in 0..most that fits, where smaller ones fit if larger ones do (0 if none does)."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
