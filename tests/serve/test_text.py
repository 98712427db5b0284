"""Text from token ids: what comes out bit by bit is what the whole decodes to."""

import functools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from serve_tiny import tokenizer

from vicuna.serve.engines.text import AnswerText, Detokenizer, StopScanner

TEXT = st.text(alphabet=st.sampled_from("ab é你🙂\u0301ß\n.</s> ÀUSER:"), max_size=40) | st.text(max_size=30)


@functools.cache
def byte_level() -> Any:
    return tokenizer()


@functools.cache
def metaspace() -> Any:
    """SentencePiece-like: spaces as ▁, unknown characters as bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(["the quick brown fox. how are you? fine, thank you!"] * 3, trainer)
    return backend


def decoders_of(kind: str) -> tuple[Any, Any]:
    if kind == "byte-level":
        words = byte_level()
        return (
            lambda text: words(text, add_special_tokens=False).input_ids,
            lambda ids: words.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
        )
    backend = metaspace()
    return lambda text: backend.encode(text).ids, lambda ids: backend.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
@settings(max_examples=150, deadline=None)
@given(text=TEXT, prompt=st.sampled_from(["", "Hello:", "你好"]), data=st.data())
def test_text_in_steps_is_the_text_of_the_whole(kind: str, text: str, prompt: str, data: Any) -> None:
    encode, decode = decoders_of(kind)
    context, ids = encode(prompt), encode(text)
    stream, shown, rest = Detokenizer(decode, context), "", list(ids)
    while rest:
        size = data.draw(st.integers(1, 3))
        shown += stream.push(rest[:size])
        rest = rest[size:]
    shown += stream.flush()
    assert decode(context) + shown == decode(context + ids)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(2, 399), max_size=30))
def test_bytes_that_make_no_character_come_out_as_the_whole_shows_them(ids: list[int]) -> None:
    _, decode = decoders_of("byte-level")
    stream = Detokenizer(decode)
    pieces = [stream.push([each]) for each in ids] + [stream.flush()]
    assert "".join(pieces) == decode(ids)
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="ab#", max_size=30),
    stops=st.lists(st.text(alphabet="ab#", min_size=1, max_size=4), max_size=3),
    sizes=st.lists(st.integers(1, 5), min_size=30, max_size=30),
)
def test_a_stop_string_ends_the_text_wherever_pieces_are_cut(text: str, stops: list[str], sizes: list[int]) -> None:
    scanner, shown, rest = StopScanner(stops), "", text
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        shown += scanner.push(piece)
        if scanner.stopped:
            break
    else:
        shown += scanner.flush()
    # The first stop that is complete ends the text; of those that end at the same place, the one that begins first.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert scanner.stopped == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
        assert not any(stop in shown for stop in stops)


def test_white_space_that_a_template_puts_before_an_answer_is_not_shown() -> None:
    encode, decode = decoders_of("byte-level")
    context, ids = encode("ASSISTANT:"), encode(" Hi there")
    answer = AnswerText(Detokenizer(decode, context), [], " ")
    assert "".join(answer.push([each]) for each in ids) + answer.flush() == "Hi there"


@settings(max_examples=100, deadline=None)
@given(text=TEXT, cut=st.integers(0, 30))
def test_an_answer_taken_over_goes_on_where_the_shown_text_ended(text: str, cut: int) -> None:
    assume("zz" not in text)  # the stop string
    encode, decode = decoders_of("byte-level")
    context, ids = encode("ASSISTANT:"), encode(" " + text)
    first = AnswerText(Detokenizer(decode, context), ["zz"], " ")
    shown = "".join(first.push([each]) for each in ids[:cut])
    second = AnswerText(Detokenizer(decode, context), ["zz"], " ", skip=len(shown))
    shown += second.push(ids[:cut]) + "".join(second.push([each]) for each in ids[cut:]) + second.flush()
    assert shown == text
