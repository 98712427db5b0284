"""`inspect` in the terminal."""

from collections.abc import Sequence
from typing import Any

from vicuna.data.tools.tokens import Token, View, visible

_ROLES = {"system": "magenta", "user": "cyan", "assistant": "green"}
_CONTROL, _TARGET, _OTHER = "reverse", "green", "dim"


def show(seen: View, most: int, numbers: bool) -> None:
    """Print a conversation.

    Args:
        seen: what there is to see.
        most: characters of a message, and tokens of a run, beyond which the middle is left out; 0 is no limit.
        numbers: print the tokens' ids.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _head(console, seen)
    for message in seen.conversation.messages:
        name = message.role if message.train else f"{message.role} (not trained on)"
        _rule(console, name, _ROLES[message.role])
        _line(console, _shortened(message.content, most))
    if not seen.tokens:
        return
    _rule(console, f"prompt of {seen.template}: what is trained on is green, white space is marked", "bold")
    _line(console, _prompt(seen, most))
    for run in seen.runs():
        _rule(console, run.title, _TARGET if run.target else "default")
        _line(console, _tokens(run.tokens, most, numbers))


def _head(console: Any, seen: View) -> None:
    from rich.table import Table
    from rich.text import Text

    conversation = seen.conversation
    rows = [("id", conversation.id), ("source", conversation.source)]
    rows += [(str(key), str(value)) for key, value in conversation.metadata.items()]
    if seen.tokens:
        share = f"{seen.targets / len(seen.tokens):.0%}"
        rows.append(("tokens", f"{len(seen.tokens):,} of {seen.limit:,}; {seen.targets:,} trained on ({share})"))
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name, style="dim"), Text(_shortened(value, 300)))
    console.print(grid)


def _rule(console: Any, title: str, style: str) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(f"── {title} ──", style=style))


def _line(console: Any, content: Any) -> None:
    from rich.text import Text

    console.print(content if isinstance(content, Text) else Text(content))


def _shortened(text: str, most: int) -> str:
    if not most or len(text) <= most:
        return text
    left = len(text) - most
    return f"{text[: most * 3 // 4]}\n[... {left:,} characters ...]\n{text[len(text) - most // 4 :]}"


def _prompt(seen: View, most: int) -> Any:
    from rich.text import Text

    text = Text()
    for piece in seen.pieces:
        style = _CONTROL if piece.control else _TARGET if piece.target else ""
        text.append(visible(_shortened(piece.text, most)), style)
    return text


def _tokens(tokens: Sequence[Token], most: int, numbers: bool) -> Any:
    """The tokens one after another, every other one underlined so that they can be told apart."""
    from rich.text import Text

    text = Text()
    cut = most and len(tokens) > most
    for i, token in enumerate(tokens):
        if cut and most * 3 // 4 <= i < len(tokens) - most // 4:
            if i == most * 3 // 4:
                text.append(f"\n[... {len(tokens) - most:,} tokens ...]\n")
            continue
        style = _CONTROL if token.control else _TARGET if token.target else _OTHER
        text.append(visible(token.text), f"{style} underline" if i % 2 else style)
        if numbers:
            text.append(f"⟨{token.id}⟩", "dim")
    return text
