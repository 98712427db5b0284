"""The code blocks of chat pages: the code byte for byte, and its language.

The shapes are those of the pages of 2023 to 2026; the reader looks at structure (the `code` inside a `pre`), so small
changes of the class names do not matter.
"""

import re
from typing import NamedTuple

from vicuna.data.markdown.dom import Element, classes, text_around, visible_text

_LABELS = re.compile(r"(?:\s*(?:Copy code|Copied!|Copy|Edit|Run|Wrap|Collapse|Download|Always show details))+\s*\Z")
_LANGUAGE = re.compile(r"[\w+#.\-/]{1,30}\Z")
_LABELLED = re.compile(r"([\w+#.\-/]{0,30})Copy code(?=\S|\n|\Z)")
_CLASS_LANGUAGE = re.compile(r"(?:^|\s)lang(?:uage)?-(\S+)")
_NO_LANGUAGE = frozenset({"plain text", "code snippet"})
_KEEPS_SPACE = frozenset({"whitespace-pre", "!whitespace-pre", "whitespace-pre!"})
_SHORT = 30
"""Characters of the longest label."""


class Code(NamedTuple):
    """A code block."""

    language: str
    """"" where the page names none."""
    text: str
    """The code without its final line end."""
    before: str = ""
    """Text that stood in the block before the code and is neither language nor button: "" on an undamaged page."""
    after: str = ""
    """The same after the code."""


def read_pre(pre: Element) -> Code:
    """Read a `pre`."""
    found = list(pre.iter("code"))
    if len(found) > 1:
        found = [each for each in found if next(each.iterancestors("code"), None) is None]
    if not found:  # the editor that pages of 2026 show code in has no `code` of its own
        found = [each for each in pre.iter("div") if "cm-content" in classes(each)]
    if len(found) != 1:
        language, code = _unlabelled(visible_text(pre).removeprefix("\n"))
        by_class = next((name for each in (*found, pre) if (name := language_of(each))), "")
        return Code(language or by_class, code.removesuffix("\n"))
    (element,) = found
    before, code, after = text_around(pre, element)
    header = _LABELS.sub("", before.strip())
    language = language_of(element) or language_of(pre)
    named = _named(header.lower() if element.tag == "div" else header, language)
    if named is not None:
        language, header = named, ""
    return Code(language.replace("`", ""), code.removesuffix("\n"), header, _LABELS.sub("", after.strip()))


def read_stray(code: Element) -> Code:
    """Read a `code` that was a block and lost its `pre`."""
    return Code(language_of(code), visible_text(code).removesuffix("\n"))


def is_stray(code: Element) -> bool:
    """Whether a `code` outside of a `pre` was a block: chat pages mark those for highlighting, or for white space."""
    names = classes(code).split()
    if not _KEEPS_SPACE.isdisjoint(names):
        return True
    return "hljs" in names and "\n" in visible_text(code).strip("\n")


def _named(label: str, language: str) -> str | None:
    """The language that a block's label names, where the code's class says `language`; None if it is no label."""
    if label.lower() in ("", language.lower(), *_NO_LANGUAGE):
        return language
    if _LANGUAGE.match(label):
        return label
    return None if language or len(label) > _SHORT or "\n" in label else label.replace(" ", "-")


def label_above(label: str, language: str, *, sure: bool) -> str | None:
    """The language of a code block that has a line of text above it in the same box, as most services' pages do.

    Args:
        label: the text above.
        language: what the code's own class says.
        sure: the box is known to be a code block's.

    Returns:
        The language; None where the text is not the block's label.
    """
    label = _LABELS.sub("", label.strip()).strip()
    if label.lower() == language.lower() and label:
        return language
    if not sure or len(label) > _SHORT or "\n" in label:
        return None
    if not label or label.lower() in (*_NO_LANGUAGE, "plaintext", "code"):
        return language
    if not _LANGUAGE.match(label):
        return None
    if language:  # C++ above code of the class cpp says nothing new, the name of a file does
        return None if "." in label else language
    return label.lower()


def language_of(element: Element) -> str:
    """The language that an element's class names (`language-python`), or ""."""
    names = element.get("class")
    named = _CLASS_LANGUAGE.search(names) if names and "lang" in names else None
    return named[1] if named else ""


def _unlabelled(text: str) -> tuple[str, str]:
    """Split `pythonCopy codeimport os` (pages whose tags are partly gone) into language and code."""
    label = _LABELLED.match(text)
    return (label[1], text[label.end() :]) if label else ("", text)
