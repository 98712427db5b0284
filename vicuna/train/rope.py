"""A longer context than the base model's, by scaled rotary positions."""

from typing import Any

from vicuna.errors import ConfigError
from vicuna.train.config import RopeConfig


def scale_positions(model_config: Any, rope: RopeConfig) -> None:
    """Write the scaling into the configuration from which a model is built, and which is exported with it.

    linear divides every position by the factor (Chen et al. 2023, arXiv 2306.15595); yarn does so for the slow
    rotations only and sharpens attention a little (Peng et al. 2023, arXiv 2309.00071).

    Args:
        model_config: transformers' configuration, changed in place: `rope_parameters` says how, and
            `max_position_embeddings` grows by the factor.
        rope: kind and factor; kind none changes nothing.

    Raises:
        ConfigError: the model has no rotary positions, more than one kind of them, or scaled ones already.
    """
    if rope.kind == "none":
        return
    parameters = getattr(model_config, "rope_parameters", None)
    limit = getattr(model_config, "max_position_embeddings", None)
    name = model_config.model_type
    if not parameters or not limit:
        raise ConfigError(f"rope.kind is {rope.kind}, and a {name} model has no rotary positions; leave it at none")
    kind = parameters.get("rope_type")
    if kind is None:
        raise ConfigError(f"rope.kind is {rope.kind}, and layers of a {name} model differ in their rotary positions, "
                          "which is not supported; leave it at none")  # fmt: skip
    if kind != "default":
        raise ConfigError(f"rope.kind is {rope.kind}, and the positions of this {name} model are scaled already "
                          f"({kind}, context {limit}); leave it at none")  # fmt: skip
    scaling = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind == "yarn":
        scaling["original_max_position_embeddings"] = limit
    model_config.rope_parameters = {**parameters, **scaling}
    model_config.max_position_embeddings = int(limit * rope.factor)
