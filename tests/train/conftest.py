"""A tiny world to train in: 60 conversations, a tokenizer, a LLaMA of two layers."""

import random
from pathlib import Path

import pytest

from vicuna.conversation import Conversation, Message, write_conversations
from vicuna.train.config import InitConfig, TokenizerConfig
from vicuna.train.init import main as init
from vicuna.train.tokenizer import main as tokenizer

CAPITALS = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Peru": "Lima", "Japan": "Tokyo"}


def conversations(count: int) -> list[Conversation]:
    draw = random.Random(0)
    found = []
    for number in range(count):
        messages: list[Message] = []
        for _ in range(draw.randint(1, 4)):
            country, city = draw.choice(sorted(CAPITALS.items()))
            messages.append(Message("user", f"What is the capital of {country}?"))
            messages.append(Message("assistant", f"The capital of {country} is {city}."))
        found.append(Conversation(f"c{number}", tuple(messages)))
    return found


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with `chats.jsonl`, `tokenizer` and `init`."""
    folder = tmp_path_factory.mktemp("world")
    write_conversations(folder / "chats.jsonl", conversations(60))
    tokenizer(TokenizerConfig(inputs=(str(folder / "chats.jsonl"),), out=str(folder / "tokenizer"), size=451))
    init(
        InitConfig(
            tokenizer=str(folder / "tokenizer"), out=str(folder / "init"),
            hidden=32, layers=2, heads=2, intermediate=64, max_length=256,
        )
    )  # fmt: skip
    return folder
