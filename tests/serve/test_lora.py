"""Several adapters in one ragged batch compute what peft computes with each of them alone."""

import functools
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_tiny import model, tokenizer

from tests.adapters_kit import adapted
from vicuna.models.adapters import load_adapter
from vicuna.models.load import load_model
from vicuna.serve.engines import Piece
from vicuna.serve.engines.continuous.batcher import Batcher
from vicuna.serve.engines.continuous.lora import install
from vicuna.serve.engines.continuous.seats import Seat
from vicuna.serve.engines.detokenize import Window
from vicuna.serve.engines.text import AnswerText
from vicuna.serve.protocol import Sampling

torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives
KINDS = ["llama", "qwen2", "neox"]
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"r": 2, "use_rslora": True, "lora_alpha": 3},
    {"target_modules": r".*\.1\..*(v_proj|down_proj|query_key_value|4h_to_h)", "r": 8},
)
"""Of three adapters; the last one is for few of the layers."""


class Adapted:
    """A model that serves three adapters, and the same ones by peft, each alone; number 0 is the model itself."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.alone = [model(kind)]
        for number, options in enumerate(OPTIONS):
            self.alone.append(adapted(self.alone[0], seed=number, **options))
            self.alone[-1].save_pretrained(folder / str(number))
        self.model = model(kind)
        self.adapters = [
            load_adapter(folder / str(number), self.model, checkpoint_hash="", template_hash="")
            for number in range(len(OPTIONS))
        ]
        self.switch = install(self.model, self.adapters)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return Adapted(request.param, tmp_path_factory.mktemp(request.param))


def logits(net: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Of a row of tokens none of which sees another, so that tokens of different answers may lie side by side."""
    mask = torch.eye(tokens.shape[1], dtype=torch.bool)[None, None]
    masks = {"full_attention": mask, "sliding_attention": mask} if getattr(net.config, "layer_types", None) else mask
    with torch.inference_mode():
        row: torch.Tensor = net(tokens, attention_mask=masks, use_cache=False).logits[0]
    return row


parts = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(parts=parts, seed=st.integers(0, 99))
def test_each_token_of_a_mixed_batch_gets_its_own_adapter(
    made: Adapted, parts: list[tuple[int, int]], seed: int
) -> None:
    """`parts` are numbers of adapters (0 is the model itself) with how many tokens each has."""
    ends = [0]
    for _, size in parts:
        ends.append(ends[-1] + size)
    places = [(number, first, end) for (number, _), (first, end) in zip(parts, pairwise(ends), strict=True)]
    tokens = torch.randint(2, 400, (1, ends[-1]), generator=torch.Generator().manual_seed(seed))
    with made.switch.over([(number - 1, first, end) for number, first, end in places if number]):
        mixed = logits(made.model, tokens)
    base = logits(made.alone[0], tokens)
    for number, first, end in places:
        if number == 0:
            assert torch.equal(mixed[first:end], base[first:end])
        else:
            assert torch.allclose(mixed[first:end], logits(made.alone[number], tokens)[first:end], atol=1e-9)
            assert not torch.allclose(mixed[first:end], base[first:end], atol=1e-3)


def test_outside_of_its_spans_the_model_is_the_base_model_bit_for_bit(made: Adapted) -> None:
    tokens = torch.arange(2, 22)[None]
    with pytest.raises(ZeroDivisionError), made.switch.over([(0, 0, 20)]):
        raise ZeroDivisionError
    assert torch.equal(logits(made.model, tokens), logits(made.alone[0], tokens))


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_adapters_add_to_quantised_layers_as_peft_does(tmp_path: Path, quantize: str) -> None:
    pytest.importorskip("bitsandbytes")
    model("llama").float().save_pretrained(tmp_path / "base")
    net = load_model(tmp_path / "base", torch.float32, "cpu", quantize=quantize)
    tokens = torch.arange(2, 42)[None]
    base = logits(net, tokens)
    alone = adapted(net, seed=1)
    alone.save_pretrained(tmp_path / "adapter")
    theirs = logits(alone, tokens)
    switch = install(net, [load_adapter(tmp_path / "adapter", net, checkpoint_hash="", template_hash="")])
    assert torch.equal(logits(net, tokens), base)
    with switch.over([(0, 0, 40)]):
        assert (logits(net, tokens) - theirs).abs().max() < 1e-3 * theirs.abs().max()
    assert (theirs - base).abs().max() > 0.1 * base.abs().max()


CONTEXT = 256
words = functools.cache(tokenizer)
requests = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(2, 399), min_size=1, max_size=40), st.integers(1, 12)),
    min_size=1,
    max_size=7,
)


def generated(net: Any, prompt: list[int], tokens: int) -> list[int]:
    """What `generate` answers."""
    ids = torch.tensor([prompt])
    row = net.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)[0]
    return list(row[len(prompt) :].tolist())


def answered(batcher: Batcher, asked: list[tuple[int, list[int], int]], seats: list[Seat]) -> list[list[int]]:
    """What the batcher answers when all ask at once."""
    for number, prompt, tokens in asked:
        text = AnswerText(Window(lambda ids: words().decode(ids), prompt=prompt[-4:]), (), "")
        sampling = Sampling(temperature=0)
        seats.append(Seat(prompt, (), sampling, len(prompt) + tokens, frozenset([1]), text, adapter=number))
        batcher.add(seats[-1])
    answers: dict[Seat, list[int]] = {each: [] for each in seats}
    while batcher.busy:
        for seat, item in batcher.step():
            assert isinstance(item, Piece), item
            answers[seat] += item.ids
    return list(answers.values())


@settings(max_examples=40, deadline=None)
@given(asked=requests, slots=st.integers(1, 5), prefill=st.sampled_from([0, 7]))
def test_answers_of_a_mixed_batch_are_those_of_each_adapter_alone(
    made: Adapted, asked: list[tuple[int, list[int], int]], slots: int, prefill: int
) -> None:
    batcher = Batcher(
        model(made.kind), slots=slots, room=512, max_length=CONTEXT, prefill=prefill, adapters=made.adapters
    )
    answers = answered(batcher, asked, [])
    assert answers == [generated(made.alone[number], prompt, tokens) for number, prompt, tokens in asked]


def test_a_prompt_that_one_adapter_has_computed_is_not_taken_for_anothers(made: Adapted) -> None:
    """Keys and values of the same tokens differ between adapters, so the prefix cache keeps them apart."""
    batcher = Batcher(model(made.kind), slots=4, room=1024, max_length=CONTEXT, adapters=made.adapters)
    prompt = list(range(2, 70))
    for number in (0, 1, 2, 3, 1, 0):
        assert answered(batcher, [(number, prompt, 8)], []) == [generated(made.alone[number], prompt, 8)]
