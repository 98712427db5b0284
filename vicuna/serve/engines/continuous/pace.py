"""How much one step may compute: prompts must not hold answers up for long, and memory must suffice."""

MOST = 2048
"""Prompt tokens of one step while no answer is under way."""
LEAST = 16
"""So that every prompt gets on."""
STRETCH = 3.0
"""How many times as long as a step without prompts one with them may take, where not more wait than are under way."""
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
        self._plain: dict[int, float] = {}  # by the number of binary digits of the answers
        self._each: float | None = None
        self._good = 0

    def budget(self, answers: int, prompts: int) -> int:
        """Prompt tokens that the next step may compute.

        Args:
            answers: answers under way, which get their next token the later for it.
            prompts: prompts that wait for their first one; where they are more, they count for more.
        """
        if self._fixed or not answers or not self._plain or self._each is None:
            return self._most
        seconds = (STRETCH - 1) * self._without_prompts(answers) * max(1.0, prompts / answers)
        return max(LEAST, min(self._most, int(seconds / max(self._each, 1e-9))))

    def learn(self, seconds: float, prompt_tokens: int, answers: int) -> None:
        """A step took so long."""
        if not prompt_tokens:
            size = answers.bit_length()
            self._plain[size] = _mixed(self._plain.get(size), seconds)
        elif not answers:
            self._each = _mixed(self._each, seconds / prompt_tokens)
        elif self._plain:
            self._each = _mixed(self._each, max(seconds - self._without_prompts(answers), 0.0) / prompt_tokens)
        self._good += 1
        if self._good >= GOOD:
            self._good = 0
            self.slots = min(self._all_slots, 2 * self.slots)
            self._most = min(self._all, 2 * self._most)

    def _without_prompts(self, answers: int) -> float:
        """Seconds of a step with about so many answers alone, as far as there was one."""
        size = answers.bit_length()
        return self._plain[min(self._plain, key=lambda known: abs(known - size))]

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
