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


def test_conversion_can_be_switched_off():
    assert to_text(PAGE, "assistant", MarkdownConfig(pages="never")) == PAGE
