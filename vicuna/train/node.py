"""What started this process, and which ranks its node has."""

from collections.abc import Mapping
from dataclasses import dataclass

from vicuna.errors import ConfigError
from vicuna.train.config import TrainConfig


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


def need_inputs(config: TrainConfig) -> None:
    """Check what every run needs; cheap, so that it is said once and before any rank starts.

    Raises:
        ConfigError: no base model, no data, or neither; the flags that give them are named.
    """
    needed = {
        "model.path": "a base model (its folder, or its name on the hub, such as huggyllama/llama-7b)",
        "data.path": "cleaned conversations",
    }
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
