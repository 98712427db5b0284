"""Validity and quality: which rounds of a chat may be trained on. Each stage is a pure function of one chat."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable

from vicuna.data.chat import Chat, Drop, Round
from vicuna.data.config import QualityConfig, ValidityConfig

Result = tuple[Chat, list[Drop]]
"""The chat with the rounds that stay, and why the others do not."""

_INVISIBLE = re.compile(r"[\s\u200b-\u200f\u2060\ufeff\u00ad]*\Z")

_ERRORS = (
    r"too many requests in 1 hour\. try again later\.?",
    r"network error",
    r"something went wrong(?:\.|,)? ?(?:if this issue persists please contact us .*|please try .*)?",
    r"an error occurred\. (?:either the engine you requested|if this issue persists).*",
    r"there was an error generating a response\.?",
    r"hmm\.* ?something seems to have gone wrong\.?.*",
    r"the server (?:had an error while processing your request|is currently overloaded).*",
    r"(?:chatgpt is|we're) (?:at capacity|experiencing exceptionally high demand).*",
    r"you(?:'|’)ve reached (?:our|the) (?:current )?(?:usage cap|limit of messages).*",
    r"only one message at a time\. please allow any other responses to complete.*",
    r"the message you submitted was too long.*",
    r"error in (?:body|input) stream\.?",
    r"(?:request timed out|failed to fetch|gateway time-?out)\.?",
    r"unable to load conversation.*",
)
"""Messages that chat pages of 2022 to 2025 showed in the answer's place; each must be a whole paragraph."""
_ERROR = re.compile(
    r"(?:.*\n\s*\n)?\s*(?:\(!\)|!|[(\[])?(?:" + "|".join(_ERRORS) + r")[)\]]?\s*", re.IGNORECASE | re.DOTALL
)
_ERROR_HINT = re.compile(
    "error|went wrong|too many requests|capacity|demand|overloaded|usage cap|limit of messages|one message at a time"
    "|too long|timed out|failed to fetch|time-?out|unable to load",
    re.IGNORECASE,
)

_REFUSAL = re.compile(
    r"\s*(?:i(?:'|’)?m (?:very )?sorry,? (?:but )?|i apologi[sz]e,? (?:but )?|unfortunately,? )?"
    r"(?:as an? (?:(?:ai|artificial intelligence)(?: language)?|(?:large )?language) model|"
    r"i(?: am|'m|’m) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b.{0,40}"
    r"(?:and|so) (?:i )?(?:cannot|can't|can’t|do not|don't|don’t)|"
    r"i(?: am|'m|’m) (?:not able|unable) to (?:assist|help|provide|fulfill|comply)|"
    r"i (?:cannot|can't|can’t) (?:assist|help|provide|fulfill|comply)\b)",
    re.IGNORECASE,
)
_WINDOW = 8


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
    if chat.misplaced_system:
        return _none(chat, "system message after the first turn")
    rounds, drops = list(chat.rounds), []
    if rounds and not rounds[0].users:
        if not config.drop_leading_answer:
            return _none(chat, "starts with an answer")
        drops.append(Drop("validity", "answer before the first question", round=rounds.pop(0)))
    if rounds and not rounds[-1].answers:
        if not config.drop_trailing_question:
            return _none(chat, "ends with a question")
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
    return chat.with_rounds(rounds), drops


def good(chat: Chat, config: QualityConfig) -> Result:
    """Keep the rounds that teach something: no error messages, blocked words, boilerplate or endless repetition."""
    kept, drops = [], []
    for each in chat.rounds:
        reason, detail = _fault(each, config)
        if reason:
            drops.append(Drop("quality", reason, detail, each))
        else:
            kept.append(each)
    size = sum(len(each.user) + len(each.answer) for each in kept)
    if kept and size < config.min_characters:
        drops += [Drop("quality", "conversation too short", f"{size} characters", each) for each in kept]
        kept = []
    return chat.with_rounds(kept), drops


def _none(chat: Chat, reason: str, drops: Iterable[Drop] = ()) -> Result:
    return chat.with_rounds(()), [*drops, *(Drop("validity", reason, round=each) for each in chat.rounds)]


def _merged(each: Round) -> Round:
    users = [text for text in each.users if not is_empty(text)] or [""]
    answers = [text for text in each.answers if not is_empty(text)] or [""]
    return Round(each.index, ("\n\n".join(users),), ("\n\n".join(answers),), each.text_hash)


def _fault(each: Round, config: QualityConfig) -> tuple[str, str]:
    """(reason, detail) why a round should go; empty strings for a good one."""
    if config.errors and is_error(each.answer):
        return "error message instead of an answer", ""
    if config.refusals and _REFUSAL.match(each.answer):
        return "refusal boilerplate", ""
    if config.blocked:
        found = _blocked(config.blocked)(each.user) or _blocked(config.blocked)(each.answer)
        if found:
            return "blocked word", found[0].lower()
    if config.repetition < 1 and (share := repeated_share(each.answer)) > config.repetition:
        return "repetition", f"{share:.2f}"
    return "", ""


def is_error(answer: str) -> bool:
    """Whether an answer is, or ends in, an error message of the page."""
    tail = answer[-400:]
    if not _ERROR_HINT.search(tail):
        return False
    return _ERROR.fullmatch(tail) is not None


@functools.cache
def _blocked(words: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    # longest first, so that the detail names the whole phrase; \w edges, so that "ass" is not found in "class"
    each = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{each})(?!\w)", re.IGNORECASE).search


def repeated_share(text: str) -> float:
    """Share of the words that lie in a stretch of 8 words which comes more than once; 0 for short texts.

    Source: the duplicate n-gram rule of MassiveText (Rae et al. 2021, Gopher), on words and for one answer.
    """
    words = text.split()
    if len(words) < 4 * _WINDOW:
        return 0.0
    grams = [tuple(words[at : at + _WINDOW]) for at in range(len(words) - _WINDOW + 1)]
    counts = Counter(grams)
    if len(counts) == len(grams):
        return 0.0
    covered = bytearray(len(words))
    for at, gram in enumerate(grams):
        if counts[gram] > 1:
            covered[at : at + _WINDOW] = b"\x01" * _WINDOW
    return sum(covered) / len(words)
