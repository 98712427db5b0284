"""Which processes train: this one, as one of the ranks that somebody started; this one alone; or ranks of its own."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vicuna import lifeline
from vicuna.errors import ConfigError
from vicuna.hardware import cpu_count
from vicuna.train.config import TrainConfig
from vicuna.train.supervise import supervise


@dataclass(frozen=True)
class Node:
    """The ranks that this node starts, and its place among the nodes."""

    ranks: int
    """On this node; every node has as many."""
    number: int = 0
    """Of this node, from 0."""
    nodes: int = 1
    """In the run."""
    address: str = "127.0.0.1"
    """Of the first node, where the ranks meet."""

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.ranks * self.nodes


def main(config: TrainConfig, argv: Sequence[str]) -> int:
    """Train in this process, or in ranks that are started with the same command line and supervised.

    Returns:
        The exit status (see `supervise`).

    Raises:
        ConfigError: a setting that a run needs is missing, or SkyPilot's variables do not fit together.
        VicunaError: the run failed.
    """
    need_inputs(config)
    if is_rank(os.environ):
        lifeline.watch()
        return _train(config)
    node = find_node(config, os.environ)
    if node.world_size == 1 or config.dry_run:  # a dry run only counts the ranks
        return _train(config)
    command = [sys.executable, "-m", "vicuna.train", "run", *argv]
    return supervise(command, environments(node, config, cpu_count()))


def _train(config: TrainConfig) -> int:
    from vicuna.train.run import main as work

    work(config)
    return 0


def need_inputs(config: TrainConfig) -> None:
    """Check what every run needs; cheap, so that it is said once and before any rank starts.

    Raises:
        ConfigError: no base model, no data, or neither; the flags that give them are named.
    """
    needed = {"model.path": "a base model's folder", "data.path": "cleaned conversations"}
    given = {"model.path": config.model.path, "data.path": config.data.path}
    if keys := [key for key in needed if not given[key]]:
        flags = " and ".join(f"{needed[key]} with --{key}" for key in keys)
        raise ConfigError(f"{' and '.join(keys)} {'are' if len(keys) > 1 else 'is'} missing; name {flags}")


def is_rank(environment: Mapping[str, str]) -> bool:
    """Whether this process was started as a rank: by us, by torchrun, or by `accelerate launch` through torchrun."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def world_size(config: TrainConfig, environment: Mapping[str, str]) -> int:
    """Ranks of the run on all nodes, as this process would start them or as whoever started it did."""
    return int(environment["WORLD_SIZE"]) if is_rank(environment) else find_node(config, environment).world_size


def find_node(config: TrainConfig, environment: Mapping[str, str]) -> Node:
    """The ranks to start here: one node of several under SkyPilot, else the only one.

    SkyPilot's variables are those of its documentation on multi-node jobs.

    Raises:
        ConfigError: a variable is missing or malformed.
    """
    nodes = _whole("SKYPILOT_NUM_NODES", environment) if "SKYPILOT_NUM_NODES" in environment else 1
    if nodes <= 1:
        return Node(config.launch.ranks or _count_ranks(config, environment))
    ranks = config.launch.ranks
    if not ranks:  # by SkyPilot's count, which is the same on every node
        gpus = _whole("SKYPILOT_NUM_GPUS_PER_NODE", environment)
        ranks = gpus if gpus and config.device != "cpu" else 1
    number = _whole("SKYPILOT_NODE_RANK", environment)
    addresses = environment.get("SKYPILOT_NODE_IPS", "").split()
    if not (number < nodes == len(addresses)):
        raise ConfigError(f"SkyPilot's variables do not fit together: node {number} (SKYPILOT_NODE_RANK) of {nodes} "
                          f"(SKYPILOT_NUM_NODES), and {len(addresses)} addresses (SKYPILOT_NODE_IPS)")  # fmt: skip
    return Node(ranks, number, nodes, addresses[0])


def _whole(name: str, environment: Mapping[str, str]) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ConfigError(f"{name} is a whole number, set by SkyPilot for a job of several nodes; got {text!r}")
    return int(text)


def _count_ranks(config: TrainConfig, environment: Mapping[str, str]) -> int:
    # `accelerate launch` leaves no RANK where it starts a single process; its other variables say that it was there.
    if config.device == "cpu" or "ACCELERATE_MIXED_PRECISION" in environment:
        return 1
    # torch knows best what it can use (CUDA_VISIBLE_DEVICES, MIG, its own build) and starts no GPU to count them.
    # Where there is at most one, this process trains and needs torch anyway.
    from torch.cuda import device_count

    return max(1, device_count())


def environments(node: Node, config: TrainConfig, cpus: int) -> list[dict[str, str]]:
    """The variables of each rank of this node, in torchrun's names.

    Args:
        node: how many, and where.
        config: its `launch.port` is where several nodes meet; one node takes a free one.
        cpus: of this node, shared among its ranks unless `threads` or OMP_NUM_THREADS is set.
    """
    port = free_port() if node.nodes == 1 else config.launch.port
    threads = config.threads or max(1, cpus // node.ranks)
    return [
        {
            "RANK": str(node.number * node.ranks + local),
            "WORLD_SIZE": str(node.world_size),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(node.ranks),
            "MASTER_ADDR": node.address,
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        }
        for local in range(node.ranks)
    ]


def free_port() -> int:
    """A TCP port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
