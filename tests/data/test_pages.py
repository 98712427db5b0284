"""Which messages are pages, and which text is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.data.config import MarkdownConfig
from vicuna.data.debris import without_debris
from vicuna.data.pages import is_page, to_text

PAGE = '<div class="markdown prose w-full break-words dark:prose-invert light"><p>Hi</p></div>'


@pytest.mark.parametrize(
    "text",
    [
        PAGE,
        "2 / 3" + PAGE,
        PAGE[:-12],
        '<div class="flex"><div class="min-w-0">' + PAGE + "</div></div>",
        '<div class="py-2 px-3 border border-red-500">network error</div>',
        '<article data-message-author-role="assistant"><p>Hi</p></article>',
        "<p>Hi</p>\n<ul><li>a</li></ul>",
    ],
)
def test_an_answer_in_a_pages_wrapper_is_a_page(text):
    assert is_page(text, "assistant")


@pytest.mark.parametrize(
    "text",
    [
        "#include <stdio.h>\nvector<int> v; if (a<b && c>d) x *= 2;",
        "<div class='card'><p>Why is this not centred?</p></div>",
        '<div class="prose">What does this class do?</div>',
        "<p>Is this valid?</p>",
        "What is <div class='markdown prose'>?",
        "a < b",
        "<s>old</s>",
        "",
    ],
)
def test_what_people_type_is_not_a_page(text):
    assert not is_page(text, "user")
    assert to_text(text, "user", MarkdownConfig()) == text


def test_an_answer_in_markdown_is_left_byte_for_byte():
    text = "Use `<div>`:\n\n```html\n<p>a</p>\n```\n\n\n\n* b_c  \n&amp; \\* <br>"
    assert to_text(text, "assistant", MarkdownConfig()) == text


@given(st.text())
def test_text_without_a_tag_is_left_byte_for_byte(text):
    plain = text.replace("<", "").replace(" / ", "")
    assert to_text(plain, "assistant", MarkdownConfig()) == plain


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("2 / 3What is this?", "What is this?"),
        ("1 / 2 cup of sugar", "1 / 2 cup of sugar"),
        ("1 / 2x + 3 = 4", "1 / 2x + 3 = 4"),
        ("5 / 3Really?", "5 / 3Really?"),
        ("Tell me more.Share Prompt", "Tell me more."),
        ("Share Prompt\nTell me more.", "Tell me more."),
        ("How does Share Prompt work?", "How does Share Prompt work?"),
        ("Done.Copy12 chars / 3 words", "Done."),
    ],
)
def test_only_the_controls_own_debris_is_removed_from_text(text, clean):
    assert without_debris(text) == clean
    assert to_text(text, "user", MarkdownConfig(debris=False)) == text


ESCAPED = "&lt;div class=&quot;markdown prose&quot;&gt;&lt;p&gt;a &amp;lt; b&lt;/p&gt;&lt;/div&gt;"


def test_a_page_that_was_escaped_as_a_whole_is_a_page():
    assert to_text(ESCAPED, "assistant", MarkdownConfig()) == "a < b"


@pytest.mark.parametrize(
    "text",
    [
        f"Write {ESCAPED}",
        f"{ESCAPED} like this",
        f"{ESCAPED} <b>",
        "&lt;div class=&quot;card&quot;&gt;a&lt;/div&gt;",
        "&lt;p&gt;a&lt;/p&gt;",
    ],
)
def test_text_that_only_holds_escaped_tags_is_left_alone(text):
    assert to_text(text, "assistant", MarkdownConfig()) == text


FOREIGN = "<h1>Bread</h1>\n<p>Mix <b>flour</b> and water.<br>Wait.</p>"


def test_html_of_unknown_origin_is_converted_where_asked_for():
    assert to_text(FOREIGN, "assistant", MarkdownConfig(pages="any")) == (
        "# Bread\n\nMix **flour** and water.  \nWait."
    )
    assert to_text("<b>Bread</b> needs time.<br>", "assistant", MarkdownConfig()) == "<b>Bread</b> needs time.<br>"
    assert to_text("<b>Bread</b> needs time.<br>", "assistant", MarkdownConfig(pages="any")) == "**Bread** needs time."


@pytest.mark.parametrize(
    "text",
    [
        '<div align="center">\n\n# Title\n\n</div>',
        "<details>\n\n- a\n- b\n\n</details>",
        "<b>Note</b>: use `x`",
        "<T> is a type <p>",
        "<p>\n```html\n<p></p>\n```\n</p>",
        "a <p>b</p>",
    ],
)
def test_markdown_that_begins_with_a_tag_is_no_html(text):
    assert to_text(text, "assistant", MarkdownConfig(pages="any")) == text


def test_what_people_type_is_never_read_as_html_of_unknown_origin():
    assert to_text(FOREIGN, "user", MarkdownConfig(pages="any")) == FOREIGN
