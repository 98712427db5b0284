"""Under which names a worker serves its model."""

from pathlib import Path

from vicuna.errors import ConfigError
from vicuna.serve.config import WorkerConfig


def served_names(config: WorkerConfig) -> tuple[str, ...]:
    """The names that the settings give, else that of the model's folder.

    Raises:
        ConfigError: there is neither a name nor a folder to take one from.
    """
    if config.names:
        return config.names
    folder = Path(config.model.path).resolve().name if config.model.path else ""
    if not folder:
        raise ConfigError("a worker needs --model.path FOLDER (or, for the scripted engine, --names NAME)")
    return (folder,)
