"""Which answers are learnt, with FastChat's `preprocess` and with ours, on tokenizers of every family.

    .venv/bin/python scripts/bench/train/masks.py --peer-python PEERS/fschat-0.2.36/bin/python --json masks.json

The judge knows neither: it looks up each token's characters in the prompt (the tokenizer's own offsets) and whose they
are. A token all of whose characters are an answer's, or its stop's, has to be learnt; one without any must not be. Not
judged are tokens of both, and the bare space before an answer.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chats
import families
from preprocess import measure, said, tokenizer

HERE = Path(__file__).parent
LONGEST = 4_000
"""Characters of a conversation: FastChat cuts at 2,048 tokens, and cut ones are another matter."""
Spans = Sequence[tuple[int, int]]


@dataclass
class Verdict:
    """Counts over conversations."""

    targets: int = 0
    """Tokens that are to be learnt."""
    lost: int = 0
    """Those of them that are not."""
    leaked: int = 0
    """Tokens that are learnt and must not be."""
    several: int = 0
    """Conversations of several rounds."""
    silent: int = 0
    """Those of them of which nothing is learnt."""

    def add(self, prompt: str, answers: Spans, offsets: Spans, learnt: Sequence[bool]) -> None:
        """Judge one conversation."""
        mine = [False] * len(prompt)
        for start, end in answers:
            mine[start:end] = [True] * (end - start)
        leads = {start for start, _ in answers}
        for (start, end), is_learnt in zip(offsets, learnt, strict=True):
            owners = set(mine[start:end])
            if len(owners) != 1 or (end - start == 1 and start in leads):
                continue
            self.targets += owners == {True}
            self.lost += owners == {True} and not is_learnt
            self.leaked += owners == {False} and is_learnt
        self.several += len(answers) > 1
        self.silent += len(answers) > 1 and not any(learnt)

    def cells(self) -> list[str]:
        """For the table."""
        return [measure.share(self.silent, self.several), f"{self.lost / self.targets:.1%}", f"{self.leaked:,}"]


def spans(prompt: str, chat: Sequence[dict[str, str]], stop: str) -> Spans:
    """Where the answers stand in a prompt, each with the space before it and its stop."""
    found, at = [], 0
    for turn in chat:
        text = turn["value"] + stop if turn["from"] == "gpt" else turn["value"]
        start = prompt.index((" " if turn["from"] == "gpt" else "") + text, at)
        at = start + len(text) + (turn["from"] == "gpt")
        if turn["from"] == "gpt":
            found.append((start, at))
    return found


def theirs(path: Path, rows: Sequence[Any], folder: Path, python: str) -> Verdict:
    """FastChat's labels."""
    kept = path.with_suffix(".labels.json")
    script = HERE / "fastchat_preprocess.py"
    said([python, "-W", "ignore", script, path, folder, "--labels", kept])
    verdict = Verdict()
    for row, made in zip(rows, json.loads(kept.read_text(encoding="utf-8")), strict=True):
        prompt, answers = made["prompt"], spans(made["prompt"], row["conversations"], "</s>")
        verdict.add(prompt, answers, made["offsets"], made["learnt"])
    return verdict


def ours(rows: Sequence[Any], folder: Path) -> Verdict:
    """Our masks; a conversation whose tokens are not the tokenizer's own counts as lost."""
    from vicuna.conversation import from_row
    from vicuna.encoding import Encoder
    from vicuna.models.load import load_tokenizer
    from vicuna.prompt import render, template

    loaded, chosen, verdict = load_tokenizer(folder), template("vicuna_v1.1"), Verdict()
    encoder, stop = Encoder(loaded, chosen), chosen.stop_token(loaded)
    for row in rows:
        conversation = from_row(row, "chat")
        tokens = encoder(conversation)
        prompt = render(conversation, chosen).replace("</s>", stop)
        own = loaded(prompt, return_offsets_mapping=True)
        same = own.input_ids == tokens.ids.tolist()
        learnt = tokens.is_target.tolist() if same else [False] * len(own.input_ids)
        verdict.add(prompt, spans(prompt, row["conversations"], stop), own.offset_mapping, learnt)
    return verdict


def tokenizers(work: Path, python: str) -> Iterator[tuple[str, Path]]:
    """All tokenizers: name, folder."""
    yield "like LLaMA's (SentencePiece)", tokenizer(work / "tokenizer", python)
    yield from families.trained(work / "trained", chats.sentences())
    yield from ((f"{name} (real)", folder) for name, folder in families.real(work / "real", python))


def main() -> None:
    """Judge both on every tokenizer, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="conversations")
    parser.add_argument("--peer-python", required=True, help="interpreter of FastChat's environment")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for conversations and tokenizers, kept; else a temporary one")
    parser.add_argument("--json", help="file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        _compare(options, options.work or Path(temporary))


def _compare(options: argparse.Namespace, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    short = (row for row in chats.conversations(3 * options.count, options.seed) if len(json.dumps(row)) < LONGEST)
    rows = [row for row, _ in zip(short, range(options.count), strict=False)]
    path = work / f"masks-{len(rows)}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    results, table = {}, []
    for name, folder in tokenizers(work, options.peer_python):
        fastchat, mine = theirs(path, rows, folder, options.peer_python), ours(rows, folder)
        results[name] = {"FastChat": vars(fastchat), "vicuna": vars(mine)}
        table.append([name, *fastchat.cells(), *mine.cells()])
        print(f"{name}: done", file=sys.stderr)
    columns = ["several rounds, nothing learnt", "answers' tokens lost", "others learnt"]
    print(measure.table(["tokenizer", *(f"{who}: {each}" for who in ("FastChat", "ours") for each in columns)], table))
    measure.save(options.json, {"conversations": len(rows), "results": results})


if __name__ == "__main__":
    main()
