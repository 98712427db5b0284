"""Settings of the training commands."""

import math
from dataclasses import dataclass, field
from typing import Literal

from vicuna.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learnt from."""

    path: str = ""
    """Folder that `vicuna.data` made, or one JSON Lines file of conversations."""
    format: Literal["conversations", "text"] = "conversations"
    """conversations: learn the answers; text: learn all of it as plain text, without roles (a base model)."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move (AdamW)."""

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
    """How many tokens go into one step."""

    tokens: int = 4096
    """Tokens of one forward pass; whole samples are packed into it without padding between them."""
    accumulation: int = 1
    """Forward and backward passes for one optimiser step."""
    epochs: float = 3.0
    """Passes over the data; a part of a pass is allowed."""
    max_steps: int = 0
    """Stop after this many optimiser steps; 0 is no limit."""

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise ValueError(f"accumulation is at least 1; got {self.accumulation}")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs is a number of passes above 0; got {self.epochs}")
        if self.max_steps < 0:
            raise ValueError(f"max_steps is 0 (no limit) or a count; got {self.max_steps}")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept so that a killed run can go on."""

    every: int = 200
    """Optimiser steps between checkpoints; 0 writes none."""
    keep: int = 2
    """How many of the newest complete checkpoints stay."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every is 0 (never) or a number of steps; got {self.every}")
        if self.keep < 1:
            raise ValueError(f"keep is at least 1; got {self.keep}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune a base model on cleaned conversations."""

    out: str = "runs/train"
    """Run folder; the trained model is in its `model` folder."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of forward and backward; weights stay float32. auto: bfloat16 on CUDA, else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU if there is one."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""
    threads: int = 0
    """CPU threads; 0 leaves it to torch."""
    seed: int = 0
    """Decides the order of the samples."""
    log_every: int = 10
    """Optimiser steps between progress lines."""

    def __post_init__(self) -> None:
        if self.batch.tokens < self.model.max_length:
            raise ValueError(
                f"batch.tokens ({self.batch.tokens}) has to hold one sample of model.max_length "
                f"({self.model.max_length}) tokens; raise --batch.tokens or lower --model.max_length"
            )
        if self.log_every < 1:
            raise ValueError(f"log_every is at least 1; got {self.log_every}")
        if self.threads < 0:
            raise ValueError(f"threads is 0 (torch decides) or a count; got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number from 0 to below 2^63; got {self.seed}")
        if not self.out:
            raise ValueError("out is a folder; got nothing")


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
        if min(self.hidden, self.layers, self.heads, self.intermediate, self.max_length) < 1:
            raise ValueError("hidden, layers, heads, intermediate and max_length are all at least 1")
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden is heads times an even number; got {self.hidden} for {self.heads} heads")
