"""The model that learns is the base model, whole or split over ranks, and is gathered as it was."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, LlamaConfig, LlamaForCausalLM, LlavaConfig

from vicuna.config import from_dict
from vicuna.errors import InputError
from vicuna.models.load import load_model, load_tokenizer
from vicuna.train.config import TrainConfig
from vicuna.train.model import Precision, build, read_settings, whole_tensors
from vicuna.train.parallel import World, joined

SHAPE = {
    "vocab_size": 451, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
}  # fmt: skip
CPU = torch.device("cpu")


def experts() -> Glm4MoeForCausalLM:
    """Its routers have a bias that is learnt without gradients, so it is a buffer."""
    options = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    model = Glm4MoeForCausalLM(Glm4MoeConfig(**SHAPE, **options, pad_token_id=None))
    for name, buffer in model.named_buffers():
        if name.endswith("correction_bias"):
            buffer.copy_(torch.tensor([0.3, -0.2, 0.1, 0.4]))
    return model


MODELS = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "apart": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "experts": experts,
}


@contextlib.contextmanager
def one_rank(shard: str) -> Iterator[World]:
    with joined("cpu", 60, alone_too=shard == "on") as world:
        yield world


def base(world: Path, folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    MODELS[kind]().save_pretrained(folder)
    for each in (world / "tokenizer").glob("tokenizer*"):
        shutil.copy(each, folder)
    return folder


@pytest.mark.parametrize("shard", ["off", "on"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_of_the_base_model_is_there_and_is_gathered_again(world, tmp_path, kind, shard):
    folder = base(world, tmp_path, kind)
    stored = load_model(folder, torch.float32, "cpu").state_dict()
    with one_rank(shard) as alone:
        config = from_dict(TrainConfig, {"model": {"max_length": 256}, "parallel": {"shard": shard}}, "a test")
        objective, _ = build(config, folder, load_tokenizer(folder), alone, Precision(CPU, torch.float32))
        found = dict(whole_tensors(objective.model, CPU))
    assert set(found) | {"lm_head.weight"} == set(stored)
    assert ("lm_head.weight" in found) == (kind != "tied")
    assert all(torch.equal(value, stored[name]) for name, value in found.items())


def test_a_model_of_more_than_text_is_refused(tmp_path):
    LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="llava model, in which text is one part of several"):
        read_settings(TrainConfig(), tmp_path)
