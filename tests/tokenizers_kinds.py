"""Tokenizers of every kind that matters to prompts, trained on a few sentences."""

import functools
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "A chat between a curious user and an artificial intelligence assistant. USER: Hello! How are you? ASSISTANT: Hi.",
    "### Human: 你好, ça va? ### Assistant: Fine :) 1234 <b>x</b> \n\n  indented __init__ *star* Response:Hello",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>"]


def _finish(tokenizer: Tokenizer, bos: bool) -> Any:
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<|im_end|>", "<|im_start|>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _bpe(pre: Any, *, bos: bool, normalizer: Any = None, byte_level: bool = False, fuse: bool = False) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token=None if byte_level else "<unk>", fuse_unk=fuse))
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(TEXT * 30, trainer)
    return _finish(tokenizer, bos)


def _wordpiece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXT * 30, trainer)
    return _finish(tokenizer, True)


def _unigram(split: bool) -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT * 30, trainer)
    return _finish(tokenizer, True)


MAKERS = {
    "metaspace with a prefix space everywhere": lambda: _bpe(pre_tokenizers.Metaspace(), bos=True),
    "metaspace with a prefix space at the start": lambda: _bpe(
        pre_tokenizers.Metaspace(prepend_scheme="first"), bos=True, fuse=True
    ),
    "metaspace without a prefix space or BOS": lambda: _bpe(
        pre_tokenizers.Metaspace(prepend_scheme="never"), bos=False
    ),
    "llama 2's normalizer, merging across words": lambda: _bpe(
        pre_tokenizers.Split("\n", "isolated"),
        bos=True,
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ),
    "byte-level": lambda: _bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), bos=False, byte_level=True),
    "byte-level with a prefix space and BOS": lambda: _bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=True), bos=True, byte_level=True
    ),
    "wordpiece": _wordpiece,
    "unigram": lambda: _unigram(True),
    "unigram merging across words": lambda: _unigram(False),
}


@functools.cache
def tokenizer_of(kind: str) -> Any:
    """The tokenizer of a kind, trained once."""
    return MAKERS[kind]()
