"""The world of a rank, as its environment describes it."""

import pytest
import torch.distributed as dist

from vicuna.errors import VicunaError
from vicuna.train.launch import free_port
from vicuna.train.parallel import World, joined


@pytest.fixture
def environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_process_that_is_no_rank_is_alone_even_where_somebody_set_a_world_size(environment):
    environment.setenv("WORLD_SIZE", "8")
    with joined("cpu", 1, alone_too=False) as world:
        assert world == World(timeout=1)
        assert not dist.is_initialized()


def test_alone_a_rank_hears_itself_and_its_errors_stay_what_they_are(environment):
    with joined("cpu", 60, alone_too=True) as world:
        assert (world.sum([1.5]), world.max([2.0]), world.gather("a"), world.broadcast(3)) == ([1.5], [2.0], ["a"], 3)
        with pytest.raises(KeyError), world.one_fails_all_fail("looking"):
            raise KeyError("lost")
    with pytest.raises(RuntimeError, match="of its own"), joined("cpu", 60, alone_too=True):
        raise RuntimeError("of its own")
    assert not dist.is_initialized()


def test_a_rank_without_a_meeting_place_says_so(environment):
    environment.setenv("RANK", "1")
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(VicunaError, match=r"rank 1 does not meet the other 1 at \(no MASTER_ADDR\):\(no MASTER_PORT\)"):
        joined("cpu", 1, alone_too=False).__enter__()


def test_a_rank_that_meets_nobody_gives_up_when_its_time_is_over(environment):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", free_port())):
        environment.setenv(name, str(value))
    with pytest.raises(VicunaError, match=r"rank 1 does not meet the other 1 at 127\.0\.0\.1:\d+: "):
        joined("cpu", 1, alone_too=False).__enter__()
