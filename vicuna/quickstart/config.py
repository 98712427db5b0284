"""Settings of the quickstart."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SizeConfig:
    """How big everything is."""

    conversations: int = 2000
    """Raw conversations in the sample corpus."""
    vocabulary: int = 2048
    """Tokens in the tokenizer."""
    hidden: int = 192
    """Width of the model."""
    layers: int = 4
    """Decoder layers of the model."""
    base_epochs: float = 2.0
    """Passes over the plain text for the base model."""
    epochs: float = 5.0
    """Passes over the conversations for fine-tuning."""

    def __post_init__(self) -> None:
        if self.conversations < 200:
            raise ValueError(
                f"conversations is at least 200, or no questions can be held out; got {self.conversations}"
            )


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who compares the two models."""

    base_url: str = ""
    """OpenAI-compatible endpoint of a judge, up to and including /v1; with it, or with OPENAI_API_KEY in the
    environment, a language model judges, else the offline reference judge."""
    model: str = ""
    """The judging model's name; empty takes the evaluation's default."""


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """From raw chat pages to a judged chatbot on this machine's CPU, then the demo until Ctrl-C."""

    out: str = "runs/quickstart"
    """Folder for everything that is made; a second run uses what is finished there."""
    seed: int = 0
    """Decides the corpus, the weights and the order of training."""
    demo: bool = True
    """Leave the demo running at the end; --no-demo ends instead."""
    port: int = 8000
    """Port of the OpenAI-compatible API; 0 takes any free one."""
    web_port: int = 7860
    """Port of the demo; 0 takes any free one."""
    size: SizeConfig = field(default_factory=SizeConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        for name in ("port", "web_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} is 1 to 65535, or 0 for any free one; got {getattr(self, name)}")
        if self.port and self.port == self.web_port:
            raise ValueError(f"web_port is another one than port; both are {self.port}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number from 0 to below 2^63; got {self.seed}")
