"""What goes wrong in scraped chats, planted one kind at a time.

Each planter changes a conversation's turns in place and returns the positions of the turns that it touched.
"""

import random
from collections.abc import Callable, Mapping

from vicuna.data.corpus.family import Round
from vicuna.data.corpus.pages import ICON, WRAPPER, CodeBlock, code_box, page

Turn = dict[str, str]
"""One turn of a raw record: `from` and `value`."""
Planter = Callable[[list[Turn], random.Random], list[int]]

RATE_LIMIT = "Too many requests in 1 hour. Try again later."
NETWORK_ERROR = "network error"
_ERROR_BOX = (
    '<div class="py-2 px-3 border text-gray-600 rounded-md text-sm dark:text-gray-100 border-red-500 bg-red-500/10">'
    f"{NETWORK_ERROR}</div>"
)


def turns_of(rounds: list[Round], code_block: CodeBlock = code_box) -> list[Turn]:
    """Raw turns of a sound conversation: what people typed as it is, answers as pages."""
    turns: list[Turn] = []
    for each in rounds:
        turns += [{"from": "human", "value": each.question}, {"from": "gpt", "value": page(each.answer, code_block)}]
    return turns


def wrapped(inner: str) -> str:
    """HTML inside the element of an answer."""
    return f"{WRAPPER}{inner}</div>"


def _answer(turns: list[Turn], rng: random.Random) -> int:
    return rng.randrange(1, len(turns), 2)


def _starts_with_gpt(turns: list[Turn], rng: random.Random) -> list[int]:
    turns.insert(
        0, {"from": "gpt", "value": page(rng.choice(("Hello! What can I do for you?", "Welcome back.", "Go on.")))}
    )
    return [0]


def _ends_with_human(turns: list[Turn], rng: random.Random) -> list[int]:
    del turns[-1]
    return [len(turns) - 1]


def _repeated_role(turns: list[Turn], rng: random.Random) -> list[int]:
    at = _answer(turns, rng)
    if rng.random() < 0.5:
        turns.insert(
            at, {"from": "human", "value": rng.choice(("Please answer in one sentence.", "Thank you.", "Please."))}
        )
        return [at]
    turns.insert(at + 1, {"from": "gpt", "value": page(rng.choice(("I hope that helps.", "Ask me more if you like.")))})
    return [at + 1]


def _unknown_role(turns: list[Turn], rng: random.Random) -> list[int]:
    at = rng.randrange(len(turns))
    turns[at]["from"] = rng.choice(("plugin", "moderator", "narrator"))
    return [at]


def _empty_turn(turns: list[Turn], rng: random.Random) -> list[int]:
    at = rng.randrange(len(turns))
    empty = ("", wrapped(""), wrapped("<p></p>"), wrapped("<p>\u200b</p>")) if at % 2 else ("", " ", "\n")
    turns[at]["value"] = rng.choice(empty)
    return [at]


def _no_turns(turns: list[Turn], rng: random.Random) -> list[int]:
    turns.clear()
    return []


def _rate_limit(turns: list[Turn], rng: random.Random) -> list[int]:
    at = _answer(turns, rng)
    turns[at]["value"] = rng.choice((RATE_LIMIT, wrapped(f"<p>{RATE_LIMIT}</p>"), wrapped(f"<p>(!){RATE_LIMIT}</p>")))
    return [at]


def _network_error(turns: list[Turn], rng: random.Random) -> list[int]:
    at = _answer(turns, rng)
    cut = turns[at]["value"] + _ERROR_BOX
    turns[at]["value"] = rng.choice((wrapped(f"<p>{NETWORK_ERROR}</p>"), NETWORK_ERROR, cut))
    del turns[at + 1 :]
    return [at]


def _regenerate_counter(turns: list[Turn], rng: random.Random) -> list[int]:
    at = _answer(turns, rng)
    last = rng.randint(2, 4)
    counter = f"{rng.randint(1, last)} / {last}"
    button = f'<button class="dark:text-white disabled:text-gray-300">{ICON}</button>'
    switch = (
        '<div class="text-xs flex items-center justify-center gap-1 absolute left-0 top-2 -ml-4 visible">'
        f'{button}<span class="flex-grow flex-shrink-0">{counter}</span>{button}</div>'
    )
    turns[at]["value"] = rng.choice((counter, switch)) + turns[at]["value"]
    return [at]


def _copy_debris(turns: list[Turn], rng: random.Random) -> list[int]:
    at = _answer(turns, rng)
    debris = f"<p>Copy{rng.randint(12, 900)} chars / {rng.randint(3, 160)} words</p></div>"
    turns[at]["value"] = turns[at]["value"].removesuffix("</div>") + debris
    return [at]


def _share_prompt(turns: list[Turn], rng: random.Random) -> list[int]:
    at = _answer(turns, rng) - 1
    turns[at]["value"] += "Share Prompt"
    return [at]


def _malformed_html(turns: list[Turn], rng: random.Random) -> list[int]:
    at = _answer(turns, rng)
    value = turns[at]["value"]
    unclosed = value.replace("</p>", "").replace("</li>", "").removesuffix("</div>")
    stray = value.removesuffix("</div>") + "</span></b></div>"
    comment = value.removesuffix("</div>") + "<!-- react </div>"
    turns[at]["value"] = rng.choice((unclosed, stray, comment))
    return [at]


_LITERAL = (
    Round("What does a < b && b < c mean in C?", "It means that `b` lies between `a` and `c`."),
    Round("What is the file for #include <stdio.h>?", "It has the functions for input and output in C."),
    Round("In HTML, what does <b>word</b> show?", "It shows the word in **bold**."),
    Round("What does *ptr = &value; do in C?", "It stores the address of `value` in the place that `ptr` points to."),
    Round("Is 2 * 3 < 7?", "Yes, 6 is less than 7."),
    Round("How do I write AT&T in HTML?", "Write `AT&amp;T`."),
)
_CONTROL = (
    Round("What does </s> mean in HTML?", "It ends text that is struck through."),
    Round("Is <s> a tag of HTML?", "Yes, it marks text that is struck through."),
    Round(
        "My file says: USER: hi ASSISTANT: hello</s> What is it?",
        "It looks like a chat between a user and an assistant.",
    ),
    Round("What could <|im_end|> be in a log of chats?", "It could mark the end of a message."),
)


def _added(rounds: tuple[Round, ...]) -> Planter:
    def plant(turns: list[Turn], rng: random.Random) -> list[int]:
        at = rng.randrange(0, len(turns) + 1, 2)
        turns[at:at] = turns_of([rng.choice(rounds)])
        return [at]

    return plant


def _long_round(turns: list[Turn], rng: random.Random) -> list[int]:
    end = rng.randint(600, 900)
    numbers = ", ".join(str(n) for n in range(1, end + 1))
    at = rng.randrange(0, len(turns) + 1, 2)
    turns[at:at] = turns_of([Round(f"Write down all numbers from 1 to {end}.", f"{numbers}.")])
    return [at, at + 1]


PLANTERS: Mapping[str, Planter] = {
    "starts with gpt": _starts_with_gpt,
    "ends with human": _ends_with_human,
    "repeated role": _repeated_role,
    "unknown role": _unknown_role,
    "empty turn": _empty_turn,
    "no turns": _no_turns,
    "rate limit": _rate_limit,
    "network error": _network_error,
    "regenerate counter": _regenerate_counter,
    "copy debris": _copy_debris,
    "share prompt": _share_prompt,
    "malformed html": _malformed_html,
    "literal text": _added(_LITERAL),
    "control text": _added(_CONTROL),
    "over-long round": _long_round,
}
"""Kind of dirt -> what plants it. Kinds that make a whole conversation (duplicates, languages, ...) are in `corpus`."""
