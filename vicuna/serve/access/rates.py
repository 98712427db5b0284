"""How much one API key may ask for: requests and tokens per minute, as token buckets."""

import math
from collections.abc import Callable, Mapping

from vicuna.serve.faults import Fault

MINUTE = 60.0
_ROUNDING = 1e-6
"""What sums of floats may be wrong by, so that who waits exactly as long as we said is let in."""


class Bucket:
    """`limit` units per minute, spent at any pace: a full bucket holds a minute's worth.

    So over any time of t minutes at most `limit * (t + 1)` units go out. A clock that jumps back gives nothing and
    takes nothing; one that jumps ahead fills the bucket.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._level = float(limit)
        self._clock = clock
        self._seen = clock()

    @property
    def level(self) -> float:
        """Units in the bucket now; below 0 where more was used than was estimated."""
        now = self._clock()
        self._level = min(self.limit, self._level + max(0.0, now - self._seen) * self.limit / MINUTE)
        self._seen = now
        return self._level

    def wait(self, units: float) -> float:
        """Seconds until so many units are there; 0 where they are there now."""
        missing = units - self.level
        return missing * MINUTE / self.limit if missing > _ROUNDING else 0.0

    def take(self, units: float) -> None:
        """Take units out, or with a negative number put them back; what does not fit in is lost."""
        self._level = self.level - units


class Admission:
    """One request that was let in, with the tokens that it was expected to use."""

    def __init__(self, buckets: Mapping[str, Bucket], tokens: int) -> None:
        self._buckets = buckets
        self._expected = tokens
        self._open = True

    def settle(self, tokens: int) -> None:
        """Correct the estimate by what the request really used.

        Raises:
            ValueError: it was settled already.
        """
        if not self._open:
            raise ValueError("the admission was settled already")
        self._open = False
        if "tokens" in self._buckets:
            self._buckets["tokens"].take(tokens - self._expected)

    def headers(self) -> dict[str, str]:
        """What is left, in OpenAI's headers."""
        return _headers(self._buckets)


class Meter:
    """What one key has used of its limits."""

    def __init__(self, requests: int | None, tokens: int | None, clock: Callable[[], float]) -> None:
        limits = {"requests": requests, "tokens": tokens}
        self._buckets = {what: Bucket(limit, clock) for what, limit in limits.items() if limit is not None}

    def admit(self, tokens: int) -> Admission:
        """Let a request in that may use so many tokens.

        Raises:
            Fault: 429 with the time until it would be let in; 400 it is larger than a whole minute's tokens.
        """
        units = {"requests": 1, "tokens": tokens}
        for what, bucket in self._buckets.items():
            if units[what] > bucket.limit:
                raise _too_large(tokens, bucket.limit)
        waits = {what: bucket.wait(units[what]) for what, bucket in self._buckets.items()}
        worst = max(waits, key=lambda what: waits[what], default="")
        if worst and waits[worst]:
            raise self._spent(worst, waits[worst])
        for what, bucket in self._buckets.items():
            bucket.take(units[what])
        return Admission(self._buckets, tokens)

    def _spent(self, what: str, wait: float) -> Fault:
        limit = self._buckets[what].limit
        message = f"this API key may use {limit} {what} a minute and has used them; try again in {_duration(wait)}"
        return Fault(
            message,
            status=429,
            type=what,  # as OpenAI has it here
            code="rate_limit_exceeded",
            retry_after=wait,
            headers=_headers(self._buckets),
        )


def _too_large(tokens: int, limit: int) -> Fault:
    what = f"this request may use {tokens} tokens and its API key {limit} a minute"
    message = f"{what}; lower max_tokens, or shorten the prompt"
    return Fault(message, status=400, code="tokens_over_limit")


def _headers(buckets: Mapping[str, Bucket]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for what, bucket in buckets.items():
        headers[f"x-ratelimit-limit-{what}"] = str(bucket.limit)
        headers[f"x-ratelimit-remaining-{what}"] = str(max(0, math.floor(bucket.level + _ROUNDING)))
        headers[f"x-ratelimit-reset-{what}"] = _duration(bucket.wait(bucket.limit))
    return headers


def _duration(seconds: float) -> str:
    """A time as OpenAI writes it, rounded up: 340ms, 12s, 6m0s."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
