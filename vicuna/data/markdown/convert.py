"""HTML of chat pages → the markdown it was made from.

The converter walks lxml's tree once. Code stays byte for byte, formulas come back as TeX, the page's own controls go,
and text is escaped only where markdown would misread it. `vicuna.data.markdown.generic` holds an independent converter
for pages of unknown origin behind the same signature.
"""

import re
from collections.abc import Callable

from vicuna.data.debris import COPIED
from vicuna.data.markdown import cells, codeblocks, dom, formulas
from vicuna.data.markdown.blocks import Block, indent, join, list_of, prefix
from vicuna.data.markdown.codeblocks import Code
from vicuna.data.markdown.dom import Element
from vicuna.data.markdown.inline import paragraph, text_paragraph
from vicuna.data.markdown.pieces import BREAK, TEXT, Piece
from vicuna.data.markdown.spans import DEEPEST, INLINE, add_inline, pieces_of
from vicuna.data.markdown.tree import TooDeepError, parse, text_only

_BLOCK_NAMES = """address article aside blockquote body caption center col colgroup dd details dialog dir div dl dt
fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol optgroup option p pre
section summary table tbody td tfoot th thead tr ul"""
_BLOCK = frozenset(_BLOCK_NAMES.split())
_COUNTER_BEFORE = re.compile(r"\A\s*\d{1,3} / \d{1,3}\s*(?=<(?:div|article|section)\b)", re.IGNORECASE)
_CONTROLS = [chr(code) for code in (*range(1, 9), 11, *range(14, 32))]
_HIDE_CONTROLS = {ord(control): 0xF0000 + ord(control) for control in _CONTROLS}
_SHOW_CONTROLS = {hidden: code for code, hidden in _HIDE_CONTROLS.items()}
_CODE_BOX = re.compile(r"^(?!pre|code )\S* .*(?:code|contain-inline-size|highlight)|^code-block ", re.IGNORECASE)
"""Tag and classes of a box that holds a code block and its label."""


def html_to_markdown(html: str) -> str:
    """Convert one page or fragment of a page.

    Args:
        html: HTML of any quality; plain text is read as HTML too, so ask `vicuna.data.pages.is_page` first.

    Returns:
        CommonMark with tables and strikethrough (GFM) and formulas as `$...$` and `$$...$$`; no line end at the end.
        Malformed HTML is read as browsers read it, and no visible text is lost.
    """
    html = _COUNTER_BEFORE.sub("", html)
    hidden = any(map(html.__contains__, _CONTROLS))
    try:
        root = parse(html.translate(_HIDE_CONTROLS) if hidden else html)
    except TooDeepError:
        return paragraph([(TEXT, text_only(html))])
    if root is None:
        return ""
    dom.hide_controls(root, html)
    formulas.restore_scripts(root)
    blocks = _blocks(root, 0, first=True)
    if blocks and blocks[-1].kind == "p":
        blocks[-1:] = [Block("p", text)] if (text := COPIED.sub("", blocks[-1].text).rstrip()) else []
    text = join(blocks, tight=False)
    return text.translate(_SHOW_CONTROLS) if hidden else text


# ------------------------------------------------------------------------------------------------ blocks
def _blocks(element: Element, depth: int, *, first: bool = False) -> list[Block]:
    """The blocks inside an element; text between them becomes paragraphs.

    Args:
        first: nothing visible came before on this page, so a `2 / 3` counter would be the page's own.
    """
    if depth > DEEPEST:
        return _flush([(TEXT, dom.visible_text(element))])
    text = element.text
    if not len(element):
        return _text_blocks(text)
    out: list[Block] = []
    run: list[Piece] = []
    if text and not _is_blank(text):
        run.append((TEXT, text))
    for child in element:
        first = first and not out and not any(value.strip() for _, value in run)
        if first and dom.is_counter(child):
            pass
        elif (blocks := _block(child, depth, first)) is None:
            add_inline(child, run, depth)
        else:
            if run:
                out += _flush(run)
                run = []
            out += blocks
        if (tail := child.tail) and (run or not _is_blank(tail)):
            run.append((TEXT, tail))
    return out + _flush(run) if run else out


def _flush(run: list[Piece]) -> list[Block]:
    text = paragraph(run)
    return [Block("p", text)] if text else []


def _text_blocks(text: str | None) -> list[Block]:
    """The paragraph that a text without markup becomes."""
    written = text_paragraph(text) if text and not _is_blank(text) else ""
    return [Block("p", written)] if written else []


def _is_blank(text: str) -> bool:
    """Whether a text is nothing but white space that a browser would collapse."""
    return text.isspace() and text.isascii()


def _block(element: Element, depth: int, first: bool = False) -> list[Block] | None:
    """The blocks that an element becomes; None where it is part of a paragraph."""
    tag = element.tag
    if tag in INLINE and not len(element):
        return _code(codeblocks.read_stray(element)) if tag == "code" and codeblocks.is_stray(element) else None
    if write := _WRITERS.get(tag):
        return write(element, depth)
    if tag in dom.UNSEEN:
        return None
    if formulas.is_display(element) and (source := formulas.tex(element)) is not None:
        return [Block("math", _display(source))]
    if tag in _BLOCK:
        return _box(element, depth, first)
    if not len(element) or formulas.is_formula(element):
        return None
    if tag == "code" and codeblocks.is_stray(element):
        return _code(codeblocks.read_stray(element))
    return _box(element, depth, first) if _holds_block(element) else None


def _holds_block(element: Element) -> bool:
    return any(each.tag in _BLOCK or formulas.is_display(each) for each in element.iterdescendants())


def _box(element: Element, depth: int, first: bool) -> list[Block]:
    """A `div` or the like; the label of a code block that stands in one with it goes into the block."""
    if not len(element) and element.text and "whitespace-pre-wrap" in dom.classes(element):
        return [Block("p", element.text.strip("\n"))]  # text that a person typed: shown as it is
    blocks = _blocks(element, depth + 1, first=first)
    if _is_labelled(blocks) and next(element.iterdescendants("p", "pre", "code")).tag != "p":
        sure = any(_CODE_BOX.search(f"{each.tag} {dom.classes(each)}") for each in (element, *element))
        language = codeblocks.label_above(blocks[0].text, blocks[1].language, sure=sure)
        if language is not None:
            return [blocks[1]._replace(language=language, labelled=True)]
    return blocks


def _is_labelled(blocks: list[Block]) -> bool:
    """Whether these are a line of text and a code block that has no label yet."""
    return len(blocks) == 2 and blocks[0].kind == "p" and blocks[1].kind == "pre" and not blocks[1].labelled


def _paragraph(element: Element, depth: int) -> list[Block]:
    return _blocks(element, depth + 1)


def _display(source: str) -> str:
    return "$$\n" + re.sub(r"\n\s*\n", "\n", source) + "\n$$"


def _heading(element: Element, depth: int) -> list[Block]:
    marks = "#" * int(element.tag[1])
    if len(element) and _holds_block(element):
        return _blocks(element, depth + 1)
    text = re.sub(r"(?<![^ ])(#+)$", r"\\\1", paragraph(pieces_of(element, depth), " "))
    return [Block("h", f"{marks} {text}".rstrip(" "))]


def _pre(element: Element, _: int) -> list[Block]:
    return _code(codeblocks.read_pre(element))


def _code(code: Code) -> list[Block]:
    block = Block("pre", code.text, language=code.language)
    if not code.before and not code.after:
        return [block]
    return [*_text_blocks(code.before), block, *_text_blocks(code.after)]


def _quote(element: Element, depth: int) -> list[Block]:
    return [Block("quote", prefix(join(_blocks(element, depth + 1), tight=False), "> "))]


def _rule(_: Element, __: int) -> list[Block]:
    return [Block("hr", "---")]


# ------------------------------------------------------------------------------------------------ lists and tables
def _list(element: Element, depth: int) -> list[Block]:
    """A list; what stands in it but in no item, as word processors write it, belongs to the item above."""
    if depth > DEEPEST:
        return _flush([(TEXT, dom.visible_text(element))])
    items: list[list[Block]] = []
    loose = False
    if stray := _text_blocks(element.text):
        items.append(stray)
    for child in element:
        loose = loose or (len(child) > 0 and _has_paragraph(child))
        if child.tag == "li":
            items.append(_blocks(child, depth + 1))
        elif not dom.is_debris(child) and (stray := _loose(child, depth + 1)):
            items[-1:] = [items[-1] + stray] if items else [stray]
        if (tail := child.tail) and (stray := _text_blocks(tail)):
            items.append(stray)
    return list_of(items, loose, _start(element) if element.tag == "ol" else None)


def _lonely_item(element: Element, depth: int) -> list[Block]:
    """A list item outside of a list."""
    return list_of([_blocks(element, depth + 1)], _has_paragraph(element), None)


def _has_paragraph(item: Element) -> bool:
    return "p" in [child.tag for child in item]


def _start(element: Element) -> int:
    start = element.get("start") or "1"
    return int(start) if start.isascii() and start.isdigit() and len(start) <= 9 else 1


def _terms(element: Element, depth: int) -> list[Block]:
    """A list of definitions: each term, and on the lines below what it means."""
    if not all(_is_term(child) for child in element) or (element.text or "").strip():
        return _blocks(element, depth + 1)
    out: list[Block] = []
    run: list[Piece] = []
    for child in element:
        if child.tag == "dt" and run:
            out += _flush(run)
            run = []
        run += [*([(BREAK, "")] if run else []), *pieces_of(child, depth + 1)]
    return out + _flush(run)


def _is_term(element: Element) -> bool:
    return element.tag in ("dt", "dd") and not _holds_block(element) and not (element.tail or "").strip()


def _section(element: Element, depth: int) -> list[Block]:
    """A section; the one at the end that holds the footnotes becomes their definitions."""
    notes = element.get("data-footnotes") is not None and element.find("ol")
    if notes is False or notes is None:
        return _box(element, depth, False)
    out: list[Block] = []
    for item in notes:
        name = (item.get("id") or "").rpartition("fn-")[2]
        out.append(Block("note", f"[^{name}]: " + indent(join(_blocks(item, depth + 1), tight=False), "    ")))
    return out


def _table(element: Element, depth: int) -> list[Block]:
    """A pipe table whose first row is the head; text that stands outside of cells comes before it."""
    if depth > DEEPEST:
        return _flush([(TEXT, dom.visible_text(element))])
    table = cells.read(element)
    out: list[Block] = []
    for stray in table.stray:
        out += _text_blocks(stray) if isinstance(stray, str) else _loose(stray, depth + 1)
    text = cells.pipe_table(cells.grid(table.rows), lambda cell: _cell(cell, depth))
    return [*out, Block("table", text)] if text else out


def _loose(element: Element, depth: int) -> list[Block]:
    """What stands in a table but in no cell, or in a list but in no item."""
    blocks = _block(element, depth)
    if blocks is not None:
        return blocks
    run: list[Piece] = []
    add_inline(element, run, depth)
    return _flush(run)


def _cell(cell: Element, depth: int) -> str:
    if depth > DEEPEST:
        text = paragraph([(TEXT, dom.visible_text(cell))], "<br>")
    elif len(cell) and _holds_block(cell):
        text = "<br>".join(line for line in join(_blocks(cell, depth + 1), tight=True).split("\n") if line)
    else:
        text = paragraph(pieces_of(cell, depth), "<br>")
    return text.replace("|", "\\|")


_WRITERS: dict[str, Callable[[Element, int], list[Block]]] = {
    "p": _paragraph,
    "pre": _pre,
    "ul": _list,
    "ol": _list,
    "menu": _list,
    "dir": _list,
    "li": _lonely_item,
    "dl": _terms,
    "table": _table,
    "blockquote": _quote,
    "hr": _rule,
    "section": _section,
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), _heading),
}
