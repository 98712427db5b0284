"""Text from token ids: what comes out bit by bit is what the whole decodes to."""

import functools
import itertools
import time
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from serve_tiny import TEXT as SENTENCES
from serve_tiny import tokenizer

from vicuna.serve.engines.detokenize import ByteFallback, ByteLevel, Detokenizing, Stream, Window
from vicuna.serve.engines.text import AnswerText, StopScanner

SPECIAL = ["<unk>", "<s>", "</s>"]
ADDED = ["<tool>", " two words ", "é", "▁x"]
CHARACTERS = [
    "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "你好，世界", "さようなら", "안녕",
    "e\u0301o\u0308\u0323", "สวัสดี", "שלום", "مرحبا بك", "\u202eabc\u202c",
    "a  b", "   ", "\n\n", "\t", "\r\n", "\ufffd", "\u00a0", "\ufeff", "\x00",
    "<0x41>", "▁", "Ġ", "</s>", "fox", " dog",
]  # fmt: skip


def _of(backend: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    words.add_tokens(ADDED)
    return words


def _sentencepiece(decoder: Any, *, fallback: bool = True) -> Any:
    """A vocabulary as SentencePiece makes it: spaces as U+2581, and a token for each byte."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256) if fallback)]
    pieces = sorted(trained.get_vocab().items(), key=lambda each: each[1])
    vocabulary = {token: index for index, token in enumerate([*tokens, *(piece for piece, _ in pieces)])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=fallback))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoder
    backend.add_special_tokens(SPECIAL)
    return _of(backend)


@functools.cache
def words_of(kind: str) -> Any:
    from tokenizers import decoders

    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    match kind:
        case "byte-level":
            words = tokenizer()
            words.add_tokens(ADDED)
            return words
        case "llama 2":
            return _sentencepiece(decoders.Sequence([*fallback, decoders.Strip(" ", 1, 0)]))
        case "gemma":
            return _sentencepiece(decoders.Sequence(fallback))
        case "metaspace":
            return _sentencepiece(decoders.Metaspace(), fallback=False)
    return _sentencepiece(decoders.WordPiece(cleanup=False), fallback=False)


EXACT = {"byte-level": ByteLevel, "llama 2": ByteFallback, "gemma": ByteFallback, "metaspace": Window, "other": Window}
kinds = pytest.mark.parametrize("kind", EXACT)


@functools.cache
def detokenizing(kind: str) -> Detokenizing:
    return Detokenizing(words_of(kind))


def decode(kind: str, ids: list[int]) -> str:
    text: str = words_of(kind).decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def encode(kind: str, text: str) -> list[int]:
    ids: list[int] = words_of(kind)(text, add_special_tokens=False).input_ids
    return ids


def pieces(stream: Stream | AnswerText, ids: list[int], sizes: list[int]) -> list[str]:
    """What comes out when ids are pushed in groups of these sizes, again and again."""
    out, rest = [], iter(ids)
    for size in itertools.cycle(sizes):
        group = list(itertools.islice(rest, size))
        if not group:
            return [*out, stream.flush()]
        out.append(stream.push(group))
    raise AssertionError


texts = st.lists(st.sampled_from(CHARACTERS) | st.text(max_size=4), max_size=10).map("".join)
groups = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    """Any ids, also of bytes that make no character, special ones, and some that the tokenizer does not have."""
    anything = st.integers(0, len(words_of(kind)) + 3)
    a_byte = st.integers(len(SPECIAL), len(SPECIAL) + 255)
    written = st.sampled_from(CHARACTERS).map(lambda text: encode(kind, text))
    some = st.lists(st.lists(anything, max_size=6) | st.lists(a_byte, max_size=6) | written, max_size=8)
    return some.map(lambda parts: list(itertools.chain(*parts)))


@kinds
def test_a_tokenizer_is_read_in_the_way_that_it_decodes(kind: str) -> None:
    assert type(detokenizing(kind).begin()) is EXACT[kind]


@kinds
@settings(max_examples=150, deadline=None)
@given(data=st.data(), prompt=st.sampled_from(["", "Hello", "a fox </s> jumps over the lazy dog and on and on"]))
def test_the_pieces_of_any_ids_are_what_all_of_them_decode_to(kind: str, data: Any, prompt: str) -> None:
    before, ids = encode(kind, prompt), data.draw(ids_of(kind))
    shown = "".join(pieces(detokenizing(kind).begin(before), ids, data.draw(groups)))
    assert decode(kind, before) + shown == decode(kind, before + ids)


@kinds
@settings(max_examples=100, deadline=None)
@given(text=texts, sizes=groups)
def test_the_pieces_of_a_text_are_the_text_with_no_space_lost_or_doubled(
    kind: str, text: str, sizes: list[int]
) -> None:
    before, ids = encode(kind, "Hi:"), encode(kind, text)
    shown = "".join(pieces(detokenizing(kind).begin(before), ids, sizes))
    assert decode(kind, before) + shown == decode(kind, before + ids)
    if kind in ("llama 2", "gemma") and not any(token in text for token in [*SPECIAL, *ADDED, "▁"]):
        assert shown == " " + text or not text


@kinds
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_was_shown_does_not_depend_on_how_the_ids_were_grouped(kind: str, data: Any) -> None:
    ids, cut = data.draw(ids_of(kind)), data.draw(st.integers(0, 30))
    one_by_one, at_once = detokenizing(kind).begin(), detokenizing(kind).begin()
    assert "".join(one_by_one.push([each]) for each in ids[:cut]) == at_once.push(ids[:cut])
    assert "".join(one_by_one.push([each]) for each in ids[cut:]) == at_once.push(ids[cut:])


@pytest.mark.parametrize("kind", ["byte-level", "llama 2", "gemma"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_that_the_prompt_has_begun_is_the_answers(kind: str, cut: int) -> None:
    spelled = {
        Detokenizing(words_of(kind))._spelling[index]: index for index in range(len(words_of(kind)) - len(ADDED))
    }
    ids = [spelled[bytes([byte])] for byte in "é🦊".encode()]
    stream = detokenizing(kind).begin(ids[: 2 + cut])
    assert stream.push(ids[2 + cut :]) + stream.flush() == "🦊"


def test_characters_of_bytes_come_out_as_soon_as_it_is_certain_what_they_are() -> None:
    byte_level = detokenizing("byte-level").begin()
    assert [byte_level.push([each]) for each in encode("byte-level", "ж€")] == ["", "ж", "", "", "€"]
    fallback = detokenizing("gemma").begin()
    assert [fallback.push([each]) for each in encode("gemma", "🦊 ")[-5:]] == ["", "", "", "", "🦊 "]


@pytest.mark.parametrize("kind", EXACT)
def test_a_long_run_without_a_character_costs_no_more_for_each_token_than_a_short_one(kind: str) -> None:
    lone = encode(kind, "ж")[-1:]  # the last byte of a character, or a token for what is unknown
    decoded = 0

    def counting(ids: list[int]) -> str:
        nonlocal decoded
        decoded += len(ids)
        return decode(kind, ids)

    stream = Window(counting)
    shown = "".join(pieces(stream, lone * 2000, [1]))
    assert shown == decode(kind, lone * 2000) or kind in ("llama 2", "gemma")  # not read by a window
    assert decoded < 2000 * 20
    assert "".join(pieces(detokenizing(kind).begin(), lone * 20_000, [1])) == decode(kind, lone * 20_000)


# ------------------------------------------------------------------------------------------- stop strings
def first_stop(text: str, stops: list[str]) -> int | None:
    """Where the stop string begins that is complete first; of those that end at the same place the longest."""
    for end in range(1, len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return min(begins)
    return None


@settings(max_examples=600, deadline=None)
@given(
    text=st.text(alphabet="ab#", max_size=30),
    stops=st.lists(st.text(alphabet="ab#", min_size=1, max_size=6), max_size=4),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
@example(text="xabcd", stops=["abcd", "bc"], sizes=[30])
@example(text="aaab", stops=["aab"], sizes=[1])
def test_a_stop_string_ends_the_text_wherever_pieces_are_cut(text: str, stops: list[str], sizes: list[int]) -> None:
    scanner, shown, rest = StopScanner(stops), "", text
    for size in itertools.cycle(sizes):
        piece, rest = rest[:size], rest[size:]
        shown += scanner.push(piece)
        assert text.startswith(shown)
        if scanner.stopped or not rest:
            break
    assert scanner.push("more") == "" or not scanner.stopped
    at = first_stop(text, stops)
    assert scanner.stopped == (at is not None)
    if at is not None:
        assert shown + scanner.flush() == text[:at]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab#", max_size=30), stops=st.lists(st.text("ab#", min_size=1, max_size=6), max_size=4))
def test_only_what_may_become_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    assume(first_stop(text, stops) is None)
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(letter) for letter in text)
    held = text[len(shown) :]
    ends = [text[at:] for at in range(len(text)) if any(stop.startswith(text[at:]) for stop in stops)]
    assert held == max(ends, key=len, default="")
    assert scanner.flush() == held


@pytest.mark.parametrize("size", [1, 100_000])
def test_long_stop_strings_that_nearly_come_again_and_again_cost_little(size: int) -> None:
    stops = ["a" * (900 + index) + "b" for index in range(16)]
    scanner, began = StopScanner(stops), time.process_time()
    shown = "".join(scanner.push("a" * size) for _ in range(100_000 // size))
    assert time.process_time() - began < 30  # about a second; a scan of everything each time takes minutes
    assert len(shown) == 100_000 - 915
    assert scanner.push("b") == ""
    assert scanner.stopped


# ------------------------------------------------------------------------------------------- answers
def test_white_space_that_a_template_puts_before_an_answer_is_not_shown() -> None:
    context, ids = encode("byte-level", "ASSISTANT:"), encode("byte-level", " Hi there")
    answer = AnswerText(detokenizing("byte-level").begin(context), [], " ")
    assert "".join(answer.push([each]) for each in ids) + answer.flush() == "Hi there"


def test_a_stop_string_is_found_across_the_borders_of_tokens() -> None:
    ids = encode("byte-level", "one 🙂 two USER: three")
    answer = AnswerText(detokenizing("byte-level").begin(), [" USER:"], "")
    assert "".join(pieces(answer, ids, [1])) == "one 🙂 two"
    assert answer.stopped


@kinds
@settings(max_examples=60, deadline=None)
@given(data=st.data(), cut=st.integers(0, 30))
def test_an_answer_taken_over_goes_on_where_the_shown_text_ended(kind: str, data: Any, cut: int) -> None:
    context, ids = encode(kind, "ASSISTANT:"), data.draw(ids_of(kind))
    whole = AnswerText(detokenizing(kind).begin(context), ["fo"], " ")
    expected = "".join(pieces(whole, ids, [1]))
    first = AnswerText(detokenizing(kind).begin(context), ["fo"], " ")
    shown = "".join(first.push([each]) for each in ids[:cut])
    second = AnswerText(detokenizing(kind).begin(context), ["fo"], " ", skip=len(shown))
    shown += second.push(ids[:cut]) + "".join(pieces(second, ids[cut:], [1]))
    assert shown == expected
    assert second.stopped == whole.stopped
