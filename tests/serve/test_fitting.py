"""A model that would be computed wrongly in a batch is refused before it serves; all others are computed rightly."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import transformers  # noqa: E402
from batch_kit import GREEDY, ids_of, run, seat  # noqa: E402
from serve_tiny import model  # noqa: E402

from vicuna.errors import InputError  # noqa: E402
from vicuna.serve.engines.continuous import fitting  # noqa: E402
from vicuna.serve.engines.continuous.attention import NAME  # noqa: E402
from vicuna.serve.engines.continuous.batcher import Batcher  # noqa: E402

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.5,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
SLIDING = GROUPED | {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
LATENT = SHAPE | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 6}


def made(name: str, settings: dict[str, Any]) -> Any:
    config = {"Gemma3": "Gemma3Text", "Gemma4": "Gemma4Text"}.get(name, name)
    kind = {"Bert": "LMHeadModel", "GPT2": "LMHeadModel"}.get(name, "ForCausalLM")
    torch.manual_seed(0)
    built: Any = getattr(transformers, f"{name}{kind}")(getattr(transformers, f"{config}Config")(**settings))
    experts = any("experts" in setting for setting in settings)  # torch multiplies theirs in float32 at most
    return built.to(torch.float32 if experts else torch.float64).eval()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Bert", SHAPE),  # every token sees the later ones
        ("DiffLlama", GROUPED),  # attention of its own, whatever it is told
        ("HrmText", GROUPED | {"head_dim": 8}),  # the same layers several times
        ("Phimoe", EXPERTS | {"sliding_window": 12}),  # a window in the mask alone
        ("Gemma3", SLIDING | {"use_bidirectional_attention": True}),
    ],
)
def test_a_model_that_a_batch_computes_wrongly_is_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="computes something else than alone"):
        fitting.install(made(name, settings), 256)


def test_a_model_with_a_mask_of_its_own_is_refused() -> None:
    with pytest.raises(InputError, match="masks of a model's own"):
        fitting.install(made("Doge", GROUPED), 256)


def test_a_model_that_does_not_know_of_batches_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="NemotronAttention does not pass its batch on"):
        fitting.install(made("Nemotron", GROUPED | {"head_dim": 8}), 256)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("JetMoe", EXPERTS | {"kv_channels": 8}),  # takes views of what attention gives it
        ("Mixtral", EXPERTS),
        ("DeepseekV3", LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}),
        ("OPT", SHAPE | {"word_embed_proj_dim": 32, "ffn_dim": 64}),  # positions are learnt, and not from 0
        ("GPT2", SHAPE),
        ("Gemma4", SLIDING | {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}),
    ],
)
def test_other_models_answer_as_generate_does(name: str, settings: dict[str, Any]) -> None:
    pair = [made(name, settings) for _ in range(2)]
    prompts = [[3 + (37 * place + 11 * length) % 390 for place in range(length)] for length in (40, 23, 5)]
    batcher = Batcher(pair[1], slots=4, room=512, max_length=256, prefill=9)
    seats = [seat(prompt, 12) for prompt in prompts]
    answers = run(batcher, [(3 * index, each) for index, each in enumerate(seats)])
    for prompt, its in zip(prompts, seats):
        ids = torch.tensor([prompt])
        out = pair[0].generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert ids_of(answers[its]) == out[0, len(prompt) :].tolist()


def phi(longest: int) -> Any:
    factors = {"long_factor": [9.0, 6.0, 3.0, 2.0], "short_factor": [1.0, 1.0, 1.1, 1.2]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, **factors}
    built = made("Phi3", GROUPED | {"rope_parameters": rope, "original_max_position_embeddings": 64})
    return Batcher(built, slots=4, room=1024, max_length=longest)


def test_a_long_answer_does_not_change_the_positions_of_short_ones() -> None:
    """Phi-3 and others have two sets of frequencies, and transformers chooses by the longest text of a pass."""
    short, long = [5, 6, 7, 8, 9, 10], [3 + 7 * place % 390 for place in range(90)]
    batcher = phi(256)
    alone = [ids_of(run(batcher, [(0, its)])[its]) for its in (seat(short, 30), seat(long, 30))]
    seats = [seat(short, 30), seat(long, 30)]
    together = run(phi(256), [(0, seats[0]), (5, seats[1])])
    assert [ids_of(together[its]) for its in seats] == alone


def test_where_no_answer_can_be_long_the_short_frequencies_are_taken() -> None:
    batcher, longer = phi(64), phi(256)
    right = phi(64)._model
    prompt = [5, 6, 7, 8, 9, 10]
    right.set_attn_implementation("eager")
    ids = torch.tensor([prompt])
    out = right.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False)
    its, other = seat(prompt, 30), seat(prompt, 30)
    assert ids_of(run(batcher, [(0, its)])[its]) == out[0, len(prompt) :].tolist()
    assert ids_of(run(longer, [(0, other)])[other]) != out[0, len(prompt) :].tolist()


def test_a_model_is_tried_once_and_its_positions_are_set_each_time() -> None:
    batcher = phi(64)
    frequencies = batcher._model.model.rotary_emb.inv_freq.clone()
    assert batcher._model.config._attn_implementation == NAME
    Batcher(batcher._model, slots=1, room=256, max_length=256)
    assert not torch.equal(batcher._model.model.rotary_emb.inv_freq, frequencies)


def test_weights_that_are_no_numbers_are_not_taken_for_a_wrong_model() -> None:
    """They make every answer an error that says so."""
    broken = model("llama")
    broken.lm_head.weight.data[:] = torch.nan
    fitting.install(broken, 256)


def test_a_model_in_sixteen_bits_passes() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        made = model("llama").to(dtype)
        its = seat([5, 6, 7], 4, GREEDY)
        assert len(ids_of(run(Batcher(made, slots=1, room=64, max_length=64), [(0, its)])[its])) == 4
