"""How much structure a body may have, found before it is parsed."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.serve.faults import Fault
from vicuna.serve.net.shape import MOST_BRACKETS, MOST_COMMAS, MOST_STRINGS, check_shape

SIZE = 4 * 1024 * 1024
DEPTH = 64


def verdict(body: bytes, depth: int = DEPTH) -> str | None:
    """The code of the refusal; "" where the body may be parsed."""
    try:
        check_shape(body, depth)
    except Fault as fault:
        return fault.code
    return ""


def listed(value: bytes) -> bytes:
    """As many of them as the body's size allows."""
    return b"[" + b",".join([value] * (SIZE // (len(value) + 1) - 1)) + b"]"


@pytest.mark.parametrize(
    "body",
    [
        listed(b"[]"),
        listed(b"{}"),
        listed(b"0"),
        listed(b'""'),
        listed(b'{"":0}'),
        listed(b"[" * 60 + b"]" * 60),
        b"[" * SIZE,
        b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
        b'{"a":' * (SIZE // 5),
        b"[" * 100 + b'"' * SIZE,
    ],
    ids=lambda body: body[:12].decode(),
)
def test_endless_structure_is_refused_and_quickly(body):
    began = time.process_time()
    assert verdict(body) in ("body_too_complex", "body_too_deep")
    assert time.process_time() - began < 0.1  # about 0.01 on an idle machine; parsing takes up to 0.2


@pytest.mark.parametrize(
    "text", ["[{" * 100_000, '["\\' * 100_000, ",[" * 400_000, '\\"[' * 100_000, "\\" * 99_999 + "["]
)
def test_brackets_in_a_text_do_not_count(text):
    assert verdict(json.dumps({"messages": [{"content": text}] * 2, "stop": ["["] * 100}).encode()) == ""


def test_large_but_honest_requests_pass():
    chat = {"messages": [{"role": "user", "content": 'He said: "[{,}]"\\'}] * 10_000}
    assert verdict(json.dumps(chat).encode()) == ""
    assert verdict(json.dumps({"input": [list(range(140))] * 2048}).encode()) == ""


@pytest.mark.parametrize(
    ("most", "value"),
    [(MOST_BRACKETS, []), (MOST_STRINGS, ""), (MOST_COMMAS + 2, 0)],
    ids=["lists", "strings", "commas"],
)
def test_the_bounds_are_exact(most, value):
    assert verdict(json.dumps([value] * (most - 1)).encode()) == ""
    assert verdict(json.dumps([value] * (most + 1)).encode()) == "body_too_complex"


VALUES = st.recursive(
    st.none() | st.integers() | st.text('ab"\\[]{},ü\n', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[', max_size=3), inner, max_size=4),
)


def depth_of(value: object) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0)
    return 0


@given(VALUES, st.integers(1, 6), st.booleans())
def test_a_body_is_too_deep_exactly_if_its_value_is(value, depth, ascii_only):
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert verdict(body, depth) == ("body_too_deep" if depth_of(value) > depth else "")


@given(st.binary(max_size=200) | st.text('"\\[]{},a', max_size=200).map(str.encode))
def test_what_is_no_json_is_left_to_the_parser_or_refused_but_breaks_nothing(body):
    assert verdict(body, 3) in ("", "body_too_deep")
