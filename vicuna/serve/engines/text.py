"""From token ids to text that may be shown: characters that are complete, and nothing of a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Decodes a growing list of ids; each piece of text comes out once and is never taken back.

    A token's text depends on its neighbours (spaces, characters of several bytes), so each step decodes a short window
    that begins before the new tokens, and shows what the window has grown by.
    """

    def __init__(self, decode: Callable[[list[int]], str], context: Sequence[int] = ()) -> None:
        """
        Args:
            decode: ids → text.
            context: the last ids before the text begins (the prompt's); they are not shown.
        """
        self._decode = decode
        self._ids = list(context)
        self._start = 0
        self._shown = len(self._ids)

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids too."""
        self._ids += ids
        text = self._fresh()
        if not text or text.endswith(_REPLACEMENT):  # the end of a character may be still to come
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return text

    def flush(self) -> str:
        """What was held back; bytes that make no character come out as replacement characters."""
        text = self._fresh()
        self._start = self._shown = len(self._ids)
        return text

    def _fresh(self) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        after = self._decode(self._ids[self._start :])
        return after[len(before) :]


class StopScanner:
    """Ends the text before the first stop string, wherever the borders of the pieces are."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that is certainly not part of a stop string."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back; the text has ended, so it was no stop string."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class AnswerText:
    """The text of one answer: decoded, without the white space that leads it, ended by stop strings."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], lead: str, skip: int = 0) -> None:
        """
        Args:
            detokenizer: for this answer.
            stops: texts that end the answer.
            lead: what a template puts between the assistant's name and the answer; not shown.
            skip: characters at the start that the client has already.
        """
        self._detokenizer = detokenizer
        self._scanner = StopScanner(stops)
        self._lead = lead
        self._skip = skip

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._scanner.stopped

    def push(self, ids: Sequence[int]) -> str:
        """New text to show."""
        return self._show(self._scanner.push(self._without_lead(self._detokenizer.push(ids))))

    def flush(self) -> str:
        """The rest, when no more ids come."""
        text = self._scanner.push(self._without_lead(self._detokenizer.flush()))
        return self._show(text + self._scanner.flush())

    def _without_lead(self, text: str) -> str:
        if self._lead and text:
            text, self._lead = text.removeprefix(self._lead), ""
        return text

    def _show(self, text: str) -> str:
        shown = text[self._skip :]
        self._skip -= len(text) - len(shown)
        return shown
