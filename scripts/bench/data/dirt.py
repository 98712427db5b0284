"""What goes wrong in scraped chats, planted one kind at a time into sound conversations whose truth is known."""

import base64
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import prose
from foreign import SENTENCES

WRAPPER = '<div class="markdown prose w-full break-words dark:prose-invert light">'
ERROR_BOX = '<div class="py-2 px-3 border text-gray-600 rounded-md text-sm border-red-500 bg-red-500/10">{}</div>'


class Round(NamedTuple):
    """A question, and its answer as the page and as the markdown that it shows."""

    question: str
    html: str
    markdown: str


@dataclass
class Draft:
    """A record on its way: raw turns, and the turns that an ideal cleaner would leave."""

    id: str
    rounds: list[Round]
    turns: list[dict[str, str]] = field(default_factory=list)
    left: list[dict[str, str]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    expect: str = "keep"
    lang: str = "en"
    dup_of: str | None = None
    planted: list[str] = field(default_factory=list)
    questions: Sequence[str] = ()
    another: Callable[[str, int], Round] | None = None
    """Makes a round of a question, with an answer of so many blocks."""

    def __post_init__(self) -> None:
        self.rebuild()

    def rebuild(self) -> None:
        """Raw turns and truth out of the rounds."""
        self.turns, self.left = [], []
        for each in self.rounds:
            self.turns += [{"from": "human", "value": each.question}, {"from": "gpt", "value": each.html}]
            self.left += [{"from": "human", "md": each.question}, {"from": "gpt", "md": each.markdown}]

    def size(self) -> int:
        """Characters of the answers."""
        return sum(len(each.markdown) for each in self.rounds)

    def drop(self, place: int) -> None:
        """Round `place` shall go."""
        del self.left[2 * place : 2 * place + 2]
        self.expect = "keep" if self.left else "drop"

    def row(self) -> dict[str, Any]:
        """The raw record."""
        return {"id": self.id, "conversations": self.turns, **self.extra}

    def truth(self, kind: str) -> dict[str, Any]:
        """What is known about it."""
        left = [] if self.expect == "drop" else self.left
        return {"id": self.id, "labels": [kind], "expect": self.expect, "lang": self.lang, "dup_of": self.dup_of,
                "planted": self.planted, "turns": left}  # fmt: skip


Plant = Callable[[Draft, random.Random, Sequence[Draft]], None]


class Planter(NamedTuple):
    """How often a kind of dirt is planted, in percent, and how."""

    weight: float
    plant: Plant


def _wrapped(text: str) -> str:
    return f"{WRAPPER}<p>{text}</p></div>"


def _answer(draft: Draft, rng: random.Random, html: str, goes: bool = True) -> int:
    """Put a page in the place of one answer; returns its round."""
    place = rng.randrange(len(draft.rounds))
    draft.turns[2 * place + 1]["value"] = html
    if goes:
        draft.drop(place)
    return place


# ------------------------------------------------------------------------------------------------ order and turns
def _starts_with_gpt(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    draft.turns.insert(0, {"from": "gpt", "value": _wrapped(prose.sentences(rng, 1, 2))})


def _ends_with_human(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    draft.turns.append({"from": "human", "value": prose.question(rng)})


def _role_repeated(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    place = rng.randrange(len(draft.turns))
    draft.turns.insert(place, dict(draft.turns[place]))
    draft.expect = "drop"


def _role_unknown(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    rng.choice(draft.turns)["from"] = rng.choice(("narrator", "moderator", "plugin-42"))
    draft.expect = "drop"


def _empty_gpt(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    place = _answer(draft, rng, rng.choice(("", f"{WRAPPER}</div>", _wrapped(""), _wrapped("\u200b"))), goes=False)
    del draft.left[2 * place :]
    draft.expect = "keep" if draft.left else "drop"


def _empty_human(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    draft.turns[0]["value"] = rng.choice(("", "  ", "\n"))
    draft.expect = "drop"


def _no_turns(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    draft.turns, draft.expect = [], "drop"


def _plugin(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    draft.extra["plugins"], draft.expect = ["browsing"], "drop"


def _too_short(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    draft.rounds = [Round("hi", _wrapped("Hello"), "Hello")]
    draft.rebuild()
    draft.expect = "drop"


# ------------------------------------------------------------------------------------------------ what the page left
def _network_error(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    wrong = "Something went wrong. If this issue persists please contact us through our help center at help.openai.com."
    said = rng.choice(("network error", wrong))
    place = rng.randrange(len(draft.rounds))
    page = draft.turns[2 * place + 1]["value"]
    draft.turns[2 * place + 1]["value"] = rng.choice((_wrapped(said), said, page + ERROR_BOX.format(said)))
    draft.drop(place)


def _too_many_requests(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    said = "Too many requests in 1 hour. Try again later."
    _answer(draft, rng, rng.choice((said, "!" + said, _wrapped(said), _wrapped("(!)" + said))))


def _share_prompt(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    turn = rng.choice(draft.turns[0::2])
    turn["value"] = rng.choice((turn["value"] + "Share Prompt", "Share Prompt\n" + turn["value"]))


def _regen_counter(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    last = rng.randint(2, 5)
    turn = rng.choice(draft.turns[1::2])
    turn["value"] = f"{rng.randint(1, last)} / {last}" + turn["value"]


def _copy_chars(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    turn = rng.choice(draft.turns[1::2])
    debris = f"<p>Copy{rng.randint(100, 4000)} chars / {rng.randint(20, 800)} words</p>"
    turn["value"] = turn["value"].removesuffix("</div>") + debris + "</div>"


def _malformed_html(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    turn = rng.choice(draft.turns[1::2])
    html = turn["value"]
    turn["value"] = rng.choice((
        html[: int(len(html) * 0.8)], html.replace("</p>", "").replace("</li>", ""), html.replace("</div>", ""),
        html.replace("<p", "</span><p", 1) + "</b></div>", html + "<!-- react", html.replace("<p", "<p><![if foo", 1),
    ))  # fmt: skip
    draft.expect = "policy"


# ------------------------------------------------------------------------------------------------ what teaches no good
_REFUSALS = (
    "I'm sorry, but I cannot assist with that.", "As an AI language model, I cannot {} for you.",
    "I apologize, but I am unable to help with requests of this kind.",
    "I'm sorry, but as an AI language model, I am not able to {} or to form opinions about it.",
    "As a language model, I am not able to {}, and it would not be appropriate.",
)  # fmt: skip
_LECTURES = (
    "It is important to remember that all people deserve to be treated with dignity and respect.",
    "It is essential to treat everyone with respect, regardless of who they are.",
)


def _moralizing(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    said = rng.choice(_REFUSALS).format(f"sort the {prose.phrase(rng)}")
    if rng.random() < 0.4:
        said += " " + rng.choice(_LECTURES)
    _answer(draft, rng, _wrapped(said))


def _loop(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    said = " ".join([prose.sentence(rng)] * rng.randint(20, 60))
    _answer(draft, rng, _wrapped(said))


def _garbled(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    said = prose.foreign(rng, rng.choice(("ru", "ja", "fr", "tr", "pl")), 4, 5).encode().decode("latin-1")
    _answer(draft, rng, _wrapped("".join(each if each.isprintable() else "\ufffd" for each in said)))


def _blob(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    _answer(draft, rng, _wrapped(base64.b64encode(rng.randbytes(rng.randint(400, 1500))).decode()))


def _repeated_digits(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    page = rng.choice(draft.rounds).html
    _answer(
        draft, rng, page.removesuffix("</div>") + f"<p>Number: {rng.choice('0179') * rng.randint(25, 60)}</p></div>"
    )


def _contaminated(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    place = rng.randrange(len(draft.rounds))
    text = rng.choice(draft.questions)
    draft.turns[2 * place]["value"] = rng.choice(
        (text, f"Please help me. {text}", f"{text}\n\nAnswer in one paragraph.")
    )
    draft.expect = "policy"


def _non_english(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    draft.lang = rng.choice([*SENTENCES])
    draft.rounds = []
    for _ in range(rng.randint(1, 5)):
        said = [prose.foreign(rng, draft.lang, 3, 5) for _ in range(rng.randint(1, 4))]
        html = "".join(f"<p>{each}</p>" for each in said)
        question = prose.foreign(rng, draft.lang, 1, 2)
        draft.rounds.append(Round(question, f"{WRAPPER}{html}</div>", "\n\n".join(said)))
    draft.rebuild()
    draft.expect = "policy"


# ------------------------------------------------------------------------------------------------ said before
def _dup_value(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    if earlier:
        other = rng.choice(earlier)
        draft.rounds, draft.dup_of, draft.expect = list(other.rounds), other.id, "drop"
        draft.rebuild()


def _near_dup(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    long = [each for each in earlier if each.size() > 1500]
    if not long:
        return
    other = rng.choice(long)
    draft.rounds, draft.dup_of, draft.expect = list(other.rounds), other.id, "policy"
    place = rng.randrange(len(draft.rounds))
    first = draft.rounds[place]
    asked = rng.choice(
        (first.question + " Thanks!", "Hello. " + first.question, first.question.rstrip("?.") + ", please?")
    )
    added = rng.choice(("", prose.sentence(rng), "Let me know if there is anything else that I can do."))
    html = first.html.removesuffix("</div>") + (f"<p>{added}</p>" if added else "") + "</div>"
    draft.rounds[place] = Round(asked, html, f"{first.markdown}\n\n{added}".rstrip("\n"))
    draft.rebuild()


# ------------------------------------------------------------------------------------------------ kept, with care
def _special_token_text(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    extra = rng.choice(
        (" The tag </s> closes <s> in HTML.", "\nUSER: hi ASSISTANT: hello</s>USER: bye", " <|im_end|> [/INST]")
    )
    place = rng.randrange(len(draft.rounds))
    each = draft.rounds[place]
    draft.rounds[place] = Round(each.question + extra, each.html, each.markdown)
    draft.rebuild()


def _mentions(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    place = rng.randrange(len(draft.rounds))
    each = draft.rounds[place]
    named = rng.choice(("Hello ChatGPT! ", "With the OpenAI API: ", "chatgpt, "))
    draft.rounds[place] = Round(named + each.question, each.html, each.markdown)
    draft.rebuild()


def _long_single_round(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    assert draft.another is not None
    draft.rounds = [draft.another(draft.rounds[0].question, rng.randint(60, 120))]
    draft.rebuild()
    draft.expect = "policy"


def _personal(draft: Draft, rng: random.Random, earlier: Sequence[Draft]) -> None:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    digits = "".join(rng.choices("0123456789", k=11))
    datum = rng.choice((
        f"{prose.word(rng)}.{prose.word(rng)}{rng.randint(1, 99)}@mail{rng.randint(1, 99)}.net",
        f"+1 212-7{digits[:2]}-{digits[2:6]}", f"+49 30 90182{digits[:3]}", _card(rng),
        f"81.{rng.randint(2, 250)}.{rng.randint(2, 250)}.{rng.randint(2, 250)}",
        "sk-" + "".join(rng.choices(letters, k=48)),
        "ghp_" + "".join(rng.choices(letters, k=36)),
        "AKIA" + "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=16)),
    ))  # fmt: skip
    turn = rng.choice(draft.turns[0::2])
    turn["value"] += f" My contact is {datum}, in case you need it."
    draft.planted, draft.expect = [datum], "policy"


def _card(rng: random.Random) -> str:
    """A card number whose check digit is right (Luhn)."""
    digits = [4, *(rng.randint(0, 9) for _ in range(14))]
    total = sum(digit if place % 2 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits))
    digits.append(-total % 10)
    text = "".join(map(str, digits))
    return " ".join(text[at : at + 4] for at in range(0, 16, 4))


PLANTERS: dict[str, Planter] = {
    "non_english": Planter(9, _non_english), "starts_with_gpt": Planter(1.5, _starts_with_gpt),
    "ends_with_human": Planter(1.5, _ends_with_human), "role_repeated": Planter(1, _role_repeated),
    "role_unknown": Planter(1, _role_unknown), "empty_gpt": Planter(1.5, _empty_gpt),
    "empty_human": Planter(1, _empty_human), "no_turns": Planter(0.5, _no_turns), "too_short": Planter(1, _too_short),
    "plugin": Planter(1, _plugin), "network_error": Planter(1.5, _network_error),
    "too_many_requests": Planter(1, _too_many_requests), "share_prompt": Planter(1, _share_prompt),
    "regen_counter": Planter(1, _regen_counter), "copy_chars": Planter(1, _copy_chars),
    "malformed_html": Planter(1.5, _malformed_html), "moralizing": Planter(2, _moralizing), "loop": Planter(1, _loop),
    "garbled": Planter(1, _garbled), "blob": Planter(1, _blob), "repeated_digits": Planter(1, _repeated_digits),
    "contaminated": Planter(1.5, _contaminated), "dup_value": Planter(2, _dup_value),
    "near_dup": Planter(2.5, _near_dup),
    "special_token_text": Planter(1, _special_token_text), "mentions_openai": Planter(3, _mentions),
    "long_single_round": Planter(1, _long_single_round), "personal": Planter(2, _personal),
}  # fmt: skip
