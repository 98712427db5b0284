"""How much one step may compute: prompts must not hold answers up for long, and memory must suffice."""

MOST = 2048
"""Prompt tokens of one step while no answer is under way."""
LEAST = 16
"""So that every prompt gets on."""
STRETCH = 3.0
"""How many times as long as a step without prompts one with them may take."""
MEMORY = 0.8
"""Share of the former estimate in the next one."""
GOOD = 256
"""Steps without trouble after which more is tried again."""


class Pace:
    """Learns from the steps how long they take and what was too much."""

    def __init__(self, slots: int, fixed: int = 0) -> None:
        """
        Args:
            slots: most answers at once.
            fixed: prompt tokens of every step; 0 learns.
        """
        self.slots = slots
        """Answers that may be computed at once now."""
        self._all_slots = slots
        self._fixed = fixed
        self._most = self._all = fixed or MOST
        self._plain: float | None = None
        self._each: float | None = None
        self._good = 0

    def budget(self, answers: int) -> int:
        """Prompt tokens that the next step may compute beside so many answers under way."""
        if self._fixed or not answers or self._plain is None or self._each is None:
            return self._most
        return max(LEAST, min(self._most, int((STRETCH - 1) * self._plain / max(self._each, 1e-9))))

    def learn(self, seconds: float, prompt_tokens: int, answers: int) -> None:
        """A step took so long."""
        if not prompt_tokens:
            self._plain = _mixed(self._plain, seconds)
        elif not answers:
            self._each = _mixed(self._each, seconds / prompt_tokens)
        elif self._plain is not None:
            self._each = _mixed(self._each, max(seconds - self._plain, 0.0) / prompt_tokens)
        self._good += 1
        if self._good >= GOOD:
            self._good = 0
            self.slots = min(self._all_slots, 2 * self.slots)
            self._most = min(self._all, 2 * self._most)

    def shed(self, answers: int) -> bool:
        """Memory was short with so many answers: less from now on. False: it cannot be less."""
        self._good = 0
        if answers <= 1 and self._most <= LEAST:
            return False
        self.slots = max(1, answers // 2)
        self._most = max(LEAST, self._most // 2)
        return True


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else MEMORY * old + (1 - MEMORY) * new
