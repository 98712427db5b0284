"""Tokenizers of every family: trained here on the same sentences, and real ones out of packages that PyPI carries.

python families.py convert KIND SOURCE OUT      (with FastChat's environment, which reads tiktoken and SentencePiece)
"""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN = LLAMA_3.replace("{1,3}", "")
VOCABULARY = 8_000


@dataclass(frozen=True)
class Real:
    """A tokenizer that a package holds."""

    package: str
    """As pip is to fetch it."""
    inside: str
    """Its place in the wheel."""
    kind: str
    """sentencepiece, tiktoken or json."""
    bos: str | None
    """What it puts in front of a text."""
    eos: str
    pattern: str = LLAMA_3
    """How tiktoken's text is cut."""


REAL = {
    "Mistral 7B": Real("mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1", "sentencepiece", "<s>",
                       "</s>"),
    "Llama 3": Real("llama-models==0.3.0", "llama_models/llama3/tokenizer.model", "tiktoken", "<|begin_of_text|>",
                    "<|end_of_text|>"),
    "Qwen": Real("dashscope==2.0.2", "dashscope/resources/qwen.tiktoken", "tiktoken", None, "<|endoftext|>", QWEN),
    "DeepSeek": Real("litellm==1.109.1", "litellm/litellm_core_utils/tokenizers/deepseek_tokenizer.json", "json",
                     "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "Claude 2": Real("litellm==1.109.1", "litellm/litellm_core_utils/tokenizers/anthropic_tokenizer.json", "json",
                     None, "<EOT>"),
}  # fmt: skip
"""Name → where it is."""


def real(folder: Path, python: str) -> Iterator[tuple[str, Path]]:
    """Real tokenizers as Hugging Face folders; packages are fetched with pip at the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in REAL.items():
        out = folder / name.replace(" ", "-")
        if not (out / "tokenizer_config.json").exists():
            source = _fetched(each, folder / "packages")
            words = [python, "-P", "-W", "ignore", __file__, "convert", name, source, out]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        yield name, out


def _fetched(each: Real, folder: Path) -> Path:
    """The file out of the package."""
    if not (folder / each.inside).exists():
        words = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), each.package]
        subprocess.run([sys.executable, *words], check=True)
        wheel = next(folder.glob(each.package.split("==")[0].replace("-", "_") + "-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(each.inside, folder)
    return folder / each.inside


def convert(name: str, source: str, out: str) -> None:
    """Write a real tokenizer as a Hugging Face folder (transformers 4)."""
    from tokenizers import Tokenizer
    from transformers import LlamaTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    each = REAL[name]
    if each.kind == "sentencepiece":
        LlamaTokenizerFast(vocab_file=source, legacy=True, add_prefix_space=True).save_pretrained(out)
        return
    names = [special for special in (each.bos, each.eos) if special]
    if each.kind == "tiktoken":
        converter = TikTokenConverter(source, pattern=each.pattern, additional_special_tokens=names)
        backend = converter.converted()
    else:
        backend = Tokenizer.from_file(source)
    _save(backend, Path(out), each.bos, each.eos)


def _save(backend: Any, out: Path, bos: str | None, eos: str, unk: str | None = None) -> None:
    """A folder that transformers 4 and 5 read alike."""
    from tokenizers import processors

    if bos is not None:
        opening = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=opening)
    out.mkdir(parents=True, exist_ok=True)
    backend.save(str(out / "tokenizer.json"))
    names = {"bos_token": bos, "eos_token": eos, "unk_token": unk}
    given = {key: value for key, value in names.items() if value is not None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **given}
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ trained ones
def trained(folder: Path, sentences: list[str]) -> Iterator[tuple[str, Path]]:
    """One tokenizer of each family, trained on the sentences, as Hugging Face folders."""
    for name, make in TRAINED.items():
        out = folder / name.replace(" ", "-")
        if not (out / "tokenizer_config.json").exists():
            make(sentences, out)
        yield name, out


def _metaspace(prepend: str) -> Callable[[list[str], Path], None]:
    def make(sentences: list[str], out: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
        backend.decoder = decoders.Metaspace(prepend_scheme=prepend)
        special = ["<unk>", "<s>", "</s>"]
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
        backend.train_from_iterator(sentences, trainer)
        _save(backend, out, "<s>", "</s>", "<unk>")

    return make


def _bytes(pattern: str | None, bos: bool) -> Callable[[list[str], Path], None]:
    def make(sentences: list[str], out: Path) -> None:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        backend = Tokenizer(models.BPE())
        rename = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
        cut = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
        backend.pre_tokenizer = pre_tokenizers.Sequence([*cut, rename]) if cut else rename
        backend.decoder = decoders.ByteLevel()
        special = ["<|begin|>", "<|end|>"]
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
        backend.train_from_iterator(sentences, trainer)
        _save(backend, out, "<|begin|>" if bos else None, "<|end|>")

    return make


def _unigram(sentences: list[str], out: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>",
                                      show_progress=False)  # fmt: skip
    backend.train_from_iterator(sentences, trainer)
    _save(backend, out, "<s>", "</s>", "<unk>")


TRAINED: dict[str, Callable[[list[str], Path], None]] = {
    "SentencePiece BPE, dummy prefix": _metaspace("always"),
    "SentencePiece BPE, prefix at the start": _metaspace("first"),
    "SentencePiece BPE, no prefix": _metaspace("never"),
    "Unigram": _unigram,
    "bytes, GPT-2": _bytes(None, bos=False),
    "bytes, Llama 3, BOS": _bytes(LLAMA_3, bos=True),
    "bytes, Qwen 2": _bytes(QWEN, bos=False),
}


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] != "convert":
        sys.exit(json.dumps(__doc__))
    convert(*sys.argv[2:])
