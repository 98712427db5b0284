"""Places where an answer may be cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.data.places import best_place, code_blocks

PARTS = st.lists(
    st.sampled_from(["Words and. ", "word ", "\n\n", "\n", "```\ncode\n\nmore\n```\n", "````md\n```\nx\n```\n````\n",
                     "~~~\n", "你好。", "e\u0301\u0302", "👩\u200d💻"]), max_size=30
).map("".join)  # fmt: skip


def blocks_of(text: str) -> list[str]:
    return [text[block.start : block.end].lstrip() for block in code_blocks(text)]


def test_code_blocks_are_found_by_their_fences():
    text = (
        "a\n\n```python\nx\n```\nb\n~~~\n```\n~~~\n````\n```\n````\n```c` and ``` in a line\n   ```\n   y\n   ```\nend"
    )
    assert blocks_of(text) == ["```python\nx\n```", "~~~\n```\n~~~", "````\n```\n````", "```\n   y\n   ```"]


def test_a_code_block_that_is_never_closed_reaches_the_end():
    assert blocks_of("a\n```\nb\n\nc") == ["```\nb\n\nc"]


def test_white_space_before_a_code_block_may_not_be_cut_off_from_it():
    text = "a\n\n```\nb\n```"
    (block,) = code_blocks(text)
    assert (text[: block.start], text[block.end :]) == ("a", "")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("0123456789 one.\n\ntwo\nthree. f|our five six", "0123456789 one."),
        ("0123456789 one. two\nthree. f|our five six", "0123456789 one. two"),
        ("0123456789 one. two three. f|our five six", "0123456789 one. two three."),
        ('0123456789 one, two "three." f|our five six', '0123456789 one, two "three."'),
        ("0123456789 one, two three, four f|ive six", "0123456789 one, two three, four"),
        ("0123456789 one, two three:\n\nf|our five", "0123456789 one, two"),
        ("0123456789 one\n\ntwo\n\nthree f|our five", "0123456789 one\n\ntwo"),
        ("你好你好你好你好你好你好你好。你好你好你好|你好你好你好你好你好你好", "你好你好你好你好你好你好你好。"),
    ],
)
def test_a_place_between_paragraphs_comes_before_one_between_lines_sentences_and_words(text, left):
    assert text.replace("|", "")[: best_place(text.replace("|", ""), 0, text.index("|"), [])] == left


@given(PARTS, st.integers(0, 80), st.integers(0, 80), st.booleans())
def test_a_place_has_text_on_both_sides_and_is_in_no_code_block_and_in_no_character(text, start, length, characters):
    blocks = code_blocks(text)
    place = best_place(text, start, start + length, blocks, characters=characters)
    if place is None:
        return
    assert start < place <= start + length
    assert text[start:place].strip()
    assert text[place:].strip()
    assert not any(block.start < place < block.end for block in blocks)
    assert text[place] not in "\u0301\u0302\u200d"
    assert text[place - 1] != "\u200d"
    if not characters:
        assert text[place].isspace() or text[place - 1] == "。"
