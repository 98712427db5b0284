"""The mask viewer: some samples token by token, with what is learnt coloured, so that anybody can check a run's masks.

The run writes them into `data.json` when it starts, already as text; the page needs neither tokenizer nor data.
"""

import html
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from vicuna.errors import InputError
from vicuna.files import read_json, to_json, write_text
from vicuna.train.dataset import Dataset, Sample

NAME = "data.json"
SHOWN = 20
"""Samples in the viewer."""
_LONGEST = 4096
"""Tokens of one sample that are shown; of a longer one, the beginning and the end."""
_OPEN, _FOLDED = 6, 600
"""Of so many first samples those of at most so many tokens are unfolded at first."""
_GROUP = 16
"""Tokens that are looked at together to find a whole character; one has at most four bytes, so this is plenty."""


@dataclass(frozen=True)
class Piece:
    """The text of a token, or of several that only together are characters."""

    text: str
    ids: tuple[int, ...]
    """Token ids."""
    target: bool
    """Whether they are learnt."""
    special: bool
    """Whether it is a control token such as </s>, or bytes that are no character."""


@dataclass(frozen=True)
class Shown:
    """One sample of the viewer."""

    id: str
    why: str
    """Why this one is shown."""
    tokens: int
    """In the whole sample."""
    targets: int
    """Among them."""
    pieces: list[Piece]
    """Of the beginning, or of the whole sample."""
    ending: list[Piece]
    """Of the end, where the middle is left out."""


@dataclass(frozen=True)
class Learnt:
    """What a run learns from, in numbers and in examples."""

    samples: int
    tokens: int
    targets: int
    left_out: dict[str, int]
    """Reason → samples that are not learnt."""
    cut: int
    """Samples that lost their end."""
    shown: list[Shown]


# ---------------------------------------- what the run writes
def write(path: Path, data: Dataset, tokenizer: Any, seed: int) -> None:
    """Choose samples, spell them out, and write them with the totals.

    Args:
        path: data.json.
        data: all samples that the run learns from.
        tokenizer: a Hugging Face tokenizer on the `tokenizers` library.
        seed: decides the choice, apart from the extremes.
    """
    chosen = choose(data.lengths, data.targets, seed)
    shown = [_spelled(data[index], why, tokenizer) for index, why in chosen.items()]
    found = Learnt(len(data), data.tokens, data.target_tokens, dict(data.dropped), data.cut, shown)
    store(path, found)


def store(path: Path, found: Learnt) -> None:
    """Write what `read` reads."""
    write_text(path, to_json(vars(found) | {"shown": [_tree(each) for each in found.shown]}) + "\n")


def read(path: Path) -> Learnt:
    """What a run learns from, as it wrote it.

    Raises:
        InputError: the file is damaged, or another version wrote it.
    """
    tree = read_json(path)
    try:
        return Learnt(**tree | {"shown": [_from_tree(each) for each in tree["shown"]]})
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not what this version writes; remove it to go without its samples") from error


_LISTS = ("pieces", "ending")


def _tree(sample: Shown) -> dict[str, Any]:
    return vars(sample) | {name: [astuple(piece) for piece in getattr(sample, name)] for name in _LISTS}


def _from_tree(tree: dict[str, Any]) -> Shown:
    lists = {name: [Piece(text, tuple(ids), *marks) for text, ids, *marks in tree[name]] for name in _LISTS}
    return Shown(**tree | lists)


def choose(lengths: npt.NDArray[Any], targets: npt.NDArray[Any], seed: int) -> dict[int, str]:
    """Indices of the samples to show, each with the reason: the extremes first, then a draw.

    Args:
        lengths: tokens of each sample, shape (N,).
        targets: those learnt, shape (N,).
        seed: of the draw.
    """
    share = targets / lengths
    extremes = (
        (lengths.argmax(), "longest"), (targets.argmin(), "fewest learnt"),
        (share.argmin(), "lowest share learnt"), (share.argmax(), "highest share learnt"),
    )  # fmt: skip
    chosen: dict[int, str] = {}
    for index, why in extremes:
        chosen[int(index)] = f"{chosen[int(index)]}, {why}" if int(index) in chosen else why
    draw = random.Random(f"{seed}:shown").sample(range(len(lengths)), min(SHOWN, len(lengths)))
    others = [index for index in draw if index not in chosen][: SHOWN - len(chosen)]
    return chosen | dict.fromkeys(others, "drawn")


def _spelled(sample: Sample, why: str, tokenizer: Any) -> Shown:
    ids = sample.ids.tolist()
    is_target = [False, *sample.is_target[1:].tolist()]  # nothing stands before the first token
    half = _LONGEST // 2
    parts = [slice(len(ids))] if len(ids) <= _LONGEST else [slice(half), slice(len(ids) - half, None)]
    beginning, ending = [*(pieces(ids[part], is_target[part], tokenizer) for part in parts), []][:2]
    return Shown(sample.id, why, len(ids), sum(is_target), beginning, ending)


def pieces(ids: Sequence[int], is_target: Sequence[bool], tokenizer: Any) -> list[Piece]:
    """The tokens as readable text that joined is the whole text.

    Tokens that hold parts of one character (bytes) make one piece, unless only some of them are learnt; those, and
    bytes that are no character at all, stand alone as <0xF0>.
    """
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    found: list[Piece] = []
    before: Sequence[int] = ()  # what was read last: many decoders drop the space of a word that comes first
    at = 0
    while at < len(ids):
        size, text = _readable(ids[at:], before, tokenizer)
        whole = size > 0 and len(set(is_target[at : at + size])) == 1
        size = max(size, 1)
        group = tuple(ids[at : at + size])
        if whole:
            found.append(Piece(text, group, is_target[at], group[0] in special))
            before = group
        else:
            found += [Piece(_raw(each, tokenizer), (each,), is_target[at + i], True) for i, each in enumerate(group)]
        at += size
    return found


def _readable(ids: Sequence[int], before: Sequence[int], tokenizer: Any) -> tuple[int, str]:
    """How many of the first tokens together are whole characters, and their text; (0, "") where they never are."""
    start = _decode(before, tokenizer)
    for size in range(1, min(_GROUP, len(ids)) + 1):
        text = _decode([*before, *ids[:size]], tokenizer)
        text = text[len(start) :] if text.startswith(start) else _decode(ids[:size], tokenizer)
        if "\ufffd" not in text:
            return size, text
    return 0, ""


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    text: str = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


def _raw(index: int, tokenizer: Any) -> str:
    """A token that is no text: its bytes as <0xF0>, or its name in the vocabulary."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    name: str = tokenizer.convert_ids_to_tokens(index)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    text = _decode([index], tokenizer)
    if "\ufffd" not in text:
        return text
    if re.fullmatch(r"<0x[0-9A-F]{2}>", name) or not all(letter in byte_of for letter in name):
        return name
    return "".join(f"<0x{byte_of[letter]:02X}>" for letter in name)


# ---------------------------------------- what the page shows
HEAD = """<style>
:root{--learnt:#cfe0ff;--learnt-ink:#12306b;--edge:#1d233022;--pill:#5c6675}
@media (prefers-color-scheme:dark){:root{--learnt:#23427c;--learnt-ink:#dbe7ff;--edge:#ffffff24;--pill:#9aa4b5}}
details.sample{border:1px solid var(--line);border-radius:10px;margin:8px 0;padding:0 14px}
details.sample>summary{cursor:pointer;padding:9px 0;display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline}
details.sample>summary::before{content:"▸";color:var(--soft)}details.sample[open]>summary::before{content:"▾"}
details.sample>summary code{font-size:13px;overflow-wrap:anywhere}
.why{border:1px solid var(--line);border-radius:6px;padding:0 7px;font-size:12.5px;color:var(--soft)}
.share{display:inline-block;width:64px;height:8px;border-radius:4px;background:var(--line);overflow:hidden}
.share i{display:block;height:100%;background:var(--mark)}
.tokens{font:13.5px/1.75 ui-monospace,Menlo,Consolas,monospace;color:var(--soft);white-space:pre-wrap;
 overflow-wrap:anywhere;padding:2px 0 14px;max-height:70vh;overflow:auto}
.tokens i,.key i{font-style:normal;padding:1px 0}.tokens b,.key b{font-weight:inherit}
.tokens b i,.key b i{background:var(--learnt);color:var(--learnt-ink)}
#edges:checked~details .tokens i{box-shadow:inset 1px 0 var(--edge)}
.tokens i:hover{outline:1.5px solid var(--mark);border-radius:2px}
.tokens i.special,.key i.special{border:1px solid var(--pill);border-radius:5px;padding:0 3px;font-size:12px}
.tokens s{text-decoration:none;opacity:.55}.gap{display:block;text-align:center;margin:8px 0}
.key{display:flex;flex-wrap:wrap;gap:6px 18px;font-size:14px;color:var(--soft)}
</style>"""


def viewer(shown: Sequence[Shown]) -> str:
    """A legend and one folded entry for each sample, as HTML for the styles in HEAD."""
    key = (
        '<div class="key"><span><b><i>learnt</i></b>: the model is trained to write it</span>'
        "<span><i>not learnt</i>: it is only read</span>"
        '<span><i class="special">&lt;/s&gt;</i>: a control token, or bytes that are no character</span></div>'
    )
    switch = '<input type="checkbox" id="edges" checked><label for="edges" class="soft"> borders between tokens</label>'
    entries = (_entry(sample, folded=at >= _OPEN or sample.tokens > _FOLDED) for at, sample in enumerate(shown))
    return f"{key}{switch}{''.join(entries)}"


def _entry(sample: Shown, *, folded: bool) -> str:
    share = sample.targets / sample.tokens
    summary = (
        f'<code>{html.escape(sample.id)}</code><span class="why">{html.escape(sample.why)}</span>'
        f'<span class="soft">{sample.tokens:,} tokens, {sample.targets:,} learnt ({share:.0%})</span>'
        f'<span class="share"><i style="width:{100 * share:.0f}%"></i></span>'
    )
    body = _marked(sample.pieces)
    if sample.ending:
        cut = sample.tokens - sum(len(piece.ids) for piece in (*sample.pieces, *sample.ending))
        body += f'<span class="gap">… {cut:,} tokens are not shown …</span>{_marked(sample.ending)}' if cut else ""
    opened = "" if folded else " open"
    return f'<details class="sample"{opened}><summary>{summary}</summary><div class="tokens">{body}</div></details>\n'


def _marked(found: Sequence[Piece]) -> str:
    """Runs of learnt tokens within <b>, the others as they are; each token an <i> that tells its id."""
    parts = []
    for index, piece in enumerate(found):
        if piece.target and not (index and found[index - 1].target):
            parts.append("<b>")
        mark = ' class="special"' if piece.special else ""
        name = ", ".join(map(str, piece.ids))
        parts.append(f'<i{mark} title="{name}">{_visible(piece.text)}</i>')
        if piece.target and (index + 1 == len(found) or not found[index + 1].target):
            parts.append("</b>")
    return "".join(parts)


def _visible(text: str) -> str:
    """Text in which nothing is hidden: line ends, tabs and characters without a shape are written out."""
    return "".join(_letter(letter) for letter in text) or "<s>∅</s>"


def _letter(letter: str) -> str:
    if letter == "\n":
        return "<s>↵</s>\n"
    if letter == "\t":
        return "<s>⇥</s>\t"
    if unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs", "Cn") and letter != "\u200d":  # a joiner within emoji
        return f"<s>U+{ord(letter):04X}</s>"
    return html.escape(letter)
