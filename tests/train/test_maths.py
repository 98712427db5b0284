"""A step computes the same however its samples are put into passes, and however the passes are shared among ranks."""

import math
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from vicuna.config import from_dict
from vicuna.models.load import load_tokenizer
from vicuna.train import attention
from vicuna.train.batch import Batch, make_batch
from vicuna.train.config import TrainConfig
from vicuna.train.dataset import Sample
from vicuna.train.launch import free_port
from vicuna.train.loop import train_step
from vicuna.train.model import Objective, Precision, build, whole_tensors
from vicuna.train.parallel import World, joined

CPU = torch.device("cpu")
PLAIN = Precision(CPU, torch.float32)
CONFIG = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
          "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
RANKS = 3
SHARES = ([[0], []], [[1, 2, 3], [4, 5]], [[], []])
"""Samples of each pass of each rank: a single target, hundreds, and none."""


def make_objective() -> Objective:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    attention.install(model, attention.choose("auto", model.config, CPU, torch.float32))
    return Objective(model, PLAIN)


def samples(lengths: Sequence[int], words: int = 61) -> list[Sample]:
    draw = np.random.default_rng(0)
    made = []
    for number, length in enumerate(lengths):
        is_target = draw.random(length) < 0.5
        is_target[-1] = True
        made.append(Sample(str(number), draw.integers(0, words, length).astype(np.int32), is_target))
    return made


def count(batches: Sequence[Batch]) -> int:
    return sum(len(batch.targets) for batch in batches)


def one_step(objective: Objective, batches: Sequence[Batch], targets: int, world: World) -> tuple[float, float]:
    """With plain descent, in which a rounding error stays as small as it is."""
    return train_step(objective, torch.optim.SGD(objective.parameters(), lr=0.5), batches, targets, 0.5, world)


def learnt(groups: Sequence[Sequence[Sample]]) -> tuple[float, float, list[torch.Tensor]]:
    """Loss, norm and weights after a step with a pass for each group, on one rank."""
    objective = make_objective()
    batches = [make_batch(group, CPU) for group in groups]
    loss, norm = one_step(objective, batches, count(batches), World())
    return loss, norm, [each.detach() for each in objective.parameters()]


def same(one: tuple[float, float, list[torch.Tensor]], other: tuple[float, float, list[torch.Tensor]]) -> bool:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1] == pytest.approx(other[1], rel=1e-4)
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one[2], other[2], strict=True))


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=6), draw=st.data())
def test_passes_accumulate_to_the_same_step_however_the_samples_are_put_into_them(lengths, draw):
    group = samples(lengths)
    cuts = [*sorted(draw.draw(st.sets(st.integers(0, len(group))))), len(group)]
    passes = [group[start:end] for start, end in zip([0, *cuts], cuts)]  # some of them empty
    assert same(learnt(passes), learnt([group]))


def test_eight_passes_of_one_sample_are_one_pass_of_eight():
    group = samples([7, 15, 3, 11, 2, 20, 9, 4])
    assert same(learnt([[each] for each in group]), learnt([group]))


def test_the_loss_is_the_mean_over_the_targets_of_all_passes_and_not_of_their_means():
    one, other = samples([3, 20])
    alone = [learnt([[each]])[0] for each in (one, other)]
    targets = [count([make_batch([each], CPU)]) for each in (one, other)]
    assert targets[0] != targets[1]
    mean = sum(loss * number for loss, number in zip(alone, targets)) / sum(targets)
    assert learnt([[one], [other]])[0] == pytest.approx(mean, rel=1e-5)


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were():
    objective = make_objective()
    with torch.no_grad():
        objective.model.lm_head.weight[5, 0] = math.inf
    before = [each.detach().clone() for each in objective.parameters()]
    batch = make_batch(samples([9]), CPU)
    loss, _ = one_step(objective, [batch], count([batch]), World())
    assert not math.isfinite(loss)
    assert all(torch.equal(a, b) for a, b in zip(objective.parameters(), before))


# ------------------------------------------------------------------------------------------------------- several ranks
def on_ranks(folder: Path, shard: str, shares: Sequence[Sequence[Sequence[int]]], world: World) -> dict[str, object]:
    """A step of the base model in `folder`, of whose shares of passes this rank takes its own."""
    group = samples([2, 90, 120, 60, 33, 77], words=451)
    config = from_dict(TrainConfig, {"model": {"max_length": 256}, "parallel": {"shard": shard}}, "a test")
    objective, _ = build(config, folder, load_tokenizer(folder), world, PLAIN)
    batches = [[make_batch([group[at] for at in each], CPU) for each in share] for share in shares]
    targets = count([batch for share in batches for batch in share])
    loss, norm = one_step(objective, batches[world.rank], targets, world)
    return {"loss": loss, "norm": norm, "weights": dict(whole_tensors(objective.model, CPU))}


def act(rank: int, port: int, base: Path, out: Path) -> None:
    """One of the ranks; the vocabulary of 451 does not divide by their number."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu", 120, alone_too=False) as world:
        found = {shard: on_ranks(base, shard, SHARES, world) for shard in ("on", "off")}
        torch.save(found, out / f"{rank}.pt")
        world.gather(None)  # until all are here
        os._exit(0)  # gloo's threads may still drop tensors, which aborts a process whose interpreter is ending


def test_ranks_with_one_target_with_hundreds_and_with_none_take_the_step_of_a_single_one(world, tmp_path):
    port, spawn = free_port(), multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=act, args=(rank, port, world / "init", tmp_path)) for rank in range(RANKS)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(180)
    assert [each.exitcode for each in ranks] == [0] * RANKS
    alone = on_ranks(world / "init", "off", [[group for share in SHARES for group in share]], World())
    for rank in range(RANKS):
        for found in torch.load(tmp_path / f"{rank}.pt").values():
            assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)
            assert found["norm"] == pytest.approx(alone["norm"], rel=1e-4)
            assert found["weights"].keys() == alone["weights"].keys()
            assert all(
                torch.allclose(found["weights"][name], each, atol=1e-6) for name, each in alone["weights"].items()
            )
