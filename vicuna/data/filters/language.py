"""Which language a conversation is in, offline (py3langid), told from its prose only."""

import functools
import re
from collections.abc import Sequence
from typing import Any

from vicuna.data.chat import Chat, Drop, Result
from vicuna.data.config import LanguageConfig
from vicuna.data.filters.phrases import SPACELESS

MOST = 240
"""Characters of prose that are looked at; more cost time and change hardly a verdict."""
_NEAR, _FAR = 160, 2_400
"""Characters of each message among which the prose is looked for: first, and where they are nearly all code."""
_ENOUGH = 120
"""Characters of prose with which nothing farther on is looked at."""

_CODE = re.compile(
    r"^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)"  # fenced
    r"|`[^`\n]+`"  # inline
    r"|\$\$.*?\$\$|\$[^$\n]+\$"  # formulas
    r"|^(?: {4}|\t).*$",  # indented
    re.MULTILINE | re.DOTALL,
)
_CODE_MARKS = ("`", "$", "~~~", "\n    ", "\n\t")
_ODD = re.compile(r"[0-9\\/_=<>{}()\[\]|@#%&+^~]")
"""Characters of addresses, paths, variables and code, but of no word."""
_NO_SPACES = re.compile(f"[{SPACELESS}]")
_ASCII = re.compile(r"[!-~]+")
_AROUND = " \t\r\n.,;:!?*\"'()[]-–—“”‘’«»…。，、！？：；（）"

ENGLISH = frozenset({
    "the", "and", "that", "this", "these", "those", "with", "you", "your", "what", "how", "which", "where", "when",
    "from", "have", "would", "should", "could", "there", "their", "they", "because", "about", "been",
})  # fmt: skip
"""Frequent words that are words of English only (not `of` or `is`, which are Dutch too): a sixth of English prose."""
_CERTAIN, _DISTINCT, _WORDS = 0.12, 3, 15
"""Least share of these among a text's words, least number of different ones, and least number of words."""

_RARE = {"gl": 0.4, "an": 0.2, "ext": 0.2, "ms": 0.8, "yue": 0.1, "wuu": 0.1, "sa": 0.3}
"""Languages that short text in a sister with many more speakers (es, pt, id, zh, hi) is often taken for → by how much
their likelihood is lowered: mildly, so that what is not in the sister's words is still told."""


def kept(chat: Chat, config: LanguageConfig) -> tuple[Result, str]:
    """Keep the chat if its language is wanted.

    Returns:
        the stage's result, and the language's ISO 639-1 code ("" where there is too little prose to tell, as in a chat
        that is mostly code; such chats are kept).
    """
    if not chat.rounds:
        return (chat, []), ""
    code = language(_some_messages(chat), config)
    wanted = not code or ((not config.keep or code in config.keep) and code not in config.skip)
    if wanted:
        return (chat, []), code
    drops = [Drop("language", "language not wanted", code, each) for each in chat.rounds]
    return (chat.with_rounds(()), drops), code


def language(messages: Sequence[str], config: LanguageConfig) -> str:
    """ISO 639-1 code of the language that texts are written in together; "" where there is too little prose to tell.

    English is known by its own small words where they are frequent, which takes a tenth of py3langid's time and never
    contradicted it on prose; py3langid tells all else.
    """
    words: list[str] = []
    for reach in (_NEAR * 6 // max(1, min(6, len(messages))), _FAR):
        words = [word for message in messages for word in prose(message[:reach])]
        size = sum(map(len, words)) + len(words)
        if size >= _ENOUGH:
            break
    text = " ".join(words)
    if len(text.encode("utf-8", "surrogatepass")) < config.min_bytes:
        return ""
    if _is_english(words):
        return "en"
    code, confidence = _told(text[:MOST])
    return code if confidence >= config.min_confidence and code != "zxx" else ""


def prose(text: str) -> list[str]:
    """The words of a text without code, formulas, addresses and names of variables."""
    if any(mark in text for mark in _CODE_MARKS):
        text = _CODE.sub(" ", text)
    found: list[str] = []
    for word in (each.strip(_AROUND) for each in text.split()):
        if word.isalpha() or (word and not _ODD.search(word)):
            found.append(word)
        elif _NO_SPACES.search(word):  # a whole sentence, of which only a stretch is an address or code
            found += _ASCII.sub(" ", word).split()
    return found


def _some_messages(chat: Chat) -> list[str]:
    """Questions and answers of the first round, the last and the one between."""
    rounds = (
        chat.rounds if len(chat.rounds) < 4 else (chat.rounds[0], chat.rounds[len(chat.rounds) // 2], chat.rounds[-1])
    )
    return [text for each in rounds for text in (each.user, each.answer)]


def _is_english(words: Sequence[str]) -> bool:
    if len(words) < _WORDS:
        return False
    found = [word for word in map(str.lower, words) if word in ENGLISH]
    return len(found) >= _CERTAIN * len(words) and len(set(found)) >= _DISTINCT


def _told(text: str) -> tuple[str, float]:
    """ISO 639 code of the likeliest language, and how likely it is (0 to 1)."""
    shares = {str(code): share * _RARE.get(code, 1.0) for code, share in _identifier().rank(text)}
    code = max(shares, key=lambda each: shares[each])
    return code, shares[code] / sum(shares.values())


def prepare() -> None:
    """Load the model now."""
    _identifier()


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Nigerian Pidgin takes short English from English; whoever has it would not miss the difference.
    identifier.set_languages(sorted(set(identifier.labels) - {"pcm"}))
    return identifier
