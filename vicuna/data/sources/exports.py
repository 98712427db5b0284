"""Conversations as services store them: trees of messages, and logs of a chat server's state."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vicuna.conversation import ROLES, Message
from vicuna.data.sources.turns import Row, RowError, joined, listed, malformed, mapping

_CITATION = re.compile("\ue200[^\ue200\ue201]*\ue201|【\\d+(?::\\d+)?†[^】\n]{0,200}】")
"""Marks that ChatGPT's page replaces by links: they stand for search results that an export does not hold."""
_FENCE = re.compile(r"`{3,}")


# ------------------------------------------------------------------------------------------------ ChatGPT's export
def chatgpt(row: Row, where: str) -> tuple[list[Message], dict[str, Any]]:
    """The branch that the page shows of a conversation in a ChatGPT account export.

    The nodes of `mapping` form a tree: an edited question or an answer made anew is a further child. `current_node` is
    the leaf that was shown last; where it is missing, the newest leaf. What the page hides (instructions, calls of
    tools, thoughts) is left out, and so are the tools' answers; the parts of an answer around these are one message.

    Returns:
        messages, and metadata: title, model, created (seconds since 1970), plugins.

    Raises:
        RowError: "image or sound" if a question holds an image; "malformed record".
    """
    found: list[Message] = []
    model = None
    for message in _branch(row, where):
        given = message.get("content")
        content = given if isinstance(given, Mapping) else {}
        role = _shown(message, content, where)
        if not role:
            continue
        text = _text(content, role, where)
        if role == "assistant":
            text = _CITATION.sub("", text)
            model = mapping(message.get("metadata"), where).get("model_slug") or model
            if not text.strip():
                continue
            if found and found[-1].role == "assistant":
                text = found.pop().content + "\n\n" + text
        if role != "system" or text.strip():
            found.append(Message(ROLES[role], text))
    facts = {
        "title": row.get("title"),
        "model": model or row.get("default_model_slug"),
        "created": row.get("create_time"),
        "plugins": row.get("plugin_ids"),
    }
    return found, {name: value for name, value in facts.items() if value is not None}


def _branch(row: Row, where: str) -> Iterator[Row]:
    """Messages from the root to the current leaf."""
    nodes = row["mapping"]
    leaf = row.get("current_node")
    if not isinstance(leaf, str) or leaf not in nodes:
        leaves = [name for name, node in nodes.items() if isinstance(node, Mapping) and not node.get("children")]
        leaf = max(leaves, key=lambda name: _time(nodes[name]), default=None)
    path: list[Any] = []
    while leaf is not None:
        node = nodes.get(leaf) if isinstance(leaf, str) else None
        if not isinstance(node, Mapping) or len(path) > len(nodes):
            raise malformed(f"{where}: the tree of messages has no way from node {str(leaf)[:60]!r} to its root")
        path.append(node.get("message"))
        leaf = node.get("parent")
    return (each for each in reversed(path) if isinstance(each, Mapping))


def _time(node: Row) -> float:
    message = node.get("message")
    time = message.get("create_time") if isinstance(message, Mapping) else None
    return time if isinstance(time, int | float) else -math.inf


def _shown(message: Row, content: Row, where: str) -> str:
    """The role of a message that the page shows as text; "" for any other."""
    facts = mapping(message.get("metadata"), where)
    role = mapping(message.get("author"), where).get("role")
    if facts.get("is_visually_hidden_from_conversation") or facts.get("is_user_system_message"):
        return ""
    if role not in ("system", "user", "assistant") or message.get("recipient") not in (None, "all"):
        return ""
    return role if content.get("content_type") in ("text", "multimodal_text", "code") else ""


def _text(content: Row, role: str, where: str) -> str:
    if content["content_type"] == "code":
        return _fenced(content)
    texts = []
    for part in listed(content.get("parts"), where):
        if isinstance(part, Mapping):
            kind = str(part.get("content_type"))
            if kind.startswith("image") and role == "user":
                raise RowError("image or sound", f"{where}: a question holds an image")
            part = part.get("text") if kind == "audio_transcription" else None  # other sound stands beside its text
        if isinstance(part, str):
            texts.append(part)
    return "\n".join(texts)


def _fenced(content: Row) -> str:
    text = str(content.get("text") or "")
    if not text.strip():
        return ""
    language = content.get("language")
    fence = "`" * max([3, *(len(each) + 1 for each in _FENCE.findall(text))])
    return f"{fence}{'' if language in (None, 'unknown') else language}\n{text}\n{fence}"


# ------------------------------------------------------------------------------------------------ Open Assistant
def open_assistant(row: Row, where: str) -> tuple[list[Message], dict[str, Any]]:
    """The best branch of an OpenAssistant tree: at each step the reply that people ranked first.

    Raises:
        RowError: a message is malformed.
    """
    found = []
    node = row["prompt"]
    while isinstance(node, Mapping):
        role = ROLES.get(str(node.get("role")).lower())
        if role is None or not isinstance(node.get("text"), str):
            raise malformed(f"{where}: a message of the tree needs `role` and `text`; it has: {list(node)[:8]}")
        found.append(Message(role, node["text"]))
        replies = [each for each in listed(node.get("replies"), where) if isinstance(each, Mapping)]
        replies = [each for each in replies if not each.get("deleted")]
        node = min(replies, key=_rank, default=None)
    return found, {name: row["prompt"][name] for name in ("lang",) if name in row["prompt"]}


def _rank(reply: Row) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) else math.inf


# ------------------------------------------------------------------------------------------------ FastChat's log
def fastchat_log(row: Row, where: str) -> tuple[list[Message], dict[str, Any]]:
    """The conversation in one line of FastChat's web log.

    A chat is logged again after each of its rounds; these are different records, and removing near-duplicates keeps the
    longest.

    Raises:
        RowError: "vote" for a line that logs a click, not a chat; "image or sound"; "malformed record".
    """
    if row.get("type", "chat") != "chat":
        raise RowError("vote", f"{where}: the log's line is a {str(row['type'])[:40]!r}, not a chat")
    state = row["state"]
    names = [str(name).lower() for name in listed(state.get("roles"), where)]
    offset = state.get("offset")
    found = [Message("system", joined(state["system_message"], where))] if state.get("system_message") else []
    for number, each in enumerate(state["messages"]):
        if not isinstance(each, list | tuple) or len(each) < 2:
            raise malformed(f"{where}: state.messages[{number}] is not [role, text]")
        name, content = str(each[0]).lower(), each[1]
        if content is None or (isinstance(offset, int) and number < offset):  # an open answer; the template's examples
            continue
        role = ROLES.get(name) or (("user", "assistant")[names.index(name)] if name in names[:2] else None)
        if role is None:
            raise RowError("unknown role", f"{where}: unknown role {each[0]!r}")
        if isinstance(content, list | tuple) and len(content) == 2 and content[1]:  # [text, images]
            raise RowError("image or sound", f"{where}: state.messages[{number}] holds images")
        found.append(Message(role, joined(content[:1] if isinstance(content, list | tuple) else content, where)))
    return found, {name: row[name] for name in ("model", "tstamp") if row.get(name) is not None}
