"""One turn of a community file: who speaks and what, whatever the file calls it."""

from collections.abc import Mapping, Sequence
from typing import Any

from vicuna.conversation import ROLES, Message
from vicuna.errors import InputError

Row = Mapping[str, Any]

_TOOLS = {
    "tool", "tools", "tool_call", "tool_calls", "tool_response", "tool_result", "function", "function_call",
    "function-call", "function_response", "function-response", "observation", "ipython",
}  # fmt: skip
_TEXTS = {"text", "input_text", "output_text", "refusal"}
"""Types of parts whose text is part of the message."""


class RowError(InputError):
    """A row that gives no conversation."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The kind of fault, for the ledger: few different ones."""


def malformed(message: str) -> RowError:
    """The error for a row that is not as its form says."""
    return RowError("malformed record", message)


def mapping(value: Any, where: str) -> Row:
    """An object that may be missing or null, and is then empty.

    Raises:
        RowError: it is something else.
    """
    if value is None or isinstance(value, Mapping):
        return value or {}
    raise malformed(f"{where}: an object was expected; got a {type(value).__name__}")


def listed(value: Any, where: str) -> Sequence[Any]:
    """A list that may be missing or null, and is then empty.

    Raises:
        RowError: it is something else.
    """
    if value is None or isinstance(value, list | tuple):
        return value or ()
    raise malformed(f"{where}: a list was expected; got a {type(value).__name__}")


def turn(row: Any, where: str) -> tuple[Message, str]:
    """Read one turn.

    Args:
        row: {"role", "content"} or {"from", "value"}, or a mixture of these; `text` is understood too. Text may be a
            list of parts, which are joined by line ends. OpenAI's `weight` 0 and `train` false say that an answer is
            not to be trained on.
        where: names the turn in errors.

    Returns:
        the message, and the name that the role had.

    Raises:
        RowError: "tool turn", "image or sound", "unknown role" or "malformed record".
    """
    if not isinstance(row, Mapping):
        raise malformed(f"{where}: a turn is an object; got a {type(row).__name__}")
    name = _first(row, ("role", "from"))
    if row.get("tool_calls") or row.get("function_call") or (isinstance(name, str) and name.lower() in _TOOLS):
        raise RowError("tool turn", f"{where}: a turn calls a tool or is a tool's answer")
    if not isinstance(name, str):
        raise malformed(f"{where}: a turn needs `role` or `from`; it has: {list(row)[:8]}")
    role = ROLES.get(name.lower())
    if role is None:
        raise RowError("unknown role", f"{where}: unknown role {name!r}; known: {', '.join(ROLES)}")
    text = joined(_first(row, ("content", "value", "text")), where)
    if row.get("weight") == 0 or row.get("train") is False:
        return Message(role, text, train=False), name
    return Message(role, text), name


def joined(content: Any, where: str) -> str:
    """The text of a message: itself, or its parts joined by line ends.

    Raises:
        RowError: it is not text, or has a part that is not.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise malformed(f"{where}: a turn needs text; got {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        text = _first(part, ("text", "refusal")) if isinstance(part, Mapping) else part
        if not isinstance(kind, str) or kind not in _TEXTS or not isinstance(text, str):
            raise RowError("image or sound", f"{where}: a turn has a part that is not text: {str(kind)[:40]}")
        texts.append(text)
    return "\n".join(texts)


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
