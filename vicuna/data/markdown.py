"""HTML of chat pages → the markdown it was made from.

The converter walks lxml's tree once. Code stays byte for byte, formulas come back as TeX, the page's own controls go,
and text is escaped only where markdown would misread it. `vicuna.data.generic` holds an independent converter for pages
of unknown origin behind the same signature.
"""

import functools
import re
from typing import NamedTuple

from lxml import etree
from lxml.html import defs

from vicuna.data import dom
from vicuna.data.dom import Element
from vicuna.data.inline import BREAK, CLOSE, CODE, OPEN, RAW, TEXT, Piece, link_end, paragraph

DEEPEST = 100
"""Elements nested deeper than this keep their text and lose their structure; browsers' own limit is 512."""
_PARSER_DEPTH = 2_000
"""libxml2 gives up at 2048."""

_BLOCK_NAMES = """address article aside blockquote body caption center col colgroup dd details dialog dir div dl dt
fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol optgroup option p pre
section summary table tbody td tfoot th thead tr ul"""
_BLOCK = frozenset(_BLOCK_NAMES.split())
_EMPHASIS = {"strong": "strong", "b": "strong", "em": "em", "i": "em", "cite": "em", "dfn": "em",
             "del": "del", "s": "del", "strike": "del"}  # fmt: skip
_CODE = frozenset({"code", "tt", "samp"})
_TAGS_KEPT = frozenset({"sup", "sub", "kbd", "mark", "ins"})
_KNOWN_NAMES = """data time output progress meter ruby rt rp rb bdi wbr audio video source track picture
math mi mo mn ms mtext mrow msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd mstyle mspace
mpadded mphantom mfenced merror mmultiscripts maction semantics annotation annotation-xml"""
_KNOWN = defs.tags | frozenset(_KNOWN_NAMES.split())
_AFTER_BODY = re.compile(r"</?(?:body|html)\b[^>]*>", re.IGNORECASE)
_COUNTER_BEFORE = re.compile(r"\A\s*\d{1,3} / \d{1,3}\s*(?=<(?:div|article|section)\b)", re.IGNORECASE)
_AUTOLINK = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,31}:[^\s<>]*\Z")
_CONTROLS = re.compile("[\x01-\x08\x0b\x0e-\x1f]")
_HIDE_CONTROLS = {code: 0xF0000 + code for code in (*range(1, 9), 11, *range(14, 32))}
_SHOW_CONTROLS = {hidden: code for code, hidden in _HIDE_CONTROLS.items()}


class Block(NamedTuple):
    """A finished block of markdown; a list waits for its markers, which depend on the list above it."""

    kind: str
    """p, h, pre, quote, hr, table, math, ul or ol."""
    text: str = ""
    items: tuple[str, ...] = ()
    """Of a list: the items, already indented below their (missing) markers."""
    number: int = 1
    """Of a numbered list: the first number."""
    loose: bool = False
    """Of a list: blank lines stand between the items."""


def html_to_markdown(html: str) -> str:
    """Convert one page or fragment of a page.

    Args:
        html: HTML of any quality; plain text is read as HTML too, so ask `vicuna.data.pages.is_page` first.

    Returns:
        CommonMark with tables and strikethrough (GFM) and formulas as `$...$` and `$$...$$`; no line end at the end.
        Malformed HTML is read as browsers read it, and no visible text is lost.
    """
    html = _COUNTER_BEFORE.sub("", html)
    hidden = _CONTROLS.search(html) is not None
    try:
        root = parse(html.translate(_HIDE_CONTROLS) if hidden else html)
    except TooDeepError:
        return paragraph([(TEXT, _text_only(html))])
    if root is None:
        return ""
    blocks = _blocks(root, 0, first=True)
    if blocks and blocks[-1].kind == "p" and dom.COPIED.match(blocks[-1].text):
        blocks.pop()
    text = _join(blocks, tight=False)
    return text.translate(_SHOW_CONTROLS) if hidden else text


def _text_only(html: str) -> str:
    """The text of a page by a parser without a tree, for pages that no tree can hold."""
    from html.parser import HTMLParser

    parts: list[str] = []
    reader = HTMLParser()
    reader.handle_data = parts.append  # type: ignore[method-assign, assignment]
    reader.feed(html)
    reader.close()
    return "".join(parts)


def parse(html: str) -> Element | None:
    """lxml's tree of the page, rooted at `html`; None where there is nothing in it.

    Raises:
        TooDeepError: elements are nested more than 2048 deep.
    """
    if "</body" in html or "</html" in html or "<body" in html:  # text after them would be cut off
        html = _AFTER_BODY.sub("", html)
    try:
        data = html.encode()
    except UnicodeEncodeError:  # half a surrogate pair has no place in a page: browsers show U+FFFD
        data = html.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    if not data.strip():
        return None
    parser = _parser()
    root: Element | None = etree.fromstring(data, parser)
    if data.count(b"<") > _PARSER_DEPTH and any(e.type_name == "ERR_RESOURCE_LIMIT" for e in parser.error_log):
        raise TooDeepError
    return root


class TooDeepError(ValueError):
    """The elements are nested deeper than the parser goes."""


@functools.cache
def _parser() -> etree.HTMLParser:
    return etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)


# ------------------------------------------------------------------------------------------------ blocks
def _blocks(element: Element, depth: int, *, first: bool = False) -> list[Block]:
    """The blocks inside an element; text between them becomes paragraphs.

    Args:
        first: nothing visible came before on this page, so a `2 / 3` counter would be the page's own.
    """
    if depth > DEEPEST:
        return _flush([(TEXT, dom.visible_text(element))])
    out: list[Block] = []
    run: list[Piece] = []
    if element.text:
        run.append((TEXT, element.text))
    for child in element:
        tag = child.tag
        at_start = first and not out and not any(value.strip() for _, value in run)
        if dom.is_debris(child) or (at_start and dom.is_counter(child)):
            pass
        elif tag in _BLOCK or dom.is_display_formula(child):
            out += _flush(run)
            run = []
            out += _block(child, depth, at_start)
        elif len(child) and not dom.is_formula(child) and _holds_block(child):
            out += _flush(run)
            run = []
            out += _blocks(child, depth + 1, first=at_start)
        elif tag == "code" and _is_stray_code_block(child):
            out += _flush(run)
            run = []
            out += _pre(child)
        else:
            _inline(child, run, depth)
        if child.tail:
            run.append((TEXT, child.tail))
    return out + _flush(run)


def _flush(run: list[Piece]) -> list[Block]:
    text = paragraph(run) if run else ""
    return [Block("p", text)] if text else []


def _holds_block(element: Element) -> bool:
    return any(each.tag in _BLOCK or dom.is_display_formula(each) for each in element.iterdescendants())


def _is_stray_code_block(code: Element) -> bool:
    return "hljs" in dom.classes(code) and "\n" in dom.visible_text(code).strip("\n")


def _block(element: Element, depth: int, first: bool) -> list[Block]:
    tag = element.tag
    if tag == "pre":
        return _pre(element)
    if tag in ("ul", "ol", "menu", "dir"):
        return _list(element, depth)
    if tag == "li":  # outside a list
        return _list_of([element], False, 1, depth)
    if tag == "table":
        return _table(element, depth)
    if tag == "blockquote":
        return [Block("quote", _prefix(_join(_blocks(element, depth + 1), tight=False), "> "))]
    if tag == "hr":
        return [Block("hr", "---")]
    if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
        return _heading(element, depth)
    if tag not in ("p", "div") or dom.is_display_formula(element):
        source = dom.tex(element) if dom.is_formula(element) or dom.is_display_formula(element) else None
        if source is not None:
            return [Block("math", _display(source))]
    if "whitespace-pre-wrap" in dom.classes(element) and not len(element) and element.text:
        return [Block("p", element.text.strip("\n"))]  # text that a person typed: shown as it is
    return _blocks(element, depth + 1, first=first)


def _display(source: str) -> str:
    return "$$\n" + re.sub(r"\n\s*\n", "\n", source) + "\n$$"


def _heading(element: Element, depth: int) -> list[Block]:
    marks = "#" * int(element.tag[1])
    if _holds_block(element):
        return _blocks(element, depth + 1)
    text = re.sub(r"(?<![^ ])(#+)$", r"\\\1", paragraph(_pieces(element, depth), " "))
    return [Block("h", f"{marks} {text}".rstrip(" "))]


def _pre(element: Element) -> list[Block]:
    if element.tag == "pre":
        language, code, before, after = dom.code_block(element)
    else:
        code, before, after = dom.visible_text(element).removesuffix("\n"), "", ""
        language = dom.language_of(element)
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    block = Block("pre", f"{fence}{language}\n{code}\n{fence}" if code else f"{fence}{language}\n{fence}")
    return [*_flush([(TEXT, before)]), block, *_flush([(TEXT, after)])]


def _join(blocks: list[Block], *, tight: bool) -> str:
    """Put blocks under each other, with a blank line between them unless they are parts of a tight list item."""
    out: list[str] = []
    other = False  # two lists in a row need different markers, or they would be read as one
    for at, block in enumerate(blocks):
        if at:
            out.append("\n" if tight and _may_touch(blocks[at - 1], block) else "\n\n")
        other = bool(at) and block.kind in ("ul", "ol") and blocks[at - 1].kind == block.kind and not other
        out.append(_list_text(block, other) if block.items else block.text)
    return "".join(out)


def _may_touch(above: Block, below: Block) -> bool:
    """Whether markdown reads two blocks right without a blank line between them."""
    if below.kind == "ol" and above.kind == "p":
        return below.number == 1 and bool(below.items[0])
    if below.kind == "ul" and above.kind == "p":
        return bool(below.items[0])
    return below.kind in ("ul", "ol", "pre") and above.kind in ("p", "pre", "h") and not below.loose


def _list_text(block: Block, other: bool) -> str:
    """The list with its markers: `-` and `1.`, or `*` and `1)` in the `other` style."""
    lines = []
    for number, item in enumerate(block.items, block.number):
        marker = ("*" if other else "-") if block.kind == "ul" else f"{number}{')' if other else '.'}"
        lines.append(f"{marker} {item}" if item else marker)
    return ("\n\n" if block.loose else "\n").join(lines)


def _prefix(text: str, mark: str) -> str:
    bare = mark.rstrip(" ")
    return "\n".join(mark + line if line else bare for line in text.split("\n"))


# ------------------------------------------------------------------------------------------------ lists and tables
def _list(element: Element, depth: int) -> list[Block]:
    if depth > DEEPEST:
        return _flush([(TEXT, dom.visible_text(element))])
    items: list[Element] = []
    if element.text and element.text.strip():
        items.append(_item(element.text))
    for child in list(element):
        tail, child.tail = child.tail, None
        if dom.is_debris(child):
            pass
        elif child.tag == "li":
            items.append(child)
        else:  # a list right inside a list, as word processors write it: part of the item above
            if not items:
                items.append(_item(""))
            items[-1].append(child)
        if tail and tail.strip():
            items.append(_item(tail))
    return _list_of(items, element.tag == "ol", _start(element), depth)


def _start(element: Element) -> int:
    start = element.get("start") or "1"
    return int(start) if start.isascii() and start.isdigit() and len(start) <= 9 else 1


def _item(text: str) -> Element:
    item = etree.Element("li")
    item.text = text
    return item


def _list_of(items: list[Element], ordered: bool, number: int, depth: int) -> list[Block]:
    loose = any(child.tag == "p" for item in items for child in item)
    texts = []
    for at, item in enumerate(items):
        width = len(f"{number + at}. ") if ordered else len("- ")
        blocks = _blocks(item, depth + 1)
        if blocks and blocks[0].kind == "hr":  # `- ---` would be one rule
            blocks[0] = Block("hr", "___")
        texts.append(_indent(_join(blocks, tight=not loose), " " * width))
    return [Block("ol" if ordered else "ul", items=tuple(texts), number=number, loose=loose)] if texts else []


def _indent(text: str, by: str) -> str:
    return "\n".join(by + line if line and at else line for at, line in enumerate(text.split("\n")))


def _table(element: Element, depth: int) -> list[Block]:
    """A pipe table whose first row is the head; text that stands outside of cells comes before it."""
    rows: list[list[Element]] = []
    around: list[Block] = []
    _collect_rows(element, rows, around, depth)
    width = max(map(len, rows), default=0)
    if not width:
        return around
    texts = [[_cell(cell, depth) for cell in row] + [""] * (width - len(row)) for row in rows]
    aligns = [_align([row[column] for row in rows if column < len(row)]) for column in range(width)]
    lines = [_row(texts[0]), _row(aligns), *map(_row, texts[1:])]
    return [*around, Block("table", "\n".join(lines))]


def _collect_rows(element: Element, rows: list[list[Element]], around: list[Block], depth: int) -> None:
    around += _flush([(TEXT, element.text or "")])
    for child in element:
        if child.tag in ("thead", "tbody", "tfoot", "colgroup"):
            _collect_rows(child, rows, around, depth)
        elif child.tag in ("td", "th"):  # a row lost its tag
            rows.append([child])
        elif child.tag == "tr":
            around += _flush([(TEXT, (child.text or "") + " ".join(each.tail or "" for each in child))])
            cells = [each for each in child if each.tag in ("td", "th")]
            if cells:
                rows.append(cells)
            for each in child:
                if each.tag not in ("td", "th") and not dom.is_debris(each):
                    around += _loose(each, depth)
        elif child.tag != "col" and not dom.is_debris(child):
            around += _loose(child, depth)
        around += _flush([(TEXT, child.tail or "")])


def _loose(element: Element, depth: int) -> list[Block]:
    """What stands in a table but in no cell of it."""
    return _block(element, depth, False) if element.tag in _BLOCK else _blocks(element, depth + 1)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _align(cells: list[Element]) -> str:
    """The delimiter row's entry for a column, from its first cell."""
    found = re.search(r"text-align:\s*(\w+)", cells[0].get("style") or "")
    align = found[1] if found else cells[0].get("align") or ""
    return {"left": ":---", "center": ":---:", "right": "---:"}.get(align.lower(), "---")


def _cell(cell: Element, depth: int) -> str:
    if depth > DEEPEST:
        text = paragraph([(TEXT, dom.visible_text(cell))], "<br>")
    elif _holds_block(cell):
        text = "<br>".join(line for line in _join(_blocks(cell, depth + 1), tight=True).split("\n") if line)
    else:
        text = paragraph(_pieces(cell, depth), "<br>")
    return text.replace("|", "\\|")


# ------------------------------------------------------------------------------------------------ inline
def _pieces(element: Element, depth: int) -> list[Piece]:
    """Everything inside an element without blocks, as pieces of one paragraph."""
    run: list[Piece] = []
    _children(element, run, depth)
    return run


def _children(element: Element, run: list[Piece], depth: int) -> None:
    if depth > DEEPEST:
        run.append((TEXT, dom.visible_text(element)))
        return
    if element.text:
        run.append((TEXT, element.text))
    for child in element:
        if not dom.is_debris(child):
            _inline(child, run, depth + 1)
        if child.tail:
            run.append((TEXT, child.tail))


def _inline(element: Element, run: list[Piece], depth: int) -> None:
    """Add one inline element to the pieces."""
    tag = element.tag
    if tag in _CODE:
        run.append((CODE, dom.visible_text(element)))
    elif tag == "br":
        run.append((BREAK, ""))
    elif tag in _EMPHASIS:
        run.append((OPEN, _EMPHASIS[tag]))
        _children(element, run, depth)
        run.append((CLOSE, _EMPHASIS[tag]))
    elif tag == "a" and element.get("href") is not None:
        _link(element, run, depth)
    elif tag == "img":
        run.append((RAW, _image(element)))
    elif tag == "input":
        run.append((RAW, "[x] " if element.get("checked") is not None else "[ ] "))
    elif dom.is_formula(element) and (source := dom.tex(element)) is not None:
        run.append((RAW, "$" + re.sub(r"\s*\n\s*", " ", source) + "$"))
    elif tag in _TAGS_KEPT or _is_unknown(tag):
        run.append((RAW, _start_tag(element)))
        _children(element, run, depth)
        run.append((RAW, f"</{tag}>"))
    else:
        _children(element, run, depth)


def _link(element: Element, run: list[Piece], depth: int) -> None:
    target, title = element.get("href") or "", element.get("title") or ""
    shown = dom.visible_text(element)
    if not title and shown == target and _AUTOLINK.match(target):
        run.append((RAW, f"<{target}>"))
    elif not title and target == f"mailto:{shown}" and re.fullmatch(r"[\w.+\-]+@[\w\-]+(\.[\w\-]+)+", shown, re.ASCII):
        run.append((RAW, f"<{shown}>"))
    else:
        run.append((OPEN, "link"))
        _children(element, run, depth)
        run.append((CLOSE, link_end(target, title)))


def _image(element: Element) -> str:
    alt = paragraph([(TEXT, element.get("alt") or "")], " ")
    alt = re.sub(r"(?<!\\)([\[\]])", r"\\\1", alt)
    return f"![{alt}" + link_end(element.get("src") or "", element.get("title") or "")


def _is_unknown(tag: object) -> bool:
    """A name that is no HTML, such as the `string` of an unescaped `List<String>`: its tag is text worth keeping."""
    return isinstance(tag, str) and tag not in _KNOWN


def _start_tag(element: Element) -> str:
    attributes = "".join(f' {name!s}="{value!s}"' for name, value in element.attrib.items())
    return f"<{element.tag}{attributes}>"
