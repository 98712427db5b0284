"""Answers as the web page showed them: the markdown of this corpus as the HTML of ChatGPT's 2023 pages.

Knows exactly the markdown that the corpus uses: paragraphs, headings, lists (nested by indentation), block quotes,
tables, fenced code, and within a line code, bold, italic, links and hard breaks (two spaces at the line's end).
"""

import html
import re
from collections.abc import Callable

WRAPPER = '<div class="markdown prose w-full break-words dark:prose-invert light">'

ICON = (
    '<svg stroke="currentColor" fill="none" stroke-width="2" viewBox="0 0 24 24" class="h-4 w-4" height="1em">'
    '<rect x="8" y="2" width="8" height="4" rx="1" ry="1"></rect></svg>'
)

_ITEM = re.compile(r"(-|\d+\.) ")
_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<bold>[^*]+)\*\*|\*(?P<italic>[^*]+)\*|\[(?P<text>[^\]]+)\]\((?P<url>[^)]+)\)"
    r"|(?P<br> {2}\n)"
)
_HIGHLIGHT = re.compile(
    r"(?P<comment>#.*)|(?P<string>\"[^\"\n]*\")|(?P<number>\b\d+\b)"
    r"|(?P<keyword>\b(?:def|return|if|for|in|mkdir|mv)\b)|(?P<built_in>\b(?:print|len|range)\b)"
)

CodeBlock = Callable[[str, str], str]
"""(language, code) -> HTML."""


def page(markdown: str, code_block: CodeBlock | None = None) -> str:
    """The outer HTML of an answer's element.

    Args:
        markdown: the answer.
        code_block: how code blocks look; default `code_box`.
    """
    return f"{WRAPPER}{blocks(markdown, code_block or code_box)}</div>"


def code_box(language: str, code: str) -> str:
    """A code block as the page showed it: a header with the language and a copy button above the code."""
    return (
        '<pre><div class="bg-black mb-4 rounded-md"><div class="flex items-center relative text-gray-200 bg-gray-800 '
        f'px-4 py-2 text-xs font-sans"><span class="">{language}</span><button class="flex ml-auto gap-2">{ICON}'
        'Copy code</button></div><div class="p-4 overflow-y-auto">'
        f'<code class="!whitespace-pre hljs language-{language}">'
        f"{_highlighted(code)}</code></div></div></pre>"
    )


def old_code_box(language: str, code: str) -> str:
    """A code block as early exports had it: the header is bare text before the code."""
    return f"<pre>{language}Copy code<code>{html.escape(code, quote=False)}</code></pre>"


def blocks(markdown: str, code_block: CodeBlock) -> str:
    """Markdown blocks as HTML."""
    lines = markdown.split("\n")
    out: list[str] = []
    while lines:
        line = lines[0]
        if not line:
            lines.pop(0)
        elif line.startswith("```"):
            out.append(_code(lines, code_block))
        elif heading := re.match(r"#+ ", line):
            level = len(heading.group()) - 1
            out.append(f"<h{level}>{_inline(lines.pop(0)[level + 1 :])}</h{level}>")
        elif line.startswith("> "):
            quoted = _take(lines, lambda text: text.startswith("> "))
            out.append("<blockquote>" + blocks("\n".join(text[2:] for text in quoted), code_block) + "</blockquote>")
        elif line.startswith("| "):
            out.append(_table(_take(lines, lambda text: text.startswith("| "))))
        elif _ITEM.match(line):
            out.append(_list(lines, code_block))
        else:
            text = _take(lines, lambda text: bool(text) and not text.startswith("```"))
            out.append(f"<p>{_inline(chr(10).join(text))}</p>")
    return "".join(out)


def _take(lines: list[str], belongs: Callable[[str], bool]) -> list[str]:
    """Remove and return the leading lines that belong together."""
    taken = []
    while lines and belongs(lines[0]):
        taken.append(lines.pop(0))
    return taken


def _code(lines: list[str], code_block: CodeBlock) -> str:
    language = lines.pop(0)[3:]
    code = _take(lines, lambda text: text != "```")
    lines.pop(0)
    return code_block(language, "\n".join(code) + "\n")


def _list(lines: list[str], code_block: CodeBlock) -> str:
    """A list; it is loose (its items hold paragraphs) where an empty line stands between its lines."""
    ordered = lines[0][0].isdigit()
    items: list[list[str]] = []
    loose = False
    while lines:
        marker = _ITEM.match(lines[0])
        if marker and lines[0][0].isdigit() == ordered:
            items.append([lines.pop(0)[marker.end() :]])
        elif lines[0].startswith("  "):
            items[-1].append(lines.pop(0)[2 + ordered :])
        elif not lines[0] and len(lines) > 1 and (_ITEM.match(lines[1]) or lines[1].startswith("  ")):
            loose = True
            items[-1].append(lines.pop(0))
        else:
            break
    tag = "ol" if ordered else "ul"
    body = "".join(f"<li>{_item(item, loose, code_block)}</li>" for item in items)
    return f"<{tag}>{body}</{tag}>"


def _item(lines: list[str], loose: bool, code_block: CodeBlock) -> str:
    if loose:
        return blocks("\n".join(lines), code_block)
    return _inline(lines[0]) + blocks("\n".join(lines[1:]), code_block)


def _table(lines: list[str]) -> str:
    header, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    aligned = [' style="text-align: right;"' if cell.endswith(":") else "" for cell in rule]

    def row(cells: list[str], tag: str) -> str:
        made = (f"<{tag}{style}>{_inline(cell)}</{tag}>" for cell, style in zip(cells, aligned, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(header, 'th')}</thead><tbody>{body}</tbody></table>"


def _inline(text: str) -> str:
    out: list[str] = []
    at = 0
    for match in _INLINE.finditer(text):
        out += [html.escape(text[at : match.start()], quote=False), _marked(match)]
        at = match.end()
    return "".join(out) + html.escape(text[at:], quote=False)


def _marked(match: re.Match[str]) -> str:
    if match["code"]:
        return f"<code>{html.escape(match['code'], quote=False)}</code>"
    if match["bold"]:
        return f"<strong>{_inline(match['bold'])}</strong>"
    if match["italic"]:
        return f"<em>{_inline(match['italic'])}</em>"
    if match["br"]:
        return "<br>"
    return f'<a href="{html.escape(match["url"])}" target="_new">{_inline(match["text"])}</a>'


def _highlighted(code: str) -> str:
    """Code with the spans that a syntax highlighter leaves in a page."""
    out: list[str] = []
    at = 0
    for match in _HIGHLIGHT.finditer(code):
        piece = html.escape(match.group(), quote=False)
        out += [
            html.escape(code[at : match.start()], quote=False),
            f'<span class="hljs-{match.lastgroup}">{piece}</span>',
        ]
        at = match.end()
    return "".join(out) + html.escape(code[at:], quote=False)
