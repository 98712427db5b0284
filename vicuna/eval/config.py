"""Settings of the evaluation commands."""

from dataclasses import dataclass, field
from typing import Literal

from vicuna.config import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """The OpenAI-compatible server that the models are asked through."""

    base_url: str = "http://127.0.0.1:8000/v1"
    """Address up to and including /v1; the default is a local controller."""
    key_env: str = ""
    """Environment variable that holds the server's API key; empty for a server that needs none."""
    concurrency: int = 16
    """The most requests under way at the same time."""
    timeout: float = 120.0
    """Seconds to wait for one answer."""
    attempts: int = 6
    """Tries for each request; a wait that the server asks for (retry-after, up to two minutes) is kept."""

    def __post_init__(self) -> None:
        _check_endpoint(self.base_url, self.concurrency, self.timeout, self.attempts)


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who compares the answers."""

    kind: Literal["llm", "reference"] = "llm"
    """"llm" asks a language model for two scores; "reference" is the offline reference judge, which grades each
    answer against the known one."""
    model: str = "gpt-4.1-2025-04-14"
    """The judging model's name at its endpoint; a dated name keeps the judge the same."""
    base_url: str = "https://api.openai.com/v1"
    """Address of the judge's OpenAI-compatible endpoint, up to and including /v1."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the judge's API key; a base_url of your own needs none."""
    temperature: float | None = 0.0
    """Sampling temperature; null leaves it to the endpoint (some models accept no other)."""
    max_tokens: int = 2048
    """The most tokens of one verdict, hidden reasoning included."""
    concurrency: int = 16
    """The most judge calls under way at the same time."""
    timeout: float = 180.0
    """Seconds to wait for one verdict."""
    attempts: int = 6
    """Tries for each call; a wait that the server asks for (retry-after, up to two minutes) is kept."""

    def __post_init__(self) -> None:
        _check_endpoint(self.base_url, self.concurrency, self.timeout, self.attempts)
        if self.max_tokens < 16:
            raise ValueError(f"max_tokens leaves room for a verdict, so at least 16; got {self.max_tokens}")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is 0 to 2, or null; got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class Override:
    """One model that is asked in its own way: another endpoint, other sampling, or both."""

    model: str
    """The model's name, as in --models."""
    endpoint: EndpointConfig | None = None
    """Where it is served; null is the common endpoint."""
    sampling: SamplingConfig | None = None
    """How it samples; null is the common sampling."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Compare chatbots: ask them the same questions, judge the answers in pairs, write tables and a report.

    Other commands: `rescore` (judgement files of other projects), `report` (a run folder again, offline).
    """

    questions: str = "vicuna-80"
    """vicuna-80, the 80 that come with the package, or a JSON Lines file of questions: our layout or MT-bench's, the
    2023 layout, AlpacaEval or Arena-Hard."""
    models: tuple[str, ...] = ()
    """Models to compare, the one under test first; empty takes all that the endpoint serves."""
    baseline: str = ""
    """The model that the others are measured against; empty is the last one."""
    pairs: Literal["baseline", "all"] = "baseline"
    """"baseline" judges every model against the baseline, "all" every pair of models."""
    out: str = "runs/eval"
    """Run folder: answers, every judge call, scores and the report; a second run continues what is there."""
    system: str = ""
    """System message sent before each question; empty sends none."""
    fail_under: float | None = None
    """Exit with status 1 if the win rate of the first model (that is not the baseline) is below this share, 0 to 1."""
    seed: int = 0
    """Seed of the bootstrap intervals."""
    resamples: int = 10_000
    """Bootstrap resamples behind each interval."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    overrides: tuple[Override, ...] = ()
    """Models that are asked in another way than the common one."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError("questions is vicuna-80 or a file; it cannot be empty")
        doubled = sorted({name for name in self.models if self.models.count(name) > 1})
        if doubled:
            raise ValueError(f"models are named once each; {doubled[0]} is there twice")
        if self.baseline and self.models and self.baseline not in self.models:
            raise ValueError(f"baseline is one of the models ({', '.join(self.models)}); got {self.baseline}")
        if self.fail_under is not None and not 0 <= self.fail_under <= 1:
            raise ValueError(f"fail_under is a share from 0 to 1; got {self.fail_under}")
        if self.resamples < 100:
            raise ValueError(f"resamples is at least 100; got {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed is 0 or larger; got {self.seed}")

    def endpoint_of(self, model: str) -> EndpointConfig:
        """Where `model` is asked."""
        own = [each.endpoint for each in self.overrides if each.model == model and each.endpoint]
        return own[0] if own else self.endpoint

    def sampling_of(self, model: str) -> SamplingConfig:
        """How `model` samples."""
        own = [each.sampling for each in self.overrides if each.model == model and each.sampling]
        return own[0] if own else self.sampling


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """Read judgement files again from their raw texts: 2023 pair reviews, MT-bench single and pair judgements."""

    reviews: tuple[str, ...]
    """JSON Lines files; their recorded scores are only compared with, never used."""
    out: str
    """Folder for scores.json and report.html."""
    questions: str = ""
    """Question file (or vicuna-80), for categories; empty puts every row into one."""
    answers: tuple[str, ...] = ()
    """Answer files whose answer_id and model_id name the models of 2023 reviews; empty goes by the file names."""
    seed: int = 0
    """Seed of the bootstrap intervals."""
    resamples: int = 10_000
    """Bootstrap resamples behind each interval."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Score a run folder again from its raw texts and write its report: offline, no model is asked."""

    run: str = field(default="", metadata={"positional": "RUN"})
    """Run folder of an evaluation."""


def _check_endpoint(base_url: str, concurrency: int, timeout: float, attempts: int) -> None:
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base_url is an address like http://HOST:PORT/v1; got {base_url!r}")
    if concurrency < 1:
        raise ValueError(f"concurrency is at least 1; got {concurrency}")
    if timeout <= 0:
        raise ValueError(f"timeout is in seconds, above 0; got {timeout}")
    if attempts < 1:
        raise ValueError(f"attempts is at least 1; got {attempts}")
