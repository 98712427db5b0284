"""Question, answer, question, answer, ...: the order of turns, and its repairs."""

import re
from collections.abc import Iterable
from dataclasses import replace

from vicuna.data.chat import Chat, Drop, Result, Round
from vicuna.data.config import ValidityConfig

_INVISIBLE = re.compile(r"[\s\u200b-\u200f\u2060\ufeff\u00ad]*\Z")


def is_empty(text: str) -> bool:
    """Whether a text shows nothing: white space and invisible characters only."""
    return _INVISIBLE.match(text) is not None


def valid(chat: Chat, config: ValidityConfig) -> Result:
    """Keep what is question, answer, question, answer, ...

    Turns in the wrong order drop the conversation, except for the repairs that are switched on. From the first empty
    message on all rounds are dropped: what came before is whole, what comes after may lean on what is missing.
    """
    if config.drop_plugins and chat.metadata.get("plugins"):
        return _none(chat, "held with plugins")
    rounds, drops = list(chat.rounds), []
    if rounds and not rounds[0].users:
        if not config.drop_leading_answer:
            return _none(chat, "starts with an answer")
        drops.append(Drop("validity", "answer before the first question", round=rounds.pop(0)))
    if rounds and not rounds[-1].answers:
        if not config.drop_trailing_question:
            return _none(chat.with_rounds(rounds), "ends with a question", drops)
        drops.append(Drop("validity", "question without an answer", round=rounds.pop()))
    if any(len(each.users) > 1 or len(each.answers) > 1 for each in rounds):
        if not config.merge_repeats:
            return _none(chat.with_rounds(rounds), "two messages of one role in a row", drops)
        rounds = [_merged(each) for each in rounds]
    for at, each in enumerate(rounds):
        side = "question" if is_empty(each.user) else "answer" if is_empty(each.answer) else ""
        if side:
            drops.append(Drop("validity", f"empty {side}", round=each))
            drops += [Drop("validity", "after an empty message", round=rest) for rest in rounds[at + 1 :]]
            return chat.with_rounds(rounds[:at]), drops
    return chat.with_rounds(rounds) if drops or config.merge_repeats else chat, drops


def _none(chat: Chat, reason: str, drops: Iterable[Drop] = ()) -> Result:
    return chat.with_rounds(()), [*drops, *(Drop("validity", reason, round=each) for each in chat.rounds)]


def _merged(each: Round) -> Round:
    users = [text for text in each.users if not is_empty(text)] or [""]
    answers = [text for text in each.answers if not is_empty(text)] or [""]
    return replace(each, users=("\n\n".join(users),), answers=("\n\n".join(answers),))
