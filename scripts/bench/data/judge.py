"""Is a page's markdown right? It is read again by markdown-it-py and compared with what the page shows.

Both sides become the same simple form: blocks and spans without attributes that mean nothing, code blocks with their
language and every byte, formulas as TeX. Nothing here is the converter's own code, nor its parser.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bs4 import BeautifulSoup, Tag
from bs4.element import Comment, NavigableString, PreformattedString
from dom import MARK
from markdown_it import MarkdownIt

CHAT = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
"""What a chat page reads: HTML in markdown is text."""
SPEC = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
_BLOCKS = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "pre",
    "blockquote",
    "table",
    "tr",
    "th",
    "td",
    "hr",
}
_BOXES = {"div", "section", "article", "main", "figure"}
_SPANS = {"strong": "strong", "b": "strong", "em": "em", "i": "em", "s": "s", "del": "s", "code": "code", "a": "a"}
_CONTROLS = "button, svg, script, style, [aria-hidden=true]"
_BREAK = "\ue010"
_EDGE = ("edge",)
"""Between two boxes: what stands on both sides is no one paragraph."""

Node = str | tuple[Any, ...]
"""Text, or (name, attributes, children)."""


@dataclass
class Shown:
    """What a reader sees."""

    tree: list[Node]
    codes: list[tuple[str, str]] = field(default_factory=list)
    """(language, text) of each code block."""
    formulas: list[str] = field(default_factory=list)
    """TeX of each formula."""

    def text(self) -> str:
        """All visible words, white space collapsed."""
        return " ".join("".join(_words(self.tree)).replace(_BREAK, " ").split())


@dataclass(frozen=True)
class Verdict:
    """What is right; None where there was nothing to get right."""

    text: bool
    structure: bool
    code: bool | None
    formulas: bool | None

    @property
    def all(self) -> bool:
        """Everything."""
        return self.text and self.structure and self.code is not False and self.formulas is not False


CHECKS = ("all", "text", "structure", "code", "formulas")


def verdict(wanted: Shown, markdown: str | None, reader: MarkdownIt = CHAT) -> Verdict:
    """Compare a converter's markdown (None: it raised) with what the page shows."""
    if markdown is None:
        return Verdict(False, False, False if wanted.codes else None, False if wanted.formulas else None)
    shown = of_markdown(markdown, wanted.formulas, reader)
    return Verdict(
        text=shown.text() == wanted.text(),
        structure=shown.tree == wanted.tree,
        code=shown.codes == wanted.codes if wanted.codes else None,
        formulas=shown.formulas == wanted.formulas if wanted.formulas else None,
    )


# ------------------------------------------------------------------------------------------------ two ways to the form
def of_markdown(markdown: str, tex: Sequence[str] = (), reader: MarkdownIt = CHAT) -> Shown:
    """What a reader of the markdown sees; of `tex` those formulas that stand in it, in order, between delimiters."""
    return _read(*_marked(markdown, tex), reader)


def of_truth(markdown: str, tex: Sequence[str]) -> Shown:
    """What a reader of made-up markdown sees, whose formulas are marks already (see dom.MARK)."""
    return _read(MARK.sub(lambda mark: f"\ue003{mark['number']}\ue004", markdown), list(tex), CHAT)


def of_page(page: str) -> Shown:
    """What a chat page shows, without its controls."""
    soup = BeautifulSoup(re.sub(r"\A\s*\d+ / \d+(?=<)", "", page), "html.parser")
    tex = []
    for each in soup.select("span.katex"):
        source = each.find("annotation")
        tex.append(source.get_text() if source else each.get_text())
        each.replace_with(_formula(tex[-1]))
    for each in soup.find_all("pre"):
        _strip_header(soup, each)
    for each in soup.select(_CONTROLS):
        each.decompose()
    return _shown(soup, tex)


def of_html(html: str) -> Shown:
    """What plain HTML shows."""
    return _shown(BeautifulSoup(html, "html.parser"), [])


def _read(marked: str, found: list[str], reader: MarkdownIt) -> Shown:
    soup = BeautifulSoup(reader.render(marked), "html.parser")
    for text in list(soup.find_all(string=re.compile("\ue003"))):
        text.replace_with(re.sub("\ue003(\\d+)\ue004", lambda mark: _formula(found[int(mark[1])]), text))
    return _shown(soup, found)


def _formula(tex: str) -> str:
    return "\ue003" + "".join(tex.split()) + "\ue004"


_OPENING, _CLOSING = r"(?:\$\$|\$|\\\\?\(|\\\\?\[)[\s>]*", r"[\s>]*(?:\$\$|\$|\\\\?\)|\\\\?\])"


def _marked(markdown: str, tex: Sequence[str]) -> tuple[str, list[str]]:
    """Markdown with marks in the places of formulas, which a reader of markdown would take to pieces."""
    found: list[str] = []
    at = 0
    for each in tex:
        source = r"[\s>]+".join(re.escape(word) for word in each.split())
        match = re.compile(_OPENING + source + _CLOSING).search(markdown, at)
        if match:
            mark = f"\ue003{len(found)}\ue004"
            markdown = markdown[: match.start()] + mark + markdown[match.end() :]
            at = match.start() + len(mark)
            found.append(each)
    return markdown, found


def _strip_header(soup: BeautifulSoup, pre: Tag) -> None:
    """Leave of a page's code block what plain HTML has: `pre`, `code`, the language as a class."""
    code = pre.find("code")
    if not isinstance(code, Tag):
        return
    language = _language(code)
    if not language:  # its name stands in the header only
        for each in pre.select(_CONTROLS):
            if each is not code:
                each.decompose()
        language = pre.get_text().removesuffix(code.get_text()).strip()
    plain = soup.new_tag("code", attrs={"class": f"language-{language}"} if language else {})
    plain.string = code.get_text()
    pre.clear()
    pre.append(plain)


def _language(code: Tag | None) -> str:
    names = code.get_attribute_list("class") if code is not None else []
    return next((name.removeprefix("language-") for name in names if name and name.startswith("language-")), "")


# ------------------------------------------------------------------------------------------------ the form
def _shown(soup: Tag, tex: list[str]) -> Shown:
    shown = Shown([], formulas=tex)
    shown.tree = _blocks(_children(soup, shown))
    return shown


def _children(node: Tag, shown: Shown) -> list[Node]:
    return [made for child in node.children for made in _nodes(child, shown)]


def _nodes(node: Any, shown: Shown) -> list[Node]:
    if isinstance(node, NavigableString):
        return [] if isinstance(node, Comment | PreformattedString) else [re.sub(r"\s+", " ", node)]
    name = node.name
    if name == "pre":
        code = node.find("code")
        text = (code or node).get_text()
        shown.codes.append((_language(code), text.removesuffix("\n")))
        return [("pre", "", [" ".join(text.split())])]
    if name == "br":
        return [_BREAK]
    if name == "img":
        return [("img", (node.get("src", ""), node.get("alt", ""), node.get("title") or ""), [])]
    if name in _BLOCKS:
        return [_block(name, node, _children(node, shown))]
    if name in _SPANS:
        return _span(_SPANS[name], node, _children(node, shown))
    inner = _children(node, shown)
    return [_EDGE, *inner, _EDGE] if name in _BOXES else inner


def _block(name: str, node: Tag, inner: list[Node]) -> Node:
    attributes = ""
    if name == "ol" and node.get("start", "1") != "1":
        attributes = str(node["start"])
    if name in ("th", "td"):
        aligned = re.search(r"text-align:\s*(\w+)", str(node.get("style", "")))
        attributes = aligned[1] if aligned else str(node.get("align", ""))
    if name in ("ul", "ol", "table", "tr"):
        return name, attributes, [each for each in inner if _is_block(each)]
    if name in ("li", "blockquote"):
        return name, attributes, _blocks(inner)
    flat = [part for each in inner for part in (each[2] if isinstance(each, tuple) and each[0] == "p" else [each])]
    return name, attributes, _line(flat)


def _span(name: str, node: Tag, inner: list[Node]) -> list[Node]:
    if any(_is_block(each) for each in inner):
        return inner
    line = _merged(inner)
    attributes = (node.get("href", ""), node.get("title") or "") if name == "a" else ""
    return [(name, attributes, line)] if line else []


def _is_block(node: Node) -> bool:
    return isinstance(node, tuple) and node[0] in _BLOCKS


def _blocks(nodes: Sequence[Node]) -> list[Node]:
    """Blocks; what stands between them in lines becomes paragraphs, so that tight and loose lists are the same."""
    found: list[Node] = []
    line: list[Node] = []
    for node in (*nodes, _EDGE):
        if node is not _EDGE and not _is_block(node):
            line.append(node)
            continue
        if text := _line(line):
            found.append(("p", "", text))
        line = []
        if _is_block(node) and not (node[0] == "p" and not node[2]):
            found.append(node)
    return found


def _line(nodes: Sequence[Node]) -> list[Node]:
    """A line without white space at its ends."""
    made = _merged([each for each in nodes if each is not _EDGE])
    if made and isinstance(made[0], str):
        made[0] = made[0].lstrip(" " + _BREAK)
    if made and isinstance(made[-1], str):
        made[-1] = made[-1].rstrip(" " + _BREAK)
    return [each for each in made if each != ""]


def _merged(nodes: Sequence[Node]) -> list[Node]:
    made: list[Node] = []
    for node in nodes:
        if not isinstance(node, str):
            made.append(node)
            continue
        before = made.pop() if made and isinstance(made[-1], str) else ""
        made.append(re.sub(f" *{_BREAK} *", _BREAK, re.sub(" +", " ", f"{before}{node}")))
    return [each for each in made if each != ""]


def _words(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
            continue
        apart = " " if node[0] in _BLOCKS else ""
        yield apart
        yield from _words(node[2])
        yield apart
