"""Whole answers: the parts of one put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from vicuna.serve.fleet.failover import Part


class Whole:
    """One answer that is collected before it is sent."""

    def __init__(self, echo: str = "") -> None:
        """`echo`: the prompt, where it is to stand before the answer."""
        self.echo = echo
        self.finish = "stop"
        self.logprobs: list[dict[str, Any]] | None = None
        self._texts = [echo]
        self._calls: dict[int, dict[str, Any]] = {}
        self._more: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def add(self, part: Part) -> None:
        """Take the next part."""
        self._texts.append(part.text)
        if part.finish is not None:
            self.finish = part.finish
        if part.logprobs is not None:
            self.logprobs = self.logprobs or []
            self.logprobs += part.logprobs
        if part.delta is not None:
            self._add_calls(part.delta.get("tool_calls") or ())
            _merge(self._more, {key: value for key, value in part.delta.items() if key != "tool_calls"})

    def message(self) -> dict[str, Any]:
        """The message of a chat's choice; one that only calls tools has no text."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None, **self._more}
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        if self._calls or "function_call" in self._more:
            message["content"] = self.text or None
        return message

    def _add_calls(self, deltas: Sequence[Mapping[str, Any]]) -> None:
        """Each call comes in pieces that belong together by their index."""
        for delta in deltas:
            call = self._calls.setdefault(delta.get("index", len(self._calls)), {})
            for key in ("id", "type"):
                if delta.get(key):
                    call[key] = delta[key]
            _merge(call, {key: value for key, value in delta.items() if key not in ("index", "id", "type")})


def _merge(whole: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Put text behind text, also in what lies deeper."""
    for key, value in delta.items():
        known = whole.get(key)
        if isinstance(value, str) and isinstance(known, str):
            whole[key] = known + value
        elif isinstance(value, Mapping):
            _merge(whole.setdefault(key, {}), value)
        elif value is not None:
            whole[key] = value
