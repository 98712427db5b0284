"""HTML of chat pages → the markdown it was made from.

The converter walks lxml's tree once. Code stays byte for byte, formulas come back as TeX, the page's own controls go,
and text is escaped only where markdown would misread it. `vicuna.data.generic` holds an independent converter for pages
of unknown origin behind the same signature.
"""

import re

from vicuna.data import dom
from vicuna.data.blocks import Block, indent, join, prefix
from vicuna.data.debris import COPIED
from vicuna.data.dom import Element
from vicuna.data.inline import paragraph
from vicuna.data.pieces import TEXT, Piece
from vicuna.data.spans import DEEPEST, add_inline, pieces_of
from vicuna.data.tree import TooDeepError, parse, text_only

_BLOCK_NAMES = """address article aside blockquote body caption center col colgroup dd details dialog dir div dl dt
fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol optgroup option p pre
section summary table tbody td tfoot th thead tr ul"""
_BLOCK = frozenset(_BLOCK_NAMES.split())
_COUNTER_BEFORE = re.compile(r"\A\s*\d{1,3} / \d{1,3}\s*(?=<(?:div|article|section)\b)", re.IGNORECASE)
_CONTROLS = re.compile("[\x01-\x08\x0b\x0e-\x1f]")
_HIDE_CONTROLS = {code: 0xF0000 + code for code in (*range(1, 9), 11, *range(14, 32))}
_SHOW_CONTROLS = {hidden: code for code, hidden in _HIDE_CONTROLS.items()}


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
        return paragraph([(TEXT, text_only(html))])
    if root is None:
        return ""
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
            add_inline(child, run, depth)
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
        return _list_of([_blocks(element, depth + 1)], any(child.tag == "p" for child in element), None)
    if tag == "table":
        return _table(element, depth)
    if tag == "blockquote":
        return [Block("quote", prefix(join(_blocks(element, depth + 1), tight=False), "> "))]
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
    text = re.sub(r"(?<![^ ])(#+)$", r"\\\1", paragraph(pieces_of(element, depth), " "))
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


# ------------------------------------------------------------------------------------------------ lists and tables
def _list(element: Element, depth: int) -> list[Block]:
    """A list; what stands in it but in no item, as word processors write it, belongs to the item above."""
    if depth > DEEPEST:
        return _flush([(TEXT, dom.visible_text(element))])
    items: list[list[Block]] = []
    if stray := _flush([(TEXT, element.text or "")]):
        items.append(stray)
    for child in element:
        if child.tag == "li":
            items.append(_blocks(child, depth + 1))
        elif not dom.is_debris(child) and (stray := _loose(child, depth + 1)):
            items[-1:] = [items[-1] + stray] if items else [stray]
        if stray := _flush([(TEXT, child.tail or "")]):
            items.append(stray)
    loose = any(each.tag == "p" for child in element for each in child)
    return _list_of(items, loose, _start(element) if element.tag == "ol" else None)


def _start(element: Element) -> int:
    start = element.get("start") or "1"
    return int(start) if start.isascii() and start.isdigit() and len(start) <= 9 else 1


def _list_of(items: list[list[Block]], loose: bool, number: int | None) -> list[Block]:
    """
    Args:
        items: the blocks of each item.
        loose: blank lines stand between the items.
        number: of the first item; None for bullets.
    """
    texts = []
    for at, blocks in enumerate(items):
        width = len("- ") if number is None else len(f"{number + at}. ")
        if blocks and blocks[0].kind == "hr":  # `- ---` would be one rule
            blocks = [Block("hr", "___"), *blocks[1:]]
        texts.append(indent(join(blocks, tight=not loose), " " * width))
    if not texts:
        return []
    kind, first = ("ul", 1) if number is None else ("ol", number)
    return [Block(kind, items=tuple(texts), number=first, loose=loose)]


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
    if depth > DEEPEST:
        around += _flush([(TEXT, dom.visible_text(element))])
        return
    around += _flush([(TEXT, element.text or "")])
    for child in element:
        if child.tag in ("thead", "tbody", "tfoot", "colgroup"):
            _collect_rows(child, rows, around, depth + 1)
        elif child.tag in ("td", "th"):  # a row lost its tag
            rows.append([child])
        elif child.tag == "tr":
            around += _flush([(TEXT, (child.text or "") + " ".join(each.tail or "" for each in child))])
            cells = [each for each in child if each.tag in ("td", "th")]
            if cells:
                rows.append(cells)
            for each in child:
                if each.tag not in ("td", "th") and not dom.is_debris(each):
                    around += _loose(each, depth + 1)
        elif child.tag != "col" and not dom.is_debris(child):
            around += _loose(child, depth + 1)
        around += _flush([(TEXT, child.tail or "")])


def _loose(element: Element, depth: int) -> list[Block]:
    """What stands in a table but in no cell, or in a list but in no item."""
    if element.tag in _BLOCK:
        return _block(element, depth, False)
    if _holds_block(element):
        return _blocks(element, depth + 1)
    run: list[Piece] = []
    add_inline(element, run, depth)
    return _flush(run)


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
        text = "<br>".join(line for line in join(_blocks(cell, depth + 1), tight=True).split("\n") if line)
    else:
        text = paragraph(pieces_of(cell, depth), "<br>")
    return text.replace("|", "\\|")
