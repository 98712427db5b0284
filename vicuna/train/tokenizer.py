"""Train a BPE tokenizer of LLaMA's kind: Metaspace words, single digits, bytes for what it has never seen."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vicuna import manifest
from vicuna.config import to_dict
from vicuna.conversation import Message, read_conversations
from vicuna.errors import InputError
from vicuna.prompt import Template, encode_prompt, template
from vicuna.template import TextTemplate
from vicuna.train.config import TokenizerConfig
from vicuna.train.dataset import dataset_hash, files_of

logger = logging.getLogger(__name__)
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
PLACES = ("inputs", "out")
"""Settings that are no part of what is made: the inputs' content hashes stand for their paths."""


def main(config: TokenizerConfig) -> None:
    """Train the tokenizer and write its folder; finished work with the same inputs is kept, other work not touched."""
    parents = {f"data{i}": dataset_hash(path) for i, path in enumerate(config.inputs)}
    identity = {key: value for key, value in to_dict(config).items() if key not in PLACES}
    if manifest.matches(config.out, "tokenizer", parents, identity):
        print(f"{config.out} is made already")
        return
    chosen = template(config.template)
    facts: dict[str, Any] = {}
    with manifest.making(config.out, "tokenizer", parents=parents, config=identity, facts=facts) as part:
        tokenizer = train(texts(config.inputs, chosen), config.size)
        store_template(tokenizer, chosen)
        facts["size"] = len(tokenizer)
        tokenizer.save_pretrained(part)
    less = " (the text gives no more)" if facts["size"] < config.size else ""
    print(f"tokenizer with {facts['size']:,} tokens{less} in {config.out}")


def texts(inputs: tuple[str, ...], chosen: Template) -> Iterator[str]:
    """Every conversation as the model will see it.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    some = False
    for path in (file for each in inputs for file in files_of(Path(each))):
        for conversation in read_conversations(path):
            some = True
            yield "".join(piece.text for piece in chosen.pieces(conversation.messages) if not piece.control)
    if not some:
        raise InputError(f"there is no conversation in {', '.join(inputs)}")


def train(lines: Iterator[str], size: int) -> Any:
    """A Hugging Face tokenizer of `size` tokens; the same lines in the same order give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.Punctuation("isolated")]
    )  # fmt: skip
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(byte_tokens), special_tokens=list(SPECIAL), show_progress=False, limit_alphabet=200
    )
    backend.train_from_iterator(lines, trainer)
    backend = _with_bytes(backend, byte_tokens)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _with_bytes(backend: Any, byte_tokens: list[str]) -> Any:
    """Append the byte tokens to the vocabulary as ordinary tokens (the trainer could only add them as special ones)."""
    import json

    from tokenizers import Tokenizer

    source = json.loads(backend.to_str())
    vocabulary = source["model"]["vocab"]
    for token in byte_tokens:
        vocabulary[token] = len(vocabulary)
    return Tokenizer.from_str(json.dumps(source))


def store_template(tokenizer: Any, chosen: Template) -> None:
    """Give the tokenizer the template's Jinja form, for servers that prompt by `apply_chat_template`.

    Such servers tokenise the rendered text with BOS written in it. A tokenizer that puts a space only before the very
    first character then leaves it out, so the form that gives the trained tokens is found by trying.
    """
    if not isinstance(chosen, TextTemplate):
        return
    opens = len(tokenizer("").input_ids) > 0 and tokenizer.bos_token is not None
    stop = chosen.stop_token(tokenizer) if chosen.stop_is_token else None
    source = chosen.jinja(bos=opens, stop=stop)
    probe = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    trained = encode_prompt(probe, tokenizer, chosen)
    rows = [{"role": message.role, "content": message.content} for message in probe]
    for form in (source, source.replace("{{ bos_token }}", "{{ bos_token }}{{ ' ' }}", 1)):
        tokenizer.chat_template = form
        if tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_dict=True)["input_ids"] == trained:
            return
    tokenizer.chat_template = source
    logger.warning("servers that use the stored chat template will not send exactly the tokens of %s", chosen.name)
