"""Under which names the models and adapters of a worker's process are served."""

from collections.abc import Iterator
from pathlib import Path

from vicuna.errors import ConfigError
from vicuna.serve.config import AdapterConfig, HostedConfig, WorkerConfig


def names_of(config: HostedConfig | AdapterConfig, place: str = "") -> tuple[str, ...]:
    """The names that the settings of a model or an adapter give, else that of its folder.

    Args:
        config: the model or adapter.
        place: where its settings stand, such as `more[0].`, for errors.

    Raises:
        ConfigError: there is neither a name nor a folder to take one from.
    """
    if config.names:
        return config.names
    key, path = ("path", config.path) if isinstance(config, AdapterConfig) else ("model.path", config.model.path)
    if folder := Path(path).resolve().name if path else "":
        return (folder,)
    if path:
        raise ConfigError(f"{place}{key} {path} has no last part to take a name from; set {place}names")
    if place:
        raise ConfigError(f"{place}{key} is a folder; got none (the scripted engine takes {place}names instead)")
    raise ConfigError("a worker needs --model.path FOLDER (or, for the scripted engine, --names NAME)")


def served_names(config: WorkerConfig, place: str = "") -> tuple[str, ...]:
    """All names that a worker's process serves: of its models and of their adapters.

    Args:
        config: its settings.
        place: where they stand, such as `workers[1].`, for errors.

    Raises:
        ConfigError: one has no name, or two have the same.
    """
    owners: dict[str, str] = {}
    for inside, part in _parts(config):
        for name in names_of(part, place + inside):
            other = owners.setdefault(name, inside)
            if other != inside:
                whose = f"that of {(place + other).rstrip('.')}" if other else "the first model's"
                raise ConfigError(f"{place}{inside}names: the name {name!r} is {whose} already; give another one")
    return tuple(owners)


def _parts(config: WorkerConfig) -> Iterator[tuple[str, HostedConfig | AdapterConfig]]:
    """Every model and adapter, and where its settings stand."""
    for number, hosted in enumerate(config.hosted):
        place = f"more[{number - 1}]." if number else ""
        yield place, hosted
        for index, adapter in enumerate(hosted.adapters):
            yield f"{place}adapters[{index}].", adapter
