"""Settings of the training commands. The defaults are the recipe of Vicuna 7B, fully fine-tuned on one node."""

import math
from dataclasses import dataclass, field
from typing import Literal

from vicuna.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learnt from."""

    path: str = ""
    """Folder that `vicuna.data` made, or one file of conversations (JSON Lines, zstd or Parquet)."""
    format: Literal["conversations", "text"] = "conversations"
    """conversations: learn the answers; text: learn all of it as plain text, without roles (a base model)."""
    rounds: Literal["all", "single"] = "all"
    """all: a conversation is one sample; single: every round of it is a sample of its own, as in Alpaca."""
    overlong: Literal["drop", "cut"] = "drop"
    """A sample of more than model.max_length tokens is left out, or loses its end; both are counted."""
    held_out: str = ""
    """Folder or file of conversations for the held-out loss, like `path`; they are never learnt."""
    held_out_share: float = 0.0
    """Without `held_out`: share of the conversations that is kept from learning for it, chosen by hash."""
    cache: str = ""
    """Folder of tokenised data, which several runs may share; empty is `tokens` in the run folder."""
    workers: int = 0
    """Processes that tokenise; 0 takes one for each CPU."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share is a share from 0 to below 1; got {self.held_out_share}")
        if self.held_out and self.held_out_share:
            raise ValueError("held_out_share takes from data.path what held_out gives already; set only one of them")
        if self.workers < 0:
            raise ValueError(f"workers is 0 (one for each CPU) or a count; got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw, or the same with its states in 8 bits (package bitsandbytes)."""
    lr: float = 2e-5
    """Peak learning rate, reached when warm-up ends."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after warm-up."""
    warmup: float = 0.03
    """Share of all steps spent warming up, from 0 to below 1."""
    final: float = 0.0
    """Share of the peak rate at which the schedule ends, one step after the last."""
    weight_decay: float = 0.0
    """Decay of matrices (not of norms and biases) per unit of learning rate."""
    beta1: float = 0.9
    """Memory of the gradient's mean."""
    beta2: float = 0.999
    """Memory of the gradient's square."""
    max_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is a learning rate above 0; got {self.lr}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share from 0 to below 1; got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is 0 or above; got {self.weight_decay}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the run, so 0 to below 1; got {self.warmup}")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is a share of the peak rate, so 0 to 1; got {self.final}")
        if not self.max_norm > 0:
            raise ValueError(f"max_norm is above 0; got {self.max_norm}")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many tokens go into one step. The same on any number of ranks, so that a run may change its machines."""

    bins: int = 128
    """Bins in one optimiser step, over all ranks; a rank takes its share of them in as many passes as it needs."""
    tokens: int = 0
    """Tokens in a bin, which is one forward pass: whole samples, packed without padding; 0 is model.max_length."""
    epochs: float = 3.0
    """Times that the data is gone through; 0.5 is half of it."""
    max_steps: int = 0
    """Stop after this many optimiser steps; 0 is no limit."""

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins is at least 1; got {self.bins}")
        if self.tokens < 0:
            raise ValueError(f"tokens is 0 (model.max_length) or a count; got {self.tokens}")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs is a number above 0; got {self.epochs}")
        if self.max_steps < 0:
            raise ValueError(f"max_steps is 0 (no limit) or a count; got {self.max_steps}")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Learn a small addition to the weights instead of the weights."""

    kind: Literal["none", "lora", "qlora"] = "none"
    """none: all weights learn; lora: low-rank additions to frozen weights; qlora: those weights in 4 bits."""
    rank: int = 16
    """Rank of each addition."""
    alpha: float = 32.0
    """The addition is scaled by alpha / rank."""
    dropout: float = 0.0
    """Probability of dropping an input of the addition in training."""
    targets: tuple[str, ...] = ("all-linear",)
    """Names of the linear layers that get one, such as q_proj; all-linear is all but the output matrix."""
    merge: bool = False
    """Write the whole model with the addition merged into it, instead of the adapter alone."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is at least 1; got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is above 0; got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability from 0 to below 1; got {self.dropout}")
        if not self.targets:
            raise ValueError("targets names at least one kind of layer, or all-linear")


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Context beyond the base model's, by scaled rotary positions."""

    kind: Literal["none", "linear", "yarn"] = "none"
    """none: the base model's own positions; the others are transformers' `rope_type`s."""
    factor: float = 1.0
    """The context grows by this factor."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor is 1 or above; got {self.factor}")
        if (self.kind == "none") != (self.factor == 1):
            raise ValueError(f"kind is {self.kind}, and factor is {self.factor}; set both, or neither")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Which processes train. Under torchrun, accelerate launch or SkyPilot's variables the run joins what is there."""

    ranks: int = 0
    """Processes that this node starts; 0 is one for each GPU, or one on a CPU."""
    port: int = 29511
    """Where the ranks of several nodes meet, on the first node; one node takes any free port."""
    timeout: float = 600.0
    """Seconds that a rank waits for the others in a step or a checkpoint before it gives up."""
    gpu: str = ""
    """GPU to plan for in a dry run on another machine, such as A100-80GB or H100; empty is what is there."""

    def __post_init__(self) -> None:
        if self.ranks < 0:
            raise ValueError(f"ranks is 0 (one for each GPU) or a count; got {self.ranks}")
        if not 0 < self.port < 65536:
            raise ValueError(f"port is 1 to 65535; got {self.port}")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout is above 0 seconds; got {self.timeout}")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """What each rank holds."""

    shard: Literal["auto", "on", "off"] = "auto"
    """Split weights, gradients and optimiser over the ranks (FSDP2). auto: on, but for one CPU rank and for qlora."""
    cpu_offload: bool = False
    """Keep weights and optimiser in main memory and bring layers to the GPU one by one: slow, for small GPUs."""
    reshard: bool = True
    """Give a layer's weights back after its forward pass and gather them again for the backward pass."""

    def __post_init__(self) -> None:
        if self.cpu_offload and self.shard == "off":
            raise ValueError("cpu_offload needs sharded weights; leave shard at auto or on")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept so that a killed run can go on."""

    every: int | Literal["auto"] = "auto"
    """Optimiser steps between checkpoints; 0 writes none; auto: from the measured time of one and from `mtbf`."""
    keep: int = 2
    """How many of the newest complete checkpoints stay."""
    mtbf: float = 2.0
    """Hours between preemptions that are expected, for auto."""
    asynchronous: bool = True
    """Go on training while the copy of the state is written."""

    def __post_init__(self) -> None:
        if self.every != "auto" and self.every < 0:
            raise ValueError(f"every is auto, 0 (never) or a number of steps; got {self.every}")
        if self.keep < 1:
            raise ValueError(f"keep is at least 1; got {self.keep}")
        if not 0 < self.mtbf < math.inf:
            raise ValueError(f"mtbf is above 0 hours; got {self.mtbf}")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The trained model's folder."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights in the folder; auto is that of the base model's."""
    shard_gb: float = 5.0
    """Most gigabytes in one file."""

    def __post_init__(self) -> None:
        if not self.shard_gb > 0:
            raise ValueError(f"shard_gb is above 0; got {self.shard_gb}")


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Who is told how the run goes, besides the screen, metrics.jsonl and the report."""

    tracker: Literal["auto", "none", "tensorboard", "wandb"] = "auto"
    """auto is tensorboard where it is installed."""
    project: str = "vicuna"
    """Name of the project at the tracker."""
    log_every: int = 10
    """Optimiser steps between progress lines."""
    held_out_every: int = 100
    """Optimiser steps between held-out losses, where `data` holds something out."""
    price: float = 0.0
    """US dollars for an hour of one GPU; 0 takes it from the price table in vicuna/hardware.py."""

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise ValueError(f"log_every is at least 1; got {self.log_every}")
        if self.held_out_every < 1:
            raise ValueError(f"held_out_every is at least 1; got {self.held_out_every}")
        if not 0 <= self.price < math.inf:
            raise ValueError(f"price is 0 (from the table) or above; got {self.price}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune a base model on cleaned conversations."""

    out: str = "runs/train"
    """Run folder; the trained model is in its `model` folder."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    rope: RopeConfig = field(default_factory=RopeConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of forward and backward; weights learn in float32. auto: bfloat16 on CUDA, else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPUs if there are any."""
    attention: Literal["auto", "flash3", "flash2", "varlen", "flex", "sdpa"] = "auto"
    """Kernel of packed attention. auto: the first of these that is there and does forward and backward."""
    gradient_checkpointing: int = 1
    """Recompute activations in the backward pass: 0 in no layer, 1 in all, k in every k-th. Less memory, more work."""
    compile: bool = False
    """Compile the decoder layers with torch.compile; worth it in long runs on GPUs."""
    tf32: bool = True
    """Let float32 products on CUDA use TF32."""
    threads: int = 0
    """CPU threads of each rank; 0 shares the CPUs among the node's ranks."""
    seed: int = 0
    """Decides the order of the samples, and the dropout."""
    dry_run: bool = False
    """Print what the run would take - memory, steps, hours, cost - and stop there."""

    def __post_init__(self) -> None:
        if 0 < self.batch.tokens < self.model.max_length:
            raise ValueError(
                f"batch.tokens ({self.batch.tokens}) has to hold one sample of model.max_length "
                f"({self.model.max_length}) tokens; raise --batch.tokens or lower --model.max_length"
            )
        if self.gradient_checkpointing < 0:
            raise ValueError(f"gradient_checkpointing is 0, 1 or a number of layers; got {self.gradient_checkpointing}")
        if self.lora.kind == "qlora" and self.parallel.shard == "on":
            raise ValueError("parallel.shard is on, and weights in 4 bits are not sharded; leave it at auto")
        if self.lora.kind != "none" and self.data.format == "text":
            raise ValueError("data.format is text, for base models; an adapter learns conversations")
        if self.lora.kind != "none" and not self.lora.merge and self.rope.kind != "none":
            raise ValueError(
                f"rope.kind is {self.rope.kind}, which an adapter does not carry along; set lora.merge true"
            )
        if self.threads < 0:
            raise ValueError(f"threads is 0 (the CPUs are shared) or a count; got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number from 0 to below 2^63; got {self.seed}")
        if not self.out:
            raise ValueError("out is a folder; got nothing")

    @property
    def capacity(self) -> int:
        """Tokens in a bin."""
        return self.batch.tokens or self.model.max_length


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Train a BPE tokenizer on the text of conversations."""

    inputs: tuple[str, ...] = field(metadata={"positional": "IN"})
    """Folders that `vicuna.data` made, or JSON Lines files of conversations."""
    out: str = "runs/tokenizer"
    """Folder for the tokenizer."""
    size: int = 2048
    """Tokens in the vocabulary, 256 byte tokens and 4 special ones among them."""
    template: str = "vicuna_v1.1"
    """Prompt template; its words are learnt too, and it becomes the tokenizer's chat template."""

    def __post_init__(self) -> None:
        if self.size < 300:
            raise ValueError(f"size has to hold 256 bytes, 4 special tokens and some words; got {self.size}")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Make a LLaMA with random weights, to train a base model from nothing."""

    tokenizer: str = field(metadata={"positional": "TOKENIZER"})
    """Folder of the tokenizer."""
    out: str = "runs/init"
    """Folder for the checkpoint."""
    hidden: int = 192
    """Width of the residual stream; a multiple of heads."""
    layers: int = 4
    """Decoder layers."""
    heads: int = 4
    """Attention heads."""
    intermediate: int = 512
    """Width of the feed-forward part."""
    max_length: int = 512
    """Context in tokens."""
    tie: bool = True
    """Use the same matrix for reading and for predicting tokens."""
    seed: int = 0
    """Decides the weights."""

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "intermediate", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1; got {getattr(self, name)}")
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden is heads times an even number; got {self.hidden} for {self.heads} heads")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the page of a run, finished or not: RUN/report.html."""

    run: str = field(metadata={"positional": "RUN"})
    """Folder of the run."""
