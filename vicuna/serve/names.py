"""Under which names a worker serves its models."""

from pathlib import Path

from vicuna.errors import ConfigError
from vicuna.serve.config import AdapterConfig, HostedConfig, WorkerConfig


def names_of(config: HostedConfig | AdapterConfig) -> tuple[str, ...]:
    """The names that the settings of a model or an adapter give, else that of its folder.

    Raises:
        ConfigError: there is neither a name nor a folder to take one from.
    """
    if config.names:
        return config.names
    path = config.path if isinstance(config, AdapterConfig) else config.model.path
    folder = Path(path).resolve().name if path else ""
    if not folder:
        raise ConfigError("a worker needs --model.path FOLDER (or, for the scripted engine, --names NAME)")
    return (folder,)


def served_names(config: WorkerConfig) -> tuple[str, ...]:
    """All names that a worker serves: of its models and of their adapters.

    Raises:
        ConfigError: one has no name, or two have the same.
    """
    parts: list[HostedConfig | AdapterConfig] = []
    for hosted in config.hosted:
        parts += [hosted, *hosted.adapters]
    names = [name for each in parts for name in names_of(each)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two models or adapters of this worker have the name {twice[0]}; set their `names`")
    return tuple(names)
