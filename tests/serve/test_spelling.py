"""The bytes of tokens: together they are the text, whatever characters the tokens cut through."""

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_tiny import TEXT, tokenizer

pytest.importorskip("torch")
from vicuna.serve.engines.spelling import Spelling


@functools.cache
def byte_level() -> Any:
    return tokenizer()


@functools.cache
def byte_fallback() -> Any:
    """A tokenizer as Llama 2's: U+2581 for spaces, and a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()],
    )
    bytes_of_all = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_of_all])
    backend.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("made", [byte_level, byte_fallback])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_bytes_of_a_texts_tokens_are_the_text(made: Any, text: str) -> None:
    words = made()
    ids = words(text, add_special_tokens=False).input_ids
    spelling = Spelling(words)
    assert b"".join(spelling[index] for index in ids) == text.encode()


def test_a_special_token_is_spelled_by_its_name_and_an_unknown_id_by_nothing() -> None:
    spelling = Spelling(byte_level())
    assert spelling[1] == b"</s>"
    assert spelling[10_000] == b""
