"""Tags are shown as text, code stays as it is, and nothing is lost on the way to the page and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.web import markup

PIECES = [
    "<",
    ">",
    "&",
    "&lt;",
    "&amp;",
    "amp;",
    "lt;",
    "<b>",
    "</b>",
    "`",
    "``",
    "```",
    "~~~",
    "\n",
    "\n\n",
    " ",
    "\\",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join))
def test_what_comes_back_from_the_page_is_what_was_written(text: str) -> None:
    assert markup.written(markup.shown(text)) == text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("what is <b>?", "what is &lt;b>?"),
        ("</div><!-- x --><?php", "&lt;/div>&lt;!-- x -->&lt;?php"),
        ("a < b and 1<2", "a < b and 1<2"),
        ("the entity &lt; itself", "the entity &amp;lt; itself"),
        ("AT&T &copy;", "AT&T &copy;"),
    ],
)
def test_tags_outside_of_code_are_escaped_and_nothing_else(text: str, markdown: str) -> None:
    assert markup.shown(text) == markdown


@pytest.mark.parametrize(
    "code",
    [
        "```html\n<b>\n```",
        "~~~\n<b>\n\n<i>\n~~~",
        "use `<b>` here",
        "use ``<b> ` <i>`` here",
        "1. one\n   ```\n   <b>\n   ```",
        "> ```\n> <b>\n> ```",
        "```html\n<b> and no end yet",
    ],
)
def test_code_is_left_alone(code: str) -> None:
    assert markup.shown(code) == code


@pytest.mark.parametrize(
    "text", ["a ` alone <b>", "\\`<b>\\`", "one `\n\n<b>` two", "```\nx\n```\n<b>", "```one``` <b>"]
)
def test_what_only_looks_like_code_is_escaped(text: str) -> None:
    assert markup.shown(text) == text.replace("<b>", "&lt;b>")
