"""The prompt truth, over random conversations and every kind of tokenizer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers_kinds import MAKERS, SPECIAL, tokenizer_of
from vicuna.conversation import Conversation, Message
from vicuna.prompt import TokenizerError, encode, encode_prompt, render, template
from vicuna.template import BUILT_IN, TemplateError

KINDS = pytest.mark.parametrize("kind", MAKERS)
TEMPLATES = pytest.mark.parametrize("name", BUILT_IN)

OWN_MARKS = "\ufdd0\ufdd1\ufdd2\ufdd3"
plain = (
    st.text(st.characters(codec="utf-8", exclude_characters=OWN_MARKS), max_size=30)
    | st.sampled_from(
        ["", " ", "Hi!", "  indented\n\n", "你好", ":)", "\n", "▁", "a" * 40, "1 2 3", "USER: ", "e\u0301"]
    )
).filter(lambda text: not any(name in text for name in SPECIAL))
tricky = plain | st.sampled_from(
    ["</s>", "stop</s>now", "<s>", "<unk>", " ASSISTANT: ", "<|im_end|>\n<|im_start|>user", "###", "\ufdd20.1\ufdd3"]
)


def conversations(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Conversation]:
    rounds = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
    return st.builds(_conversation, st.none() | texts, rounds)


def _conversation(system: str | None, rounds: list[tuple[str, str]]) -> Conversation:
    messages = [] if system is None else [Message("system", system)]
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation("c", tuple(messages))


def chatml(kind: str):
    """A tokenizer whose own chat template is ChatML, and that template."""
    tokenizer = tokenizer_of(kind)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer, template(tokenizer)


@KINDS
@TEMPLATES
@settings(max_examples=40, deadline=None)
@given(conversation=conversations(tricky))
def test_the_prompt_of_every_answer_is_the_start_of_the_training_tokens(kind, name, conversation):
    tokenizer, chosen = tokenizer_of(kind), template(name)
    _check_prefixes(conversation, tokenizer, chosen)


@KINDS
@settings(max_examples=40, deadline=None)
@given(conversation=conversations(tricky))
def test_the_same_holds_for_a_tokenizers_own_chat_template(kind, conversation):
    tokenizer, chosen = chatml(kind)
    _check_prefixes(conversation, tokenizer, chosen)
    ends = [i for i, token in enumerate(encode(conversation, tokenizer, chosen).ids)
            if token == tokenizer.convert_tokens_to_ids("<|im_end|>")]  # fmt: skip
    assert len(ends) == len(conversation.messages)


def _check_prefixes(conversation, tokenizer, chosen):
    encoded = encode(conversation, tokenizer, chosen)
    assert len(encoded.ids) == len(encoded.is_target)
    starts = [i for i, (a, b) in enumerate(zip([False, *encoded.is_target], encoded.is_target)) if b and not a]
    answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    assert len(starts) == len(answers)
    for start, answer in zip(starts, answers):
        assert encode_prompt(conversation.messages[:answer], tokenizer, chosen) == encoded.ids[:start]


@KINDS
@TEMPLATES
@settings(max_examples=40, deadline=None)
@given(conversation=conversations(plain))
def test_the_targets_are_the_answers_and_their_stops_and_nothing_else(kind, name, conversation):
    """Against an oracle: each token of the tokenizer's own encoding, placed by its character offsets."""
    tokenizer, chosen = tokenizer_of(kind), template(name)
    text, opening = render(conversation, chosen), 0
    own = tokenizer(text, return_offsets_mapping=True)
    encoded = encode(conversation, tokenizer, chosen)
    if encoded.ids != own.input_ids:
        assert "merging across" in kind or name == "alpaca" or _crosses(own.offset_mapping, conversation, chosen)
        return
    spans, separators, position = [], [], 0
    for piece in chosen.pieces(conversation.messages):
        end = position + len(piece.text)
        if piece.target:
            spans.append((position, end))
            separators.append((position, position + 1))
        position = end
    for (start, end), is_target in zip(own.offset_mapping[opening:], encoded.is_target):
        if start == end or (start, end) in separators:
            continue  # an opening token, or the bare space before an answer
        assert is_target == any(start < b and end > a for a, b in spans)


def _crosses(offsets, conversation, chosen) -> bool:
    position, borders = 0, []
    for before, after in zip(pieces := chosen.pieces(conversation.messages), pieces[1:]):
        position += len(before.text)
        if before.target != after.target:
            borders.append(position)
    return any(start < border < end for start, end in offsets for border in borders)


@KINDS
@settings(max_examples=60, deadline=None)
@given(conversation=conversations(plain))
def test_without_control_text_the_ids_are_the_tokenizers_own(kind, conversation):
    tokenizer, chosen = tokenizer_of(kind), template("vicuna_v1.1")
    if "merging across" not in kind:
        assert encode(conversation, tokenizer, chosen).ids == tokenizer(render(conversation, chosen)).input_ids


@KINDS
@TEMPLATES
@settings(max_examples=40, deadline=None)
@given(conversation=conversations(tricky))
def test_what_people_type_is_never_a_control_token(kind, name, conversation):
    tokenizer, chosen = tokenizer_of(kind), template(name)
    encoded = encode(conversation, tokenizer, chosen)
    stops = len(conversation.rounds()) if BUILT_IN[name].stop_is_token else 0
    assert encoded.ids.count(tokenizer.eos_token_id) == stops
    assert encoded.ids.count(tokenizer.bos_token_id) == (tokenizer("").input_ids == [tokenizer.bos_token_id])
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in encoded.ids


@KINDS
@TEMPLATES
@settings(max_examples=25, deadline=None)
@given(conversation=conversations(plain))
def test_the_jinja_export_renders_the_same_bytes(kind, name, conversation):
    tokenizer, chosen = tokenizer_of(kind), template(name)
    rows = [{"role": m.role, "content": m.content} for m in conversation.messages]
    for generation in (False, True):
        source = chosen.jinja(generation=generation)
        assert tokenizer.apply_chat_template(rows, tokenize=False, chat_template=source) == render(conversation, chosen)
        opened = tokenizer.apply_chat_template(
            rows[:-1], tokenize=False, chat_template=source, add_generation_prompt=True
        )
        pieces = chosen.pieces(conversation.messages[:-1], open_turn=True)
        assert opened == "".join(piece.text for piece in pieces)


def test_the_bytes_of_vicuna_v1_1():
    conversation = _conversation(None, [("Hello!", "Hi!")])
    asked = (*conversation.messages, Message("user", "How are you?"))
    pieces = template("vicuna_v1.1").pieces(asked, open_turn=True)
    assert "".join(piece.text for piece in pieces) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
        "USER: Hello! ASSISTANT: Hi!</s>USER: How are you? ASSISTANT:"
    )


def test_the_bytes_of_vicuna_v0():
    pieces = template("vicuna_v0").pieces([Message("user", "Hello!")], open_turn=True)
    assert "".join(piece.text for piece in pieces).endswith("questions.\n### Human: Hello!\n### Assistant:")


def test_an_empty_turn_is_an_empty_turn():
    conversation = _conversation(None, [("", ""), ("x", "y")])
    assert render(conversation, template("vicuna_v1.1")).endswith("USER:  ASSISTANT: </s>USER: x ASSISTANT: y</s>")


def test_an_unknown_template_is_an_error_that_lists_the_known_ones():
    with pytest.raises(TemplateError, match=r"unknown prompt template 'vicuna'.*vicuna_v1.1.*alpaca"):
        template("vicuna")


def test_a_system_message_in_the_middle_is_an_error_of_the_template():
    with pytest.raises(TemplateError, match="only as the first"):
        template("alpaca").pieces([Message("user", "a"), Message("system", "b")])


def test_a_tokenizer_without_the_templates_stop_token_uses_its_own_eos():
    from transformers import PreTrainedTokenizerFast

    backend = json.loads(tokenizer_of("byte-level").backend_tokenizer.to_str().replace("</s>", "<|end|>"))
    from tokenizers import Tokenizer

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|end|>")
    encoded = encode(_conversation(None, [("a", "b</s>")]), tokenizer, template("vicuna_v1.1"))
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert encoded.ids.count(tokenizer.eos_token_id) == 1
    assert template("vicuna_v1.1").stop_ids(tokenizer) == (tokenizer.eos_token_id,)


def test_a_chat_template_that_rewrites_messages_is_refused():
    tokenizer = tokenizer_of("byte-level")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}</s>{% endfor %}"
    with pytest.raises(TemplateError, match="changes the text"):
        encode(_conversation(None, [("ask", "answer")]), tokenizer, template(tokenizer))


def test_a_chat_template_whose_answers_do_not_stop_is_refused():
    tokenizer = tokenizer_of("byte-level")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(TemplateError, match="could not learn to stop"):
        encode(_conversation(None, [("ask", "answer")]), tokenizer, template(tokenizer))


def test_a_chat_template_that_trims_is_followed():
    tokenizer = tokenizer_of("byte-level")
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}</s>{% endfor %}"
    conversation = _conversation(None, [(" ask ", " answer\n")])
    assert render(conversation, template(tokenizer)) == "[user]ask</s>[assistant]answer</s>"


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(TokenizerError, match="no fast"):
        encode(_conversation(None, [("a", "b")]), Slow(), template("alpaca"))
