"""Pages in the forms that chat services used from 2023 to 2026, and the markdown they were made from."""

import random
import re
from pathlib import Path

import pytest

from vicuna.data.config import MarkdownConfig
from vicuna.data.markdown import generic, html_to_markdown
from vicuna.data.pages import is_page, to_text

PAGES = sorted((Path(__file__).parent / "golden").glob("*.html"))
SOURCES = {page.stem: page.read_text().rstrip("\n") for page in PAGES}
TRUTHS = {page.stem: page.with_suffix(".md").read_text().rstrip("\n") for page in PAGES}
ROUNDS = 5_000


@pytest.mark.parametrize("name", SOURCES)
def test_a_page_becomes_the_markdown_it_was_made_from(name):
    assert html_to_markdown(SOURCES[name]) == TRUTHS[name]
    assert is_page(SOURCES[name], "assistant")


@pytest.mark.parametrize("pages", ["chat", "any"])
@pytest.mark.parametrize("name", SOURCES)
def test_converting_what_was_converted_changes_nothing(name, pages):
    assert to_text(TRUTHS[name], "assistant", MarkdownConfig(pages=pages)) == TRUTHS[name]


@pytest.mark.parametrize("name", ["2023-code", "2023-maths", "2024-claude", "2025-maths"])
def test_a_converter_made_from_other_parts_finds_the_same_words_and_code(name):
    """The general converter knows fewer buttons and another style, so words and code blocks count, not every mark."""
    ours, theirs = html_to_markdown(SOURCES[name]), generic.html_to_markdown(SOURCES[name])
    blocks = re.compile("^```.*?^```$", re.DOTALL | re.MULTILINE)
    assert blocks.findall(ours) == blocks.findall(theirs)
    assert re.findall(r"\w+", ours) == re.findall(r"\w+", theirs)


# ------------------------------------------------------------------------------------------------ damage
CHUNK = re.compile(r"<button.*?</button>|<svg.*?</svg>|<div[^>]*role=.button.*?</div>|<[^>]*>|[^<]+", re.DOTALL)
"""Tags and text; a control stays whole, because what stands in it is not text of the page."""
TEXTS = [source for source in SOURCES.values() if not re.search("katex|MathJax|citation|footnote|languageName", source)]


def marked(page: str) -> list[str]:
    """The page's tags and text, each text replaced by a word of its own."""
    chunks = [chunk for chunk in CHUNK.findall(page) if "sr-only" not in chunk and "footer" not in chunk]
    kept = re.compile(r"<|\s*(?:python|bash|c\+\+|yaml|sql|php)\s*\Z", re.IGNORECASE)
    return [chunk if kept.match(chunk) else f" word{at}word " for at, chunk in enumerate(chunks)]


def damaged(chunks: list[str], rng: random.Random) -> list[str]:
    """The page with tags lost, doubled, moved or made up."""
    chunks = list(chunks)
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(chunks))
        tag = "<" in chunks[at]
        how = rng.randrange(5)
        if how == 0 and tag:
            del chunks[at]
        elif how == 1 and tag:
            chunks.insert(rng.randrange(len(chunks)), chunks[at])
        elif how == 2:
            chunks.insert(rng.randrange(len(chunks)), chunks.pop(at))
        elif how == 3:
            chunks.insert(
                at, rng.choice(["</div>", "<div>", "</p>", "<li>", "<b>", "</a>", "<td>", "<pre>", "<!-- -->"])
            )
        elif tag and how == 4:
            chunks[at] = re.sub('class="[^"]*"', "", chunks[at])
        if not chunks:
            return [" word "]
    return chunks


def test_damaged_pages_lose_no_word():
    lost = []
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        chunks = damaged(marked(rng.choice(TEXTS)), rng)
        page = "".join(chunks)
        markdown = html_to_markdown(page).replace("\\", "").lower()
        lost += [(seed, chunk) for chunk in chunks if "word" in chunk[:5] and chunk.strip() not in markdown]
    assert lost == []


def test_pages_cut_or_garbled_at_any_place_do_not_raise():
    sources = list(SOURCES.values())
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        page = list(rng.choice(sources))
        for _ in range(rng.randint(1, 30)):
            at = rng.randrange(len(page))
            page[at] = rng.choice(["<", ">", "</", "&", "\0", "'", '"', "", "&#x", "<!--", "\ud800", "`", "\n"])
        cut = "".join(page)[rng.randrange(len(page)) // 4 : len(page) - rng.randrange(len(page)) // 2]
        assert isinstance(html_to_markdown(cut), str)
