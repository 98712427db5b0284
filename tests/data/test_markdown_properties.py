"""What holds for every page: a markdown reader sees the page's text again, and nothing raises."""

import html
import re

from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from vicuna.data.config import MarkdownConfig
from vicuna.data.markdown import html_to_markdown
from vicuna.data.markdown.emphasis import with_delimiters
from vicuna.data.markdown.escape import escape
from vicuna.data.markdown.inline import _tidy
from vicuna.data.markdown.pieces import BREAK, CLOSE, CODE, OPEN, RAW, TEXT
from vicuna.data.markdown.plain import plain
from vicuna.data.pages import to_text

READER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
TRICKY = """word x_y __init__ * ** _ ~~ ~ ` `` ``` ~~~ < <div> </s> & &amp; &copy; # ## - + 1. 2) > | [x] [a](b) ![i](u)
\\ \\* ! $5 : (q) = === --- -- *** é 中文 “q” http://a_b.c a*b*c [ref]: |---| . ,"""

raw_text = st.lists(st.sampled_from([*TRICKY.split(), "\n", "\xa0"]), min_size=1, max_size=6).map(" ".join)
text = raw_text.map(lambda value: html.escape(value, quote=False))
code_text = st.text(st.sampled_from("ab `*_\n\t#<&~-"), max_size=30)


def element(name: str, inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return inner.map(lambda value: f"<{name}>{value}</{name}>")


def joined(parts: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[str]:
    return st.lists(parts, min_size=1, max_size=most).map(" ".join)


inline = st.recursive(
    text | element("code", st.sampled_from(["x", "a`b", "``", "*z*", "\\", "a|b"])),
    lambda inner: st.one_of(
        *(element(name, joined(inner)) for name in ("strong", "em", "del")),
        joined(text).map(lambda value: f'<a href="/u(1)_x">{value}</a>'),
    ),
    max_leaves=5,
)
paragraph = element("p", joined(inline, 4))
code_block = code_text.map(lambda value: f"<pre><code>{html.escape(value, quote=False)}\n</code></pre>")
cells = st.lists(element("td", joined(inline)), min_size=2, max_size=2).map(lambda pair: f"<tr>{''.join(pair)}</tr>")
table = st.lists(cells, min_size=1, max_size=3).map(lambda rows: f"<table>{''.join(rows)}</table>")
blocks = st.recursive(
    paragraph | code_block | element("h2", text.map(lambda value: value.replace("\n", " "))),
    lambda inner: st.one_of(
        element("blockquote", joined(inner)),
        element("ul", joined(element("li", joined(inline | inner)))),
        element("ol", joined(element("li", joined(inner)))),
    ),
    max_leaves=6,
)


def words(page: str) -> str:
    """Visible text without code blocks and white space."""
    tree = BeautifulSoup(page, "html.parser")
    for pre in tree.find_all("pre"):
        pre.decompose()
    return re.sub(r"\s+", "", tree.get_text())


def code(page: str) -> list[str]:
    return [pre.get_text().removesuffix("\n") for pre in BeautifulSoup(page, "html.parser").find_all("pre")]


def structure(page: str) -> list[str]:
    """The page's blocks in order, paragraphs left out (tight lists have none)."""
    names = ["ul", "ol", "li", "blockquote", "pre", "h2", "table", "tr"]
    return [each.name for each in BeautifulSoup(page, "html.parser").find_all(names)]


@settings(max_examples=300, deadline=None)
@given(joined(blocks | table))
def test_a_reader_of_the_markdown_sees_the_text_the_code_and_the_blocks_of_the_page(page):
    again = READER.render(html_to_markdown(page))
    assert words(again) == words(page)
    assert code(again) == code(page)
    assert structure(again) == structure(page)


@settings(max_examples=200, deadline=None)
@given(joined(blocks | table))
def test_converting_what_was_converted_changes_nothing(page):
    markdown = html_to_markdown(page)
    for pages in ("chat", "any"):
        assert to_text(markdown, "assistant", MarkdownConfig(pages=pages, debris=False)) == markdown


kinds = st.sampled_from(["strong", "em", "del"])
PLAINLY = """a bc 1 (x) , . : ! * _d e_f 2* & &amp; [q] ](r) < ~ - #"""
plain_text = st.lists(st.sampled_from([*PLAINLY.split(), "\n", "-\n"]), max_size=4)
piece = plain_text.map(lambda parts: (TEXT, " ".join(parts))) | st.sampled_from(
    [(CODE, "c d"), (CODE, "`"), (RAW, "$x$"), (TEXT, "w"), (TEXT, " "), (BREAK, "")]
)
both = [(OPEN, "em"), (OPEN, "strong"), (TEXT, "w"), (CLOSE, "strong"), (CLOSE, "em")]
spans = st.recursive(
    st.lists(piece, max_size=3) | st.just(both),
    lambda inner: st.one_of(
        st.tuples(kinds, inner).map(lambda pair: [(OPEN, pair[0]), *pair[1], (CLOSE, pair[0])]),
        inner.map(lambda parts: [(OPEN, "link"), *parts, (CLOSE, "](u)")]),
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
    ),
    max_leaves=5,
)


@settings(max_examples=1_000, deadline=None)
@given(spans, st.booleans())
def test_the_short_way_writes_what_the_long_way_would_have_written(pieces, lines):
    line_break = "  \n" if lines else "<br>"
    short = plain(pieces, lines=lines)
    assert short is None or short == escape(with_delimiters(_tidy(pieces, line_break)))


@settings(max_examples=300, deadline=None)
@given(spans, st.sampled_from([" ", "\n", " \n\t"]))
def test_white_space_at_the_end_of_a_paragraph_changes_nothing(pieces, space):
    assert _tidy([*pieces, (TEXT, space)], "  \n") == _tidy(pieces, "  \n")


TAGS = """<div> </div> <p> </p> <ul> <li> </li> </ul> <table> <tr> <td> </table> <pre> </pre> <code> </code> <b> </b>
<i> </a> <a~href=x> <br> <span~class=katex> <span~class=katex-display> </span> <h2> <blockquote> <svg> </svg> <!-- -->
<!x <?x </ < & &#x41; &#0; <math> <annotation~encoding=application/x-tex> <textarea> <foo>"""
NAMES = [name.replace("~", " ") for name in TAGS.split()]
tag_soup = st.lists(st.sampled_from([*NAMES, "\x00", "\x07", "\ud800"]) | st.text(max_size=8), max_size=20)


@settings(max_examples=500, deadline=None)
@given(tag_soup)
def test_nothing_raises(parts):
    html_to_markdown("".join(parts))


HIDING = ("<svg", "</svg", "<!", "<textarea")
SAFE = [name for name in NAMES if name.endswith(">") and not name.startswith(HIDING)]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(SAFE) | st.integers(0, 999).map(lambda n: f"word{n}"), max_size=20))
def test_tags_in_any_order_lose_no_word(parts):
    markdown = html_to_markdown("".join(parts))
    assert [part for part in parts if part.startswith("word") and part not in markdown] == []
