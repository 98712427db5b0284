"""Answers that teach nothing good: error messages, refusals, blocked words, repetition, broken characters."""

import functools
import re
from collections.abc import Callable

from vicuna.data.chat import Chat, Drop, Result, Round
from vicuna.data.config import QualityConfig
from vicuna.data.filters import boilerplate, soup
from vicuna.data.filters.phrases import Phrases
from vicuna.data.filters.repetition import repetition, without_code

Fault = tuple[str, str]
"""Reason and detail."""
Check = Callable[[Round], Fault | None]


def good(chat: Chat, config: QualityConfig) -> Result:
    """Keep the rounds that teach something: no error messages, blocked words, boilerplate or endless repetition."""
    checks = _checks(config)
    kept, drops = [], []
    for each in chat.rounds:
        reason, detail = next((fault for check in checks if (fault := check(each))), ("", ""))
        if reason:
            drops.append(Drop("quality", reason, detail, each))
        else:
            kept.append(each)
    size = sum(len(each.user) + len(each.answer) for each in kept)
    if kept and size < config.min_characters:
        drops += [Drop("quality", "conversation too short", f"{size} characters", each) for each in kept]
        kept = []
    return (chat.with_rounds(kept) if drops else chat), drops


@functools.lru_cache(8)
def _checks(config: QualityConfig) -> tuple[Check, ...]:
    """The checks that are switched on, in the order in which they may name their reason."""
    found: list[Check] = []
    for wanted, reason, test in (
        (config.errors, "error message instead of an answer", boilerplate.is_error),
        (config.refusals, "refusal", boilerplate.is_refusal),
        (config.boilerplate, "speaks as a language model", boilerplate.speaks_as_model),
        (config.moralizing, "moralizing", boilerplate.moralizes),
        (config.stuck_lists, "list stuck at 1", _is_stuck),
    ):
        if wanted:
            found.append(_answer_check(reason, test))
    if config.blocked:
        found.append(_blocked_check(Phrases(config.blocked)))
    if config.same_digit:
        found.append(_digit_check(config.same_digit))
    if config.repetition < 1 or config.repeated_lines < 1 or config.loop:
        found.append(functools.partial(_repeats, config=config))
    if config.garbled < 1:
        found.append(functools.partial(_is_garbled, most=config.garbled))
    if config.blobs < 1:
        found.append(functools.partial(_is_blob, most=config.blobs))
    return tuple(found)


def _answer_check(reason: str, test: Callable[[str], bool]) -> Check:
    return lambda each: (reason, "") if test(each.answer) else None


def _blocked_check(words: Phrases) -> Check:
    def check(each: Round) -> Fault | None:
        found = words.find(each.user) or words.find(each.answer)
        return ("blocked word", found) if found else None

    return check


def _digit_check(most: int) -> Check:
    search = re.compile(rf"(\d)\1{{{most},}}").search

    def check(each: Round) -> Fault | None:
        if not any(digit * (most + 1) in each.answer for digit in "0123456789"):
            return None
        found = search(without_code(each.answer))
        return ("one digit over and over", found[0][:20]) if found else None

    return check


def _repeats(each: Round, config: QualityConfig) -> Fault | None:
    found = repetition(each.answer)
    if config.loop and found.loop > config.loop:
        return "repetition", f"one line {found.loop} times"
    if found.lines > config.repeated_lines:
        return "repetition", f"{found.lines:.2f} of the lines"
    if found.words > config.repetition:
        return "repetition", f"{found.words:.2f} of the words"
    return None


def _is_garbled(each: Round, most: float) -> Fault | None:
    share = max(soup.garbled_share(each.user), soup.garbled_share(each.answer))
    return ("broken characters", f"{share:.2f} of the words") if share > most else None


def _is_blob(each: Round, most: float) -> Fault | None:
    share = soup.blob_share(each.answer)
    return ("no text", f"{share:.2f} of the characters") if share > most else None


def _is_stuck(answer: str) -> bool:
    """Whether two items numbered 1 follow each other with nothing but code between them."""
    if answer.count("\n1. ") + answer.startswith("1. ") < 2:
        return False
    after_item = code_between = in_code = False
    for line in answer.split("\n"):
        if line.lstrip().startswith("```"):
            in_code = not in_code
            code_between = after_item
        elif in_code or not line.strip():
            continue
        elif line.startswith("1. "):
            if code_between:
                return True
            after_item = True
        elif not line.startswith("  "):
            after_item = code_between = False
    return False
