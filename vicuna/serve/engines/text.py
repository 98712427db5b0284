"""What of an answer's text may be shown: nothing of a stop string, and no white space that belongs to the template."""

import re
from collections.abc import Sequence

from vicuna.serve.engines.detokenize import Stream


class StopScanner:
    """Ends the text before the first stop string, wherever the borders of the pieces are.

    The first is the one that is complete first; of those that end at the same character, the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._longest = max(map(len, self._stops), default=0)
        first = {re.escape(stop[0]) for stop in self._stops}
        self._beginnings = re.compile(f"[{''.join(sorted(first))}]") if first else None
        self._held = ""
        """The end of the text so far where a stop string may have begun."""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that is certainly not part of a stop string."""
        if self.stopped or self._beginnings is None:
            return "" if self.stopped else text
        before, whole = len(self._held), self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := _find(whole, stop, before)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return whole[: min(found)[1]]
        cut = self._possible_beginning(whole, self._beginnings)
        self._held = whole[cut:]
        return whole[:cut]

    def flush(self) -> str:
        """What was held back; the text has ended, so it was no stop string."""
        shown, self._held = self._held, ""
        return shown

    def _possible_beginning(self, text: str, beginnings: re.Pattern[str]) -> int:
        """Where the first stop string begins that the text may end within; else the text's length."""
        for found in beginnings.finditer(text, max(0, len(text) - self._longest + 1)):
            rest = text[found.start() :]
            if any(stop.startswith(rest) for stop in self._stops):
                return found.start()
        return len(text)


def _find(text: str, stop: str, before: int) -> int:
    """The first occurrence that ends after the first `before` characters; -1 for none."""
    return text.find(stop, max(0, before - len(stop) + 1))


class AnswerText:
    """The text of one answer: without the white space that leads it, ended by stop strings."""

    def __init__(self, stream: Stream, stops: Sequence[str], lead: str, skip: int = 0) -> None:
        """
        Args:
            stream: makes text of this answer's ids.
            stops: texts that end the answer.
            lead: what a template puts between the assistant's name and the answer; not shown.
            skip: characters at the start that the client has already.
        """
        self._stream = stream
        self._scanner = StopScanner(stops)
        self._lead = lead
        self._skip = skip

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._scanner.stopped

    def push(self, ids: Sequence[int]) -> str:
        """New text to show."""
        return self._show(self._scanner.push(self._without_lead(self._stream.push(ids))))

    def flush(self) -> str:
        """The rest, when no more ids come."""
        text = self._scanner.push(self._without_lead(self._stream.flush()))
        return self._show(text + self._scanner.flush())

    def _without_lead(self, text: str) -> str:
        if self._lead and text:
            text, self._lead = text.removeprefix(self._lead), ""
        return text

    def _show(self, text: str) -> str:
        shown = text[self._skip :]
        self._skip -= len(text) - len(shown)
        return shown
