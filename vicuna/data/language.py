"""Which language a conversation is in, offline (py3langid), told from its prose only."""

import functools
import re
from typing import Any

from vicuna.data.chat import Chat, Drop
from vicuna.data.config import LanguageConfig
from vicuna.data.filters import Result

MOST = 1_200
"""Characters of prose that are looked at; more changes nothing but the time."""

_NOT_PROSE = re.compile(
    r"^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)"  # fenced code
    r"|`[^`\n]+`"  # inline code
    r"|\$\$.*?\$\$|\$[^$\n]+\$"  # formulas
    r"|^(?: {4}|\t).*$"  # indented code
    r"|https?://\S+|\S+@\S+|\S*[\\/_=<>{}()\[\]|]\S*",  # addresses, paths, names of variables
    re.MULTILINE | re.DOTALL,
)
_LETTERS = re.compile(r"[^\W\d_]+")


def kept(chat: Chat, config: LanguageConfig) -> tuple[Result, str]:
    """Keep the chat if its language is wanted.

    Returns:
        the stage's result, and the language's ISO 639-1 code ("" where there is too little prose to tell, as in a chat
        that is mostly code; such chats are kept).
    """
    if not chat.rounds:
        return (chat, []), ""
    code = identify(prose(chat), config.min_bytes, config.min_confidence)
    wanted = not code or ((not config.keep or code in config.keep) and code not in config.skip)
    if wanted:
        return (chat, []), code
    drops = [Drop("language", "language not wanted", code, each) for each in chat.rounds]
    return (chat.with_rounds(()), drops), code


def prose(chat: Chat) -> str:
    """The words of a chat without code, formulas and addresses, from questions and answers alike."""
    parts: list[str] = []
    size = 0
    for each in chat.rounds:
        for text in (each.answer, each.user):
            words = " ".join(_LETTERS.findall(_NOT_PROSE.sub(" ", text[: 4 * MOST])))
            parts.append(words)
            size += len(words)
        if size >= MOST:
            break
    return " ".join(parts)[:MOST]


def identify(text: str, min_bytes: int, min_confidence: float) -> str:
    """ISO 639-1 code of a text's language, or "" where it is too short or not certain enough."""
    if len(text.encode()) < min_bytes:
        return ""
    code, confidence = _identifier().classify(text)
    return str(code) if confidence >= min_confidence else ""


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
