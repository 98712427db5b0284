"""The conversation as the page shows it, and as the model gets it.

What went wrong is shown as a note of its own kind. Notes are never sent to the model, and neither is a question that
got nothing but a note.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vicuna.serve.web import markup
from vicuna.serve.web.client import Problem

Shown = list[dict[str, Any]]
NOTE = "note"
"""`metadata.id` of notes."""


def user(text: str) -> dict[str, Any]:
    """What a person wrote."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    """What a model answered."""
    return {"role": "assistant", "content": text}


def note(problem: Problem) -> dict[str, Any]:
    """What went wrong: cause, and the request id to look for in the service's log."""
    lines = [problem.message]
    if problem.request_id:
        lines.append(f"Request `{problem.request_id}`")
    return {
        "role": "assistant",
        "content": "\n\n".join(lines),
        "metadata": {"title": f"⚠️ {problem.title}", "id": NOTE},
    }


def is_note(message: Mapping[str, Any]) -> bool:
    """Whether a shown message is a note."""
    return (message.get("metadata") or {}).get("id") == NOTE


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message; Gradio hands content back as a list of blocks."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") if isinstance(block, dict) else str(block) for block in content)


def to_page(shown: Sequence[Mapping[str, Any]]) -> Shown:
    """The messages for Gradio: as blocks, because it takes the indentation out of plain text, and without HTML."""
    return [{**message, "content": [{"type": "text", "text": markup.shown(text_of(message))}]} for message in shown]


def from_page(shown: Sequence[Mapping[str, Any]]) -> Shown:
    """The messages that `to_page` was given."""
    return [
        {"role": message["role"], "content": markup.written(text_of(message))}
        | ({"metadata": dict(message["metadata"])} if message.get("metadata") else {})
        for message in shown
    ]


def for_model(shown: Sequence[Mapping[str, Any]], system: str) -> list[dict[str, str]]:
    """The messages to send: answered rounds and the last question, after the system prompt if there is one."""
    spoken = [message for message in shown if not is_note(message)]
    sent = [{"role": "system", "content": system}] if system.strip() else []
    for message, following in zip(spoken, [*spoken[1:], None], strict=True):
        unanswered = message["role"] == "user" and following is not None and following["role"] == "user"
        if not unanswered:
            sent.append({"role": message["role"], "content": text_of(message)})
    return sent


def up_to_question(shown: Sequence[Mapping[str, Any]], index: int) -> Shown:
    """The conversation up to and including the question that led to message `index`."""
    while index >= 0 and shown[index]["role"] != "user":
        index -= 1
    return [dict(message) for message in shown[: index + 1]]
