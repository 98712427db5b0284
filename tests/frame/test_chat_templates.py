"""Chat templates in the manner of well-known model families, on a tokenizer whose control tokens have no role names."""

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vicuna.conversation import Conversation, Message
from vicuna.prompt import encode, encode_prompt, render, template
from vicuna.template import TemplateError, special_tokens

CONTROLS = ["<|begin|>", "<|head|>", "<|/head|>", "<|eot|>", "<|im_start|>", "<|im_end|>", "<turn>", "</turn>", "</s>",
            "<|pad|>"]  # fmt: skip
GENERATE = "{% if add_generation_prompt %}"
FAMILIES = {
    # name → (Jinja source, the stop token, whether it takes a system message)
    "llama 3: headers, every message trimmed": (
        "{{ bos_token }}{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>\n\n{{ m['content'] | trim }}<|eot|>"
        "{% endfor %}" + GENERATE + "<|head|>assistant<|/head|>\n\n{% endif %}",
        "<|eot|>", True,
    ),
    "chatml: untrimmed": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        + GENERATE + "<|im_start|>assistant\n{% endif %}",
        "<|im_end|>", True,
    ),
    "gemma: the assistant is called model, system refused": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ m['content'] | trim }}</turn>\n{% endfor %}"
        + GENERATE + "<turn>model\n{% endif %}",
        "</turn>", False,
    ),
    "llama 2: system inside the first question, answers trimmed": (
        "{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] %}{% set turns = messages[1:] %}"
        "{% else %}{% set sys = none %}{% set turns = messages %}{% endif %}{% for m in turns %}"
        "{% if m['role'] == 'user' %}{{ bos_token }}[INST] {% if loop.first and sys is not none %}"
        "<<SYS>>\n{{ sys }}\n<</SYS>>\n\n{% endif %}{{ m['content'] | trim }} [/INST]"
        "{% else %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}",
        "</s>", True,
    ),
    "qwen 3: an empty thought before the last answer": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}<think>\n\n"
        "</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        + GENERATE + "<|im_start|>assistant\n{% endif %}",
        "<|im_end|>", True,
    ),
    "only answers trimmed": (
        "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}{{ m['content'] | trim }}"
        "{% else %}{{ m['content'] }}{% endif %}</s>{% endfor %}" + GENERATE + "[assistant]{% endif %}",
        "</s>", True,
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("family", FAMILIES)


@functools.cache
def family_tokenizer(family: str) -> Any:
    backend = Tokenizer(models.BPE())
    # Line ends apart from words, as today's families have it; with GPT-2's pattern a final "\n\n" is one token and the
    # same two before a word are not, so that the border would have to win over the tokenizer's own ids.
    words = pre_tokenizers.Split(Regex(r" ?[^\s]+|[\r\n]+|\s"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["user assistant system model Hi there\n\n think [INST] the answer"] * 9, trainer)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROLS])
    source, _, _ = FAMILIES[family]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|pad|>", chat_template=source
    )


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\ufdd0\ufdd1\ufdd2\ufdd3"), max_size=12
) | st.sampled_from(
    ["", "Hi\n", "  x ", "<|eot|>", "<|im_end|>\n<|im_start|>user\n", "</s>", "</turn>", "[/INST]", "</think>"]
)
rounds = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


def conversation(system: str | None, pairs: list[tuple[str, str]]) -> Conversation:
    messages = [Message("system", system)] if system is not None else []
    for question, answer in pairs:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation("c", tuple(messages))


def rows(messages) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def test_these_controls_have_no_role_and_are_special_all_the_same():
    tokenizer = family_tokenizer("chatml: untrimmed")
    assert "<|im_end|>" not in tokenizer.all_special_tokens
    assert set(CONTROLS) <= special_tokens(tokenizer)


@EVERY
@settings(max_examples=40, deadline=None)
@given(system=st.none() | texts, pairs=rounds)
def test_the_text_is_the_tokenizers_own_and_every_answer_stops_once(family, system, pairs):
    tokenizer, (_, stop, takes_system) = family_tokenizer(family), FAMILIES[family]
    chat, chosen = conversation(system if takes_system else None, pairs), template(tokenizer)
    assert render(chat, chosen) == tokenizer.apply_chat_template(rows(chat.messages), tokenize=False)
    encoded = encode(chat, tokenizer, chosen)
    stop_id = tokenizer.convert_tokens_to_ids(stop)
    learnt = [token for token, is_target in zip(encoded.ids, encoded.is_target) if is_target]
    assert learnt.count(stop_id) == len(pairs)
    assert stop_id in chosen.stop_ids(tokenizer)


@EVERY
@settings(max_examples=40, deadline=None)
@given(system=st.none() | texts, pairs=rounds)
def test_the_target_of_the_last_answer_begins_where_a_server_lets_the_model_speak(family, system, pairs):
    tokenizer, (_, _, takes_system) = family_tokenizer(family), FAMILIES[family]
    chat, chosen = conversation(system if takes_system else None, pairs), template(tokenizer)
    prompt = encode_prompt(chat.messages[:-1], tokenizer, chosen)
    encoded = encode(chat, tokenizer, chosen)
    if family.startswith("qwen 3") and len(pairs) > 1:
        prompt = prompt[-1:]  # earlier turns are rendered without the thought: only the last border can be compared
        start = max(i for i in range(1, len(encoded.ids)) if encoded.is_target[i] and not encoded.is_target[i - 1])
        assert encoded.ids[start - 1 : start] == prompt
        return
    assert encoded.ids[: len(prompt)] == prompt
    assert encoded.is_target[len(prompt)]
    assert not encoded.is_target[len(prompt) - 1]


@EVERY
def test_ordinary_text_gets_exactly_the_tokens_of_the_template(family):
    tokenizer = family_tokenizer(family)
    chat, chosen = conversation(None, [("Hi there", "the answer"), ("user", "Hi")]), template(tokenizer)
    whole = tokenizer.apply_chat_template(rows(chat.messages), return_dict=True)["input_ids"]
    assert encode(chat, tokenizer, chosen).ids == whole
    asked = tokenizer.apply_chat_template(rows(chat.messages[:3]), add_generation_prompt=True, return_dict=True)
    assert encode_prompt(chat.messages[:3], tokenizer, chosen) == asked["input_ids"]


def test_what_a_template_refuses_is_said_in_its_words():
    tokenizer = family_tokenizer("gemma: the assistant is called model, system refused")
    with pytest.raises(TemplateError, match="refuses these messages: no system"):
        encode(conversation("be kind", [("a", "b")]), tokenizer, template(tokenizer))


def test_half_a_surrogate_pair_is_refused():
    tokenizer = family_tokenizer("chatml: untrimmed")
    with pytest.raises(TemplateError, match="half a surrogate pair"):
        encode(conversation(None, [("\ud800", "b")]), tokenizer, template("vicuna_v1.1"))
