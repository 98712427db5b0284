"""The settings of the terminal client."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from vicuna.config import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Talk to a served model in the terminal. The API key is read from VICUNA_API_KEY, else from OPENAI_API_KEY."""

    api: str = "http://127.0.0.1:8000"
    """Address of an OpenAI-compatible API; one without a path stands for its /v1."""
    model: str = ""
    """The model to talk to; empty takes the first that is served."""
    system: str = ""
    """System prompt; empty for none."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.api)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # an unclosed bracket, a port that is no port
            fine = False
        if not fine or parts.query or parts.fragment or " " in self.api:
            raise ValueError(f"api is an address such as http://127.0.0.1:8000; got {self.api!r}")

    @property
    def base_url(self) -> str:
        """What stands before /chat/completions."""
        address = self.api.rstrip("/")
        return address if urlsplit(address).path else f"{address}/v1"
