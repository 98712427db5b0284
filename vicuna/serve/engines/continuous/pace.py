"""How much one step may compute: prompts must not hold answers up for long, and memory must suffice."""

import torch

MOST = 2048
"""Prompt tokens of one step while no answer is under way."""
LEAST = 16
"""So that every prompt gets on."""
STRETCH = 2.5
"""How many times as long as a step without prompts one with them may take, where not more wait than are under way."""
MEMORY = 0.7
"""Share of what was known before in what is known after a step."""
FALLING, RISING = 0.3, 1.05
"""The time of a step without prompts follows a shorter one by this share of the difference, and rises at most so many
times at once: what disturbs makes steps only longer."""
GROWTH = 2
"""How many times the tokens that an estimate comes from a step may have: few tell little."""
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
        self._seconds = self._tokens = 0.0  # that prompts took beside answers, the last steps' for the most part
        self._good = 0

    def budget(self, answers: int, prompts: int) -> int:
        """Prompt tokens that the next step may compute.

        Args:
            answers: answers under way, which get their next token the later for it.
            prompts: prompts that wait for their first one; where they are more, they count for more.
        """
        if self._fixed or not answers or not self._plain:
            return self._most
        seconds = (STRETCH - 1) * self._without_prompts(answers) * max(1.0, prompts / answers)
        tokens = min(seconds * self._tokens / max(self._seconds, 1e-9), GROWTH * self._tokens)
        return max(LEAST, min(self._most, int(tokens)))

    def learn(self, seconds: float, prompt_tokens: int, answers: int) -> None:
        """A step took so long."""
        if not prompt_tokens:
            size = answers.bit_length()
            known = self._plain.get(size, seconds)
            falling = known + FALLING * (seconds - known)
            self._plain[size] = falling if seconds < known else min(seconds, RISING * known)
        elif answers and self._plain:
            self._seconds = MEMORY * self._seconds + max(seconds - self._without_prompts(answers), 0.0)
            self._tokens = MEMORY * self._tokens + prompt_tokens
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

    def __str__(self) -> str:
        return f"at most {self.slots} answers at once and {self._most} prompt tokens a step"


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory; torch's allocator for CPUs has no type for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
