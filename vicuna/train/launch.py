"""Which processes train: this one, as one of the ranks that somebody started; this one alone; or ranks of its own."""

import os
import socket
import sys
from collections.abc import Sequence

from vicuna import lifeline
from vicuna.hardware import cpu_count
from vicuna.train.config import TrainConfig
from vicuna.train.node import Node, find_node, is_rank, need_inputs
from vicuna.train.supervise import supervise


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
