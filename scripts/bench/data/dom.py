"""Markdown → the HTML of ChatGPT's answers, as its pages of 2023, 2024 and 2025 had it.

The elements, classes and controls are those that people's exports show; the writing is markdown-it-py's, so that
what the markdown means is decided by a reader of markdown and not by our converter.
"""

import functools
import random
import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import formulas
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

YEARS = (2023, 2024, 2025)
MARK = re.compile("(?P<kind>[\ue000\ue001])(?P<number>\\d+)\ue002")
"""A formula's place in markdown: \\ue000 in a line, \\ue001 on a line of its own, then its number and \\ue002."""
_ICON = (
    '<svg stroke="currentColor" fill="none" stroke-width="2" viewBox="0 0 24 24" stroke-linecap="round" '
    'class="h-4 w-4" '
    'height="1em" width="1em" xmlns="http://www.w3.org/2000/svg"><path d="M8 4h8v16H8z"></path></svg>'
)


@dataclass(frozen=True)
class Look:
    """How one page is made."""

    year: int
    dark: bool
    header: int
    """Which of the year's forms of a code block's header."""
    compact: bool
    """Code without the highlighter's spans, as for languages that it does not know."""

    @classmethod
    def drawn(cls, rng: random.Random, year: int | None = None) -> "Look":
        """A look at random."""
        return cls(year or rng.choice(YEARS), rng.random() < 0.3, rng.randrange(2), rng.random() < 0.2)


def page(markdown: str, tex: Sequence[str], look: Look) -> str:
    """The outer HTML of an answer's element, as an exporter stores it."""
    body = _READER.render(markdown, {"look": look})
    body = re.sub("<p[^>]*>(\ue001\\d+\ue002)</p>", r"\1", body)
    body = MARK.sub(lambda mark: _formula(mark, tex, look), body)
    return _wrapped(body, look)


def _formula(mark: re.Match[str], tex: Sequence[str], look: Look) -> str:
    display = mark["kind"] == "\ue001"
    made = formulas.to_html(tex[int(mark["number"])], display)
    if look.year == 2023:
        return (
            f'<div class="math math-display">{made}</div>'
            if display
            else f'<span class="math math-inline">{made}</span>'
        )
    return made


def _wrapped(body: str, look: Look) -> str:
    theme = "dark" if look.dark else "light"
    if look.year == 2025:
        return f'<div class="markdown prose dark:prose-invert w-full break-words {theme}">{body}</div>'
    inner = f'<div class="markdown prose w-full break-words dark:prose-invert {theme}">{body}</div>'
    if look.year == 2023 or look.header:
        return inner
    outer = (
        '<div data-message-author-role="assistant" data-message-id="6f1c9d2e-53b7-4a30-9c35-0d2d5b1a7e44" dir="auto" '
    )
    outer += 'class="min-h-[20px] text-message flex flex-col items-start whitespace-pre-wrap break-words">'
    return f'{outer}<div class="flex w-full flex-col gap-1">{inner}</div></div>'


def escape(text: str) -> str:
    """What a browser escapes when it writes text as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\u00a0", "&nbsp;")


class _Writer(RendererHTML):
    """Writes the tokens of markdown as a chat page's elements."""

    def renderToken(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:  # noqa: N802
        token, look = tokens[idx], env["look"]
        if look.year == 2025 and token.nesting == 1 and token.map:
            token.attrSet("data-start", str(17 * token.map[0]))
            token.attrSet("data-end", str(17 * token.map[1]))
        if look.year == 2025 and token.type in ("th_open", "td_open"):
            token.attrSet("data-col-size", "sm")
        return super().renderToken(tokens, idx, options, env).replace(">\n", ">")

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return escape(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        start = ' data-start="3" data-end="9"' if env["look"].year == 2025 else ""
        return f"<code{start}>{escape(tokens[idx].content)}</code>"

    def hardbreak(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "<br>" if env["look"].year != 2025 else '<br data-start="5" data-end="8">'

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        if env["look"].year != 2023:
            tokens[idx].attrSet("rel", "noreferrer" if env["look"].year == 2024 else "noopener")
        tokens[idx].attrSet("target", "_new")
        return self.renderToken(tokens, idx, options, env)

    def hr(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "<hr>"

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        if env["look"].year != 2025:
            return "<table>"
        return (
            '<div class="_tableContainer_80l1q_1"><div tabindex="-1" class="_tableWrapper_80l1q_14 group flex w-fit '
            'flex-col-reverse"><table class="w-fit min-w-(--thread-content-width)" data-start="0" data-end="99">'
        )

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        if env["look"].year != 2025:
            return "</table>"
        button = f'<button aria-label="Copy Table" class="hover:bg-token-bg-tertiary rounded p-1">{_ICON}</button>'
        return (
            '</table><div class="sticky h-0 self-end end-(--thread-content-margin) select-none"><div class="absolute '
            f'end-0 flex items-end" style="height: 33px;"><span class="" data-state="closed">{button}</span>'
            f"</div></div>"
            "</div></div>"
        )

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        token = tokens[idx]
        language = (token.info.split() or [""])[0]
        return _code_box(token.content, language, env["look"])

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return _code_box(tokens[idx].content, "", env["look"])


def _code_box(code: str, language: str, look: Look) -> str:
    inner = escape(code) if look.compact or not language else _highlighted(language, code)
    return {2023: _box_2023, 2024: _box_2024, 2025: _box_2025}[look.year](inner, language, look)


def _box_2023(inner: str, language: str, look: Look) -> str:
    box = ("bg-black mb-4 rounded-md", "bg-black rounded-md mb-4")[look.header]
    header = "flex items-center relative text-gray-200 bg-gray-800 px-4 py-2 text-xs font-sans"
    header += ("", " justify-between rounded-t-md")[look.header]
    name = (f'<span class="">{language}</span>', f"<span>{language}</span>")[look.header] if language else ""
    known = f" language-{language}" if language else ""
    return (
        f'<pre><div class="{box}"><div class="{header}">{name}<button class="flex ml-auto gap-2">{_ICON}Copy '
        f"code</button>"
        f'</div><div class="p-4 overflow-y-auto"><code class="!whitespace-pre hljs{known}">{inner}</code></div>'
        f"</div></pre>"
    )


def _box_2024(inner: str, language: str, look: Look) -> str:
    known = f" language-{language}" if language else ""
    button = f'<button class="flex gap-1 items-center">{_ICON}Copy code</button>'
    if look.header:
        button = f'<span class="" data-state="closed">{button}</span>'
    return (
        '<pre><div class="dark bg-gray-950 rounded-md border-[0.5px] border-token-border-medium"><div class="flex '
        "items-center relative text-token-text-secondary bg-token-main-surface-secondary px-4 py-2 text-xs font-sans "
        f'justify-between rounded-t-md"><span>{language}</span><div class="flex items-center">{button}</div></div>'
        f'<div class="overflow-y-auto p-4 text-left undefined" dir="ltr"><code class="!whitespace-pre '
        f'hljs{known}">{inner}'
        "</code></div></div></pre>"
    )


def _box_2025(inner: str, language: str, look: Look) -> str:
    known = f' class="whitespace-pre! language-{language}"' if language else ' class="whitespace-pre!"'
    copy = f'<button class="flex gap-1 items-center select-none py-1" aria-label="Copy">{_ICON}Copy code</button>'
    edit = f'<span class="" data-state="closed"><button class="flex items-center gap-1 py-1 select-none">{_ICON}Edit'
    edit = edit + "</button></span>" if look.header else ""
    surface = "bg-token-sidebar-surface-primary"
    return (
        f'<pre class="overflow-visible!" data-start="8" data-end="93"><div class="contain-inline-size '
        f"rounded-2xl relative "
        f'{surface}"><div class="flex items-center text-token-text-secondary px-4 py-2 text-xs font-sans '
        f"justify-between "
        f'h-9 {surface} select-none rounded-t-2xl">{language}</div><div class="sticky top-9"><div '
        f'class="absolute end-0 '
        'bottom-0 flex h-9 items-center pe-2"><div class="bg-token-bg-elevated-secondary '
        "text-token-text-secondary flex "
        f'items-center gap-4 rounded-sm px-2 font-sans text-xs">{copy}{edit}</div></div></div><div '
        f'class="overflow-y-auto '
        f'p-4" dir="ltr"><code{known}><span>{inner}</span></code></div></div></pre>'
    )


_CLASSES = {
    "Comment": "hljs-comment", "Keyword.Constant": "hljs-literal", "Keyword.Type": "hljs-type",
    "Keyword": "hljs-keyword", "Name.Function": "hljs-title function_", "Name.Class": "hljs-title class_",
    "Name.Builtin": "hljs-built_in", "Name.Attribute": "hljs-attr", "Name.Tag": "hljs-name",
    "Name.Decorator": "hljs-meta", "Literal.String": "hljs-string", "Literal.Number": "hljs-number",
    "Name.Variable": "hljs-variable",
}  # fmt: skip
"""Pygments' kinds of tokens -> highlight.js' classes."""


@functools.lru_cache(512)
def _class_of(kind: str) -> str:
    return next((name for known, name in _CLASSES.items() if kind.startswith(f"Token.{known}")), "")


@functools.lru_cache(20_000)
def _highlighted(language: str, code: str) -> str:
    """Code with the spans that a highlighter leaves; as it is where Pygments would change a byte."""
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return escape(code)
    spans: list[tuple[str, str]] = []
    for kind, text in lexer.get_tokens(code):
        name = _class_of(str(kind)) if text.strip() else ""
        if spans and spans[-1][0] == name:
            text = spans.pop()[1] + text
        spans.append((name, text))
    if "".join(text for _, text in spans) != code:
        return escape(code)
    return "".join(f'<span class="{name}">{escape(text)}</span>' if name else escape(text) for name, text in spans)


_READER = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Writer).enable(["table", "strikethrough"])
