"""Tokens that were added to a tokenizer get rows in the model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from vicuna.errors import ConfigError, InputError
from vicuna.train.vocabulary import embedding_names, grow, grown

SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48, "num_attention_heads": 4,
         "num_key_value_heads": 4}  # fmt: skip


def make_tokenizer(words: int = 61, added: tuple[str, ...] = ()):
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)})))
    made.add_special_tokens({"additional_special_tokens": list(added)})
    return made


def test_added_tokens_get_rows_and_are_named():
    config = LlamaConfig(vocab_size=61, **SHAPE)
    growth = grow(config, make_tokenizer(added=("<pad>", "<tool>")), adapter=False)
    assert config.vocab_size == 63
    assert "grows from 61 to 63 rows" in str(growth)
    assert "<pad>, <tool>" in str(growth)


def test_more_rows_than_tokens_stay():
    config = LlamaConfig(vocab_size=64, **SHAPE)
    assert grow(config, make_tokenizer(added=("<pad>",)), adapter=True) is None
    assert config.vocab_size == 64


def test_a_tokenizer_of_another_model_is_refused_not_grown_into():
    config = LlamaConfig(vocab_size=50, **SHAPE)
    with pytest.raises(InputError, match="the word 'w50' with id 50, and the model embeds only 50"):
        grow(config, make_tokenizer(added=("<pad>",)), adapter=False)
    assert config.vocab_size == 50


def test_an_adapter_does_not_go_with_missing_rows():
    with pytest.raises(ConfigError, match="an adapter does not learn their rows"):
        grow(LlamaConfig(vocab_size=61, **SHAPE), make_tokenizer(added=("<pad>",)), adapter=True)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)])
def test_a_grown_model_predicts_old_tokens_as_before_and_new_ones_like_their_mean(kind, tied):
    make_config, make_model = kind
    torch.manual_seed(0)
    old = make_model(make_config(vocab_size=61, tie_word_embeddings=tied, **SHAPE)).eval()
    new = make_model(make_config(vocab_size=64, tie_word_embeddings=tied, **SHAPE)).eval()
    tables = embedding_names(new)
    assert tables == {"model.embed_tokens.weight", "lm_head.weight"}
    new.load_state_dict({n: grown(t, 64) if n in tables else t for n, t in old.state_dict().items()})
    ids = torch.randint(0, 61, (1, 9))
    with torch.no_grad():
        before, after = old(ids).logits, new(ids).logits
    assert torch.allclose(after[..., :61], before, atol=1e-6)
    assert torch.allclose(after[..., 61:], before.mean(-1, keepdim=True).expand(1, 9, 3), atol=1e-6)


@given(
    rows=st.integers(1, 9), more=st.integers(0, 5), tail=st.sampled_from([(), (3,)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_old_rows_stay_bit_for_bit(rows, more, tail, dtype):
    table = torch.randn(rows, *tail).to(dtype)
    found = grown(table, rows + more)
    assert found.shape == (rows + more, *tail)
    assert found.dtype == dtype
    assert torch.equal(found[:rows], table)
    assert all(torch.equal(row, table.float().mean(0).to(dtype)) for row in found[rows:])
