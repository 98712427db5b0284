"""What a page's own controls leave behind in the text of a message."""

import re

COUNTER = re.compile(r"\s*\d{1,3} / \d{1,3}\s*\Z")
"""The regenerate counter's text, `2 / 3`."""
COPIED = re.compile(r"Copy\d+ chars / \d+ words\s*\Z")
"""What a browser extension's copy button left at the end of an answer."""

_GLUED_COUNTER = re.compile(r"\A\s*(\d{1,2}) / (\d{1,2})(?=[^\W\d_]{3}|[A-Z(¿¡]|<)")
_SHARE_BEFORE = re.compile(r"\AShare Prompt\s*\n")
_SHARE_AFTER = re.compile(r"(?<=\S)[ \t\n]*Share Prompt\s*\Z")


def without_debris(text: str) -> str:
    """Plain text without a counter glued to its start, `Share Prompt`, or the copy button's `Copy12 chars / 3 words`.

    A counter is `N / M` with N at most M, glued to a word: "2 / 3What is" is one, "1 / 2 cup" is not.
    """
    counter = _GLUED_COUNTER.match(text)
    if counter and 0 < int(counter[1]) <= int(counter[2]):
        text = text[counter.end() :]
    if "Share Prompt" in text:
        text = _SHARE_AFTER.sub("", _SHARE_BEFORE.sub("", text))
    if "chars /" in text:
        text = COPIED.sub("", text)
    return text
