"""The messages of a chat as clients send them, and what an engine must be able to do to read them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from vicuna.serve.faults import invalid
from vicuna.serve.protocol import Turn

MAX_MESSAGES = 10_000
MAX_PARTS = 1000
MAX_TOOLS = 1000
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
"""Roles of messages, and what they are to an engine that knows text alone."""
Object = dict[str, Any]
# fail_fast: checking a list ends at its first mistake; describing millions of them would hold everybody else up.
Tools = Annotated[list[Object], Field(max_length=MAX_TOOLS, fail_fast=True)]


class ContentPart(BaseModel):
    """A part of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """A message as clients send it."""

    role: Annotated[str, Field(json_schema_extra={"enum": list(ROLES)})]
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tool_calls: Tools | None = None
    function_call: Object | None = None

    def needs(self) -> set[str]:
        """What an engine must be able to do beside reading text."""
        needs = {"tools"} if self.role in ("tool", "function") or self.tool_calls or self.function_call else set()
        if isinstance(self.content, list) and any(part.type != "text" for part in self.content):
            needs.add("images")
        return needs

    def turn(self, index: int) -> Turn:
        """The message's text.

        Raises:
            Fault: a role that nobody knows, or no content.
        """
        role = ROLES.get(self.role)
        where = f"messages.{index}"
        if role is None:
            raise invalid(f"{where}.role is one of {', '.join(ROLES)}; got {self.role[:50]!r}", param=f"{where}.role")
        if isinstance(self.content, str):
            return Turn.model_construct(role=role, content=self.content)
        if self.content is None and not (role == "assistant" and self.needs()):
            raise invalid(f"{where}.content is missing", param=f"{where}.content")
        return Turn.model_construct(role=role, content="".join(self._texts(where)))

    def _texts(self, where: str) -> list[str]:
        texts = []
        for place, part in enumerate(self.content or ()):
            if isinstance(part, ContentPart) and part.type == "text":
                if part.text is None:
                    raise invalid(f"{where}.content.{place}.text is missing", param=f"{where}.content.{place}.text")
                texts.append(part.text)
        return texts


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
