"""HTML of unknown origin → markdown, with beautifulsoup4 and markdownify.

Slower than `vicuna.data.markdown` and less exact on chat pages, but made from other parts: it is what the tests compare
the main converter with, and a second opinion for pages that no chat service made.
"""

import re
from typing import Any

from vicuna.data.debris import COPIED
from vicuna.data.markdown.dom import UNSEEN

_CLASS_LANGUAGE = re.compile(r"lang(?:uage)?-(\S+)")


def html_to_markdown(html: str) -> str:
    """Convert any HTML; the same contract as `vicuna.data.markdown.html_to_markdown`."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for formula in soup.select(".katex-display, .math-display, .katex, .math-inline"):
        if not formula.decomposed:
            _restore_tex(formula)
    for pre in soup.find_all("pre"):
        _strip_header(pre)
    for unseen in soup.find_all(list(UNSEEN)):
        unseen.decompose()
    text: str = _converter().convert_soup(soup)
    return COPIED.sub("", text.strip("\n")).rstrip()


def _restore_tex(formula: Any) -> None:
    """Put `$tex$` in place of what KaTeX drew, marked as code so that nothing in it is escaped."""
    annotation = formula.find("annotation")
    if annotation is None:
        return
    display = any("display" in name for name in formula.get("class", []))
    tex = annotation.get_text().strip()
    formula.clear()
    formula.name, formula.attrs = ("div" if display else "span"), {"data-tex": "display" if display else "inline"}
    formula.string = tex


def _strip_header(pre: Any) -> None:
    """Leave nothing in a code block but its code, with the language as the code's class."""
    code = pre.find("code")
    if code is None:
        return
    header = next((each for each in pre.find_all("button")), None)
    label = header.parent.get_text().removesuffix(header.get_text()).strip() if header and header.parent else ""
    classes = " ".join(code.get("class", []))
    named = _CLASS_LANGUAGE.search(classes)
    code.attrs = {"class": [f"language-{label or (named[1] if named else '')}"]}
    code.extract()
    pre.clear()
    pre.append(code)


def _converter() -> Any:
    from markdownify import ATX, MarkdownConverter

    class Converter(MarkdownConverter):
        """markdownify with fences that hold any code, and formulas."""

        def convert_pre(self, el: Any, text: str, parent_tags: set[str]) -> str:
            code = el.get_text().removesuffix("\n")
            language = next((c[9:] for c in (el.code.get("class", []) if el.code else []) if c != "language-"), "")
            longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
            fence = "`" * (longest + 1)
            return f"\n\n{fence}{language}\n{code}\n{fence}\n\n"

        def convert_span(self, el: Any, text: str, parent_tags: set[str]) -> str:
            return f"${el.get_text()}$" if el.get("data-tex") else text

        def convert_div(self, el: Any, text: str, parent_tags: set[str]) -> str:
            if el.get("data-tex"):
                return f"\n\n$$\n{el.get_text()}\n$$\n\n"
            return f"\n\n{text.strip()}\n\n" if text.strip() else ""

    return Converter(heading_style=ATX, bullets="-", escape_misc=True, newline_style="SPACES")
