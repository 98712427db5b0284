"""A fleet in the memory of a test: workers that are only registrations, and a clock that the test moves."""

from vicuna.serve.fleet.ask import Ask
from vicuna.serve.fleet.policies import Policy
from vicuna.serve.fleet.table import Fleet, Ticket
from vicuna.serve.protocol import Registration, ServedModel

LEASE = 5.0
ABLE = frozenset({"chat", "resume"})


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def served(name: str = "a", weights: str = "v", label: str = "", features: frozenset[str] = ABLE) -> ServedModel:
    """A model; the same weights are the same version."""
    return ServedModel(name=name, checkpoint_hash=weights, max_length=10, version=label, features=features)


def registration(
    worker: str, *models: ServedModel, capacity: int = 2, started: float = 0.0, port: int = 0
) -> Registration:
    """What the worker `w7` sends when it joins, with an address of its own unless a port is given."""
    address = f"http://127.0.0.1:{port or 1000 + int(worker[1:])}"
    return Registration(
        worker_id=worker, address=address, models=list(models) or [served()], capacity=capacity, started=started
    )


def fleet_of(*registrations: Registration, policy: Policy | None = None) -> tuple[Fleet, Clock]:
    """A fleet that these have joined, in this order."""
    clock = Clock()
    fleet = Fleet(LEASE, clock, policy)
    for each in registrations:
        fleet.join(each)
    return fleet, clock


def take(fleet: Fleet, ask: str | Ask = "a", *avoid: str, version: ServedModel | None = None) -> Ticket:
    """A ticket that has to be there."""
    ticket = fleet.dispatch(Ask(ask) if isinstance(ask, str) else ask, avoid, version)
    assert ticket is not None
    return ticket


def chosen(fleet: Fleet, ask: str | Ask = "a", times: int = 1) -> list[str]:
    """Who gets so many requests that are all held."""
    return [take(fleet, ask).worker.id for _ in range(times)]
