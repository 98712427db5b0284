"""Tokenizers made on the spot: like LLaMA's in both its forms, or, without FastChat's environment, only in one.

Real LLaMA checkpoints hold SentencePiece's `tokenizer.model`, which FastChat reads with Python code, and the same as
`tokenizer.json` for the tokenizers library, which we read.
"""

import json
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import measure
import texts

VOCABULARY = 16_000
_CHARACTERS = 12_000_000
"""Of text that it is trained on."""


def like_llama(folder: Path, truth: Path, python: Path) -> Path:
    """Both forms of a LLaMA tokenizer; returns the folder.

    Args:
        folder: made, if it has no tokenizer yet.
        truth: a corpus' truth.jsonl.
        python: interpreter of FastChat's environment.
    """
    if not (folder / "tokenizer.model").exists() or (folder / "tokenizer.vocab").exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = folder / "text.txt"
        text.write_text("\n".join(_material(truth)), encoding="utf-8")
        script = Path(__file__).with_name("llama_tokenizer.py")
        measure.run([python, "-P", "-W", "ignore", str(script), str(text), str(folder)])
        text.unlink()
    return folder


def fast_only(folder: Path, truth: Path) -> Path:
    """BPE with byte fallback, words with their space in front, `<s>` at the start; returns the folder.

    Args:
        folder: made, if it has no tokenizer yet.
        truth: a corpus' truth.jsonl.
    """
    if (folder / "tokenizer_config.json").exists():
        return folder
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    marks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(marks)
    special = [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[*special, *octets], show_progress=False)
    tokenizer.train_from_iterator(_material(truth), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    model = json.loads(tokenizer.to_str())
    model["added_tokens"] = [each for each in model["added_tokens"] if each["content"] not in octets]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(model, ensure_ascii=False), encoding="utf-8")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return folder


def _material(truth: Path) -> Iterator[str]:
    """Half corpus, half READMEs and Python's own library, so that words do not run out."""
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    yield from _some([*texts.readmes(), *(path.read_text(encoding="utf-8") for path in library)])
    with truth.open(encoding="utf-8") as rows:
        yield from _some(turn["md"] for row in rows for turn in json.loads(row)["turns"])


def _some(found: Iterable[str]) -> Iterator[str]:
    left = _CHARACTERS // 2
    for text in found:
        if left < 0:
            return
        left -= len(text)
        yield text
