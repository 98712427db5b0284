"""How many prompt tokens one step may compute, so that answers under way are not held up for long."""

MOST = 2048
"""Prompt tokens of one step while no answer is under way."""
LEAST = 16
"""So that every prompt gets on."""
STRETCH = 3.0
"""How many times as long as a step without prompts one with them may take."""
MEMORY = 0.8
"""Share of the former estimate in the next one."""


class Pace:
    """Learns from the steps how long they take."""

    def __init__(self, fixed: int = 0) -> None:
        """`fixed`: prompt tokens of every step; 0 learns."""
        self._fixed = fixed
        self._most = fixed or MOST
        self._plain: float | None = None
        self._each: float | None = None

    def budget(self, answers: int) -> int:
        """Prompt tokens that the next step may compute beside so many answers under way."""
        if self._fixed or not answers or self._plain is None or self._each is None:
            return self._most
        return max(LEAST, min(self._most, int((STRETCH - 1) * self._plain / self._each)))

    def learn(self, seconds: float, prompt_tokens: int, answers: int) -> None:
        """A step took so long."""
        if not prompt_tokens:
            self._plain = _mixed(self._plain, seconds)
        elif not answers:
            self._each = _mixed(self._each, seconds / prompt_tokens)
        elif self._plain is not None:
            self._each = _mixed(self._each, max(seconds - self._plain, 0.0) / prompt_tokens)

    def halve(self) -> None:
        """Memory was short: smaller steps from now on."""
        self._most = max(LEAST, self._most // 2)


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else MEMORY * old + (1 - MEMORY) * new
