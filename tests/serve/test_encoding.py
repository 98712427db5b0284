"""JSON as it travels: the same whichever library reads or writes it, and nothing that a client sends breaks it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.encoding import decode, encode

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_as_it_was_also_by_others(value: Any) -> None:
    assert decode(encode(value)) == json.loads(encode(value)) == value


def test_a_lone_surrogate_becomes_a_question_mark_on_its_way_out_and_is_no_error_on_its_way_in() -> None:
    assert encode({"text": "a\ud800b"}) == b'{"text":"a?b"}'
    assert decode(b'{"text": "a\\ud800b"}') == {"text": "a\ud800b"}


@pytest.mark.parametrize("text", [b"", b"{", b"nonsense", b'{"a": 1} {"b": 2}', b"\xff"])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (whichever library says it)
        decode(text)
