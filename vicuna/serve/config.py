"""The settings of the serving commands. Nothing heavy is imported here, so that `--help` is quick."""

import ipaddress
import json
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from vicuna.config import ModelConfig, SamplingConfig

LOCAL = "127.0.0.1"
SHORTEST_STALL = 2.0
"""Twice the time between two signs of life, so that one that is late does not count as missing."""
MOST_THREADS = 1024
"""Threads of one computation; more than any machine has cores."""
LONGEST_NAME = 200
"""Characters of a served model's name."""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise ValueError(f"port is 1 to 65535, or 0 for any free one; got {port}")


def _check_address(name: str, address: str) -> None:
    try:
        parts = urlsplit(address)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unclosed bracket, a port that is no port
        fine = False
    if not fine or parts.query or parts.fragment or " " in address:
        raise ValueError(f"{name} is an address such as http://127.0.0.1:8000; got {address!r}")


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if not 1 <= len(name) <= LONGEST_NAME:
            raise ValueError(f"names are 1 to {LONGEST_NAME} characters long; got one of {len(name)}")
        if "@" in name:
            raise ValueError(f"names have no @, which stands before a version; got {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"names are each given once; got {', '.join(names)}")


def _check_version(version: str) -> None:
    if "@" in version or len(version) > LONGEST_NAME:
        raise ValueError(f"version is a short label without @; got {version!r}")


def _check_object(name: str, text: str) -> None:
    try:
        fine = isinstance(json.loads(text), dict)
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(f"{name} is a JSON object; got {text!r}")


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """How much may wait, for how long, and when a worker counts as gone."""

    lease: float = 5.0
    """Seconds after its last heartbeat until a worker is taken off the list."""
    stall: float = 5.0
    """Seconds without a sign of life on an answer's connection until its worker counts as hung; workers give one
    every second."""
    token_stall: float = 60.0
    """Seconds without a new token until a worker counts as hung although it gives signs of life; a long prompt takes
    its time before the first one."""
    connect: float = 1.0
    """Seconds to wait for a connection to a worker."""
    gap: float = 1.5
    """Seconds a request waits for a worker to come (back) when its model has none."""
    queue: int = 256
    """Most requests per model that wait while every worker is busy; the next one is answered with status 429."""
    queue_wait: float = 60.0
    """Seconds a request waits for a busy worker before it is answered with status 429."""
    attempts: int = 5
    """Most workers that may fail in a row at one answer without a token in between; then it ends with an error."""
    request: float = 600.0
    """Seconds until an answer that is still being written is ended with an error."""
    body: int = 4 * 1024 * 1024
    """Most bytes a request's body may have."""
    depth: int = 64
    """Deepest nesting of lists and objects in a request's body."""
    header: int = 32 * 1024
    """Most bytes that a request's first line and headers may have."""
    slow: float = 20.0
    """Seconds without progress until a client that sends its request, or reads its answer, too slowly is cut off; a
    body has to bring 1 KiB per second."""
    choices: int = 16
    """Most answers (`n` times prompts) that one request may ask for."""

    def __post_init__(self) -> None:
        for name in ("lease", "connect", "request", "queue_wait", "token_stall", "slow"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is a time in seconds above 0; got {getattr(self, name)}")
        if self.stall < SHORTEST_STALL:
            raise ValueError(f"stall is a time in seconds, at least {SHORTEST_STALL:g}; got {self.stall}")
        if self.gap < 0:
            raise ValueError(f"gap is a time in seconds, at least 0; got {self.gap}")
        for name in ("attempts", "body", "choices", "queue", "depth", "header"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1; got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """Who may join, and who gets the next request."""

    policy: Literal["least_loaded", "power_of_two", "lottery", "prefix"] = "least_loaded"
    """least_loaded: the smallest share of the capacity in flight; power_of_two: the better of two drawn at random;
    lottery: drawn by capacity; prefix: where the longest beginning of the prompt was computed before."""
    slack: float = 0.25
    """For prefix: by how much of its capacity the worker with the cache may be fuller than the least loaded one."""
    allow: tuple[str, ...] = (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
    )
    """Networks in which workers' addresses may lie; anything else is refused before it is contacted. The default is
    this machine and the private networks."""
    secret: str = ""
    """File with the fleet's secret, the same for controllers and workers; the environment variable
    VICUNA_FLEET_SECRET holds the secret itself. Needed wherever other machines are let in."""

    def __post_init__(self) -> None:
        if self.slack < 0:
            raise ValueError(f"slack is a share of a capacity, at least 0; got {self.slack}")
        for network in self.allow:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"allow has networks such as 10.0.0.0/8; {error}") from error


@dataclass(frozen=True, kw_only=True)
class AccessConfig:
    """Who may use the API."""

    keys: str = ""
    """File with the API keys, made by `python -m vicuna.serve key`; read again when it changes. Empty: no keys."""
    open: bool = False
    """Without keys, answer also people on other machines."""
    cors: tuple[str, ...] = ()
    """Web pages (https://example.org) whose scripts may use the API; none by default."""


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """Encryption of connections, for where no other server in front does it."""

    cert: str = ""
    """File with the certificate (PEM, the chain behind it)."""
    key: str = ""
    """File with the certificate's key (PEM)."""
    ca: str = ""
    """File with the authorities to trust when we connect to others (PEM); empty trusts the system's."""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError(f"cert and key belong together; only {'cert' if self.cert else 'key'} is given")

    @property
    def scheme(self) -> str:
        """How addresses of this process begin."""
        return "https" if self.cert else "http"


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written down while it serves."""

    format: Literal["text", "json"] = "text"
    """text for people; json: one object per line, for programs."""
    prompts: bool = False
    """Write down what people ask and what is answered; nobody expects that, so say it to them."""
    traces: str = ""
    """Address of an OpenTelemetry collector (http://127.0.0.1:4318); needs the extra: pip install 'vicuna[otel]'."""

    def __post_init__(self) -> None:
        if self.traces:
            _check_address("traces", self.traces)


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """Keep the fleet of workers and answer the OpenAI-compatible API in front of them."""

    host: str = LOCAL
    """Address to listen on; 0.0.0.0 listens to other machines too."""
    port: int = 8000
    """Port to listen on; 0 takes any free one."""
    grace: float = 10.0
    """Seconds that open answers may still take after the controller was told to stop."""
    fleet: FleetConfig = field(default_factory=FleetConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        _check_port(self.port)
        if self.grace < 0:
            raise ValueError(f"grace is a time in seconds, at least 0; got {self.grace}")


@dataclass(frozen=True, kw_only=True)
class UpstreamConfig:
    """Another OpenAI-compatible server (vLLM, SGLang, llama.cpp, a commercial API) as this worker's engine."""

    url: str = ""
    """Its address with the path before /chat/completions, such as http://127.0.0.1:8001/v1."""
    model: str = ""
    """The model's name there; empty takes the one that it serves."""
    key: str = "OPENAI_API_KEY"
    """Environment variable with the API key to send; empty or unset sends none."""
    features: tuple[str, ...] = ("chat", "completions", "embeddings", "logprobs", "tools", "response_format")
    """What it can do; requests that need anything else are refused."""
    resume: Literal["no", "assistant", "continue_final_message"] = "no"
    """How it continues an answer that another worker began: not at all; by answering a chat whose last message is the
    assistant's (llama.cpp); or with the setting of that name (vLLM, SGLang)."""
    timeout: float = 60.0
    """Seconds without a byte from it until it counts as hung."""

    def __post_init__(self) -> None:
        if self.url:
            _check_address("url", self.url)
        if self.timeout <= 0:
            raise ValueError(f"timeout is a time in seconds above 0; got {self.timeout}")


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    """vLLM inside the worker; needs the extra: pip install 'vicuna[vllm]'."""

    memory: float = 0.9
    """Share of each GPU's memory that it takes."""
    tensor_parallel: int = 1
    """GPUs that hold one copy of the model together."""
    arguments: str = ""
    """More of vLLM's engine arguments as a JSON object, such as '{"enforce_eager": true}'."""

    def __post_init__(self) -> None:
        if not 0 < self.memory <= 1:
            raise ValueError(f"memory is a share above 0 and at most 1; got {self.memory}")
        if self.tensor_parallel < 1:
            raise ValueError(f"tensor_parallel is at least 1; got {self.tensor_parallel}")
        if self.arguments:
            _check_object("arguments", self.arguments)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What computes the answers."""

    kind: Literal["transformers", "vllm", "upstream", "scripted"] = "transformers"
    """transformers: the model in this process, on a CPU or one GPU; vllm: vLLM in this process, for GPUs; upstream:
    another OpenAI-compatible server; scripted: answers from a file, for tests and benchmarks."""
    script: str = ""
    """For scripted: the YAML file with the answers; empty repeats what was asked."""
    upstream: UpstreamConfig = field(default_factory=UpstreamConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    device: str = "auto"
    """For transformers: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."""
    dtype: str = "auto"
    """For transformers and vllm: float32, bfloat16, float16; auto takes float32 on a CPU and bfloat16 on a GPU."""
    quantize: Literal["", "int8", "nf4"] = ""
    """For transformers: store the weights in 8 or 4 bits while loading; needs the extra: pip install
    'vicuna[quantized]'. A folder whose weights are quantised already needs no setting."""
    slots: int = 0
    """Most answers that are computed at once; 0 chooses from the machine's memory (transformers), else 16."""
    memory: float = 0.0
    """For transformers: GiB for the keys and values of answers under way and of prompts seen before; 0 chooses from the
    machine's memory."""
    prefix_cache: bool = True
    """For transformers and vllm: keep the keys and values of prompts and answers, so that a prompt that begins like an
    earlier one is computed from where they differ."""
    prefill: int = 0
    """For transformers: most prompt tokens in one step; 0 chooses, so that answers under way are not held up for long
    by new prompts."""
    threads: int = 0
    """For transformers on a CPU: threads of one computation; 0 shares this machine's cores."""

    def __post_init__(self) -> None:
        for name in ("slots", "memory", "prefill", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is 0 (choose) or positive; got {getattr(self, name)}")
        if self.threads > MOST_THREADS:
            raise ValueError(f"threads is at most {MOST_THREADS}; got {self.threads}")
        if self.kind == "upstream" and not self.upstream.url:
            raise ValueError("kind upstream needs upstream.url, the address of the other server; got none")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """A LoRA adapter of the model, served as a model of its own."""

    path: str = ""
    """Folder in the format of the library peft (adapter_config.json and adapter_model.safetensors)."""
    names: tuple[str, ...] = ()
    """Names under which it is served; none takes the name of its folder."""
    version: str = ""
    """Label of this version of the adapter."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is the folder of a LoRA adapter; got none")
        _check_names(self.names)
        _check_version(self.version)


@dataclass(frozen=True, kw_only=True)
class HostedConfig:
    """One model, its names, its adapters, and what computes its answers."""

    model: ModelConfig = field(default_factory=ModelConfig)
    names: tuple[str, ...] = ()
    """Names under which the model is served; none takes the name of its folder."""
    version: str = ""
    """Label of this version of the model; with it, workers with other weights may serve the same name (as
    name@version) until they take over."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    adapters: tuple[AdapterConfig, ...] = ()
    """LoRA adapters that this worker serves beside the model itself; the weights of the model are there once."""

    def __post_init__(self) -> None:
        _check_names(self.names)
        _check_version(self.version)
        if self.adapters and self.engine.kind not in ("transformers", "vllm"):
            raise ValueError(f"adapters are for the engines transformers and vllm; got engine {self.engine.kind}")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig(HostedConfig):
    """Load one model or several and answer for them in the fleets of one or more controllers."""

    more: tuple[HostedConfig, ...] = ()
    """Further models in this process, each with an engine and a place in the fleet of its own; they share the
    machine's memory and cores."""
    controllers: tuple[str, ...] = ("http://127.0.0.1:8000",)
    """Addresses of the controllers to join."""
    secret: str = ""
    """File with the fleet's secret; the environment variable VICUNA_FLEET_SECRET holds the secret itself."""
    host: str = LOCAL
    """Address to listen on; 0.0.0.0 listens to other machines too."""
    port: int = 0
    """Port to listen on; 0 takes any free one. The models of `more` listen on the ports after it."""
    advertise: str = ""
    """Address under which controllers reach this worker; empty works it out from host and port. Those of `more` count
    up from its port."""
    heartbeat: float = 1.0
    """Seconds between two signs of life to each controller."""
    drain: float = 30.0
    """Seconds that running answers may still take after the worker was told to stop; what is left then goes to other
    workers. For a spot machine, a little less than its notice."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        HostedConfig.__post_init__(self)
        _check_port(self.port)
        for controller in self.controllers:
            _check_address("controllers", controller)
        if not self.controllers:
            raise ValueError("controllers are the fleets to join, at least one; got none")
        if self.advertise:
            _check_address("advertise", self.advertise)
            if urlsplit(self.advertise).path.strip("/"):
                raise ValueError(f"advertise is scheme, host and port with no path behind them; got {self.advertise!r}")
        if self.heartbeat <= 0:
            raise ValueError(f"heartbeat is a time in seconds above 0; got {self.heartbeat}")
        if self.drain < 0:
            raise ValueError(f"drain is a time in seconds, at least 0; got {self.drain}")

    @property
    def hosted(self) -> tuple[HostedConfig, ...]:
        """All models of this worker."""
        return (self, *self.more)


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """Serve the chat page, a client of an OpenAI-compatible API."""

    api: str = "http://127.0.0.1:8000"
    """Address of the API, without /v1."""
    host: str = LOCAL
    """Address to listen on; 0.0.0.0 listens to other machines too."""
    port: int = 7860
    """Port to listen on; 0 takes any free one."""
    title: str = "Vicuna"
    """Heading of the page."""
    about: str = "A chatbot that was fine-tuned from shared conversations. It can be wrong; check what matters."
    """One or two sentences under the heading."""
    examples: tuple[str, ...] = (
        "What is your name?",
        "How many minutes are in 3 hours?",
        "What is the capital of France?",
        "What is the opposite of hot?",
    )
    """Questions offered on the empty page."""
    system: str = ""
    """System prompt to begin with; people can change it."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sessions: int = 100
    """Most answers that are streamed to people at once."""

    def __post_init__(self) -> None:
        _check_port(self.port)
        _check_address("api", self.api)
        if self.api.rstrip("/").endswith("/v1"):
            raise ValueError(f"api is given without /v1; got {self.api!r}")
        if self.sessions < 1:
            raise ValueError(f"sessions is at least 1; got {self.sessions}")


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Run controllers, workers and the chat page on this machine, and keep them running."""

    controllers: tuple[ControllerConfig, ...] = ()
    """The controllers, side by side; each answers the API for all workers. None given: one with the usual settings."""
    workers: tuple[WorkerConfig, ...] = ()
    """The workers; they join all of this stack's controllers whatever their own `controllers` say."""
    web: WebConfig = field(default_factory=WebConfig)
    page: bool = True
    """Serve the chat page too."""
    stop: float = 3.0
    """Seconds that each process may take to end before it is killed."""

    def __post_init__(self) -> None:
        if self.stop <= 0:
            raise ValueError(f"stop is a time in seconds above 0; got {self.stop}")
