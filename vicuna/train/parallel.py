"""The ranks of a run: who this process is among them, and what they tell each other."""

import contextlib
import datetime
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from vicuna.errors import VicunaError
from vicuna.train.supervise import LOST

T = TypeVar("T")
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""What carries tensors between ranks, by device; gloo is beside nccl for state in main memory."""
ALONE = datetime.timedelta(days=1)
"""How long ranks wait while one of them works for all: tokenises, loads or writes a model. One that dies ends the wait
at once, because its connections close."""
_GLOO = re.compile(r"/gloo/\S+\] (.+?)(?:\. This is typically|$)")
"""How gloo's errors, which have no type of their own, name a connection that closed or a time that ran out."""


class OthersLost(VicunaError):
    """This rank ends because another one failed or is gone."""

    exit_status = LOST


@dataclass(frozen=True)
class World:
    """This rank and the others. One process alone is a world of one, in which nothing is sent."""

    rank: int = 0
    """Of this process, from 0."""
    size: int = 1
    """Number of ranks."""
    local_rank: int = 0
    """Of this process on its node, from 0."""
    local_size: int = 1
    """Number of ranks on this node."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this rank computes."""
    timeout: float = 600.0
    """Seconds that it waits for the others in a step or a checkpoint."""

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks for all: prints, and writes what is there once."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this rank does what is done once on each node."""
        return self.local_rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value added over all ranks, in float64, the same on each rank."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Sequence[float], by: Any) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)  # through main memory: some devices lack float64
        if self.size > 1:
            dist.all_reduce(tensor, by)
        return tensor.tolist()

    def gather(self, value: T) -> list[T]:
        """What each rank brings, in the order of ranks, on every rank; any object that pickles."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=_control())
        return found

    def broadcast(self, value: T) -> T:
        """What rank 0 brings, on every rank."""
        return self.gather(value if self.is_main else None)[0]  # type: ignore[return-value]

    @contextlib.contextmanager
    def one_fails_all_fail(self, what: str) -> Iterator[None]:
        """After the block, an error on any rank is an error on every rank, so that none waits for the dead.

        The block must not send anything itself.
        """
        mine: BaseException | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised again below, on every rank)
            mine = error
        said = self.gather(f"{type(mine).__name__}: {mine}" if mine else "")
        if mine:
            raise mine
        if others := [f"rank {rank}: {text}" for rank, text in enumerate(said) if text]:
            raise OthersLost(f"{what} failed on another rank ({others[0]})")


_CONTROL: list[Any] = []


def _control() -> Any:
    """A gloo group for small objects, so that they never touch the GPU."""
    return _CONTROL[0] if _CONTROL else None


@contextlib.contextmanager
def joined(device: str, timeout: float, *, alone_too: bool) -> Iterator[World]:
    """The world that RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE in the environment describe.

    Args:
        device: "cpu" or "cuda".
        timeout: seconds that a rank waits for the others.
        alone_too: make a process group of one where there are no other ranks (sharding needs one).

    Raises:
        VicunaError: the ranks do not meet.
        OthersLost: in the block, another rank died or did not answer in time.
    """
    rank = int(os.environ.get("RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    place = torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    world = World(rank, size, local_rank, local_size, place, timeout)
    if size == 1 and not alone_too:
        yield world
        return
    _meet(world, BACKENDS[device])
    done = False
    try:
        yield world
        done = True
    except RuntimeError as error:
        if size > 1 and (why := _lost(error)):
            raise OthersLost(f"rank {rank} lost the others ({why}); the same command goes on from the newest "
                             "checkpoint") from error  # fmt: skip
        raise
    finally:
        _CONTROL.clear()
        if done or size == 1:  # it takes all ranks to part, and after an error some are elsewhere
            dist.destroy_process_group()


def _meet(world: World, backend: str) -> None:
    limit = datetime.timedelta(seconds=world.timeout)
    store = dist.HashStore() if world.size == 1 else None  # type: ignore[attr-defined]  # a meeting place for one
    try:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=limit, store=store)
        _CONTROL[:] = [dist.new_group(backend="gloo", timeout=ALONE)]
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(name, f"(no {name})") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise VicunaError(
            f"rank {world.rank} does not meet the other {world.size - 1} at {where}: {first_line(error)}"
        ) from error


def _lost(error: RuntimeError) -> str:
    """How another rank was lost, if that is what the error says; nccl's errors have a type."""
    if found := _GLOO.search(str(error)):
        return found[1]
    return first_line(error) if isinstance(error, dist.DistError) else ""


def first_line(error: BaseException) -> str:
    """What an error of another library says first, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def sum_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Add up every gradient over the ranks, in one message; a rank whose passes were empty adds zeros.

    Args:
        parameters: those that learn, the same on each rank and in the same order.
        world: the ranks.
    """
    if world.size == 1:
        return
    learnt = list(parameters)
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in learnt]
    flat = torch.cat([each.flatten() for each in grads])
    dist.all_reduce(flat)
    for parameter, grad in zip(learnt, flat.split([each.numel() for each in learnt]), strict=True):
        parameter.grad = grad.view_as(parameter)


def local(tensor: Any) -> Any:
    """This rank's part of a tensor that is split over the ranks, in the same memory; one that is whole as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
