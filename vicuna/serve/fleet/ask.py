"""What a request wants of the fleet."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """For whom, how urgent, and what the worker has to be able to do."""

    model: str
    """The name, or `name@version`."""
    needs: frozenset[str] = frozenset()
    """Features that the worker's engine must have (protocol.FEATURES)."""
    chain: tuple[int, ...] = ()
    """Hashes of the prompt's beginnings, shortest first; empty where the policy does not look at prompts."""
    key: str = ""
    """Who asks; the queue shares fairly between them."""
    priority: int = 0
    """The lower, the sooner; equal ones share fairly."""
    deadline: float = float("inf")
    """On the dispatcher's clock: when the client has no more use for the answer."""
