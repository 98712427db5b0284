"""The trained tokenizer: nothing is unknown to it, digits stand alone, and its folder is an artefact."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizers_kinds import MAKERS
from vicuna.conversation import Message
from vicuna.errors import InputError
from vicuna.models.load import load_tokenizer
from vicuna.prompt import encode_prompt, template
from vicuna.train.config import TokenizerConfig
from vicuna.train.tokenizer import main, store_template, train

TOKENIZER = train(iter(["The capital of France is Paris. 12 plus 30 is 42."] * 20), 330)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_comes_back(text):
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    assert TOKENIZER.unk_token_id not in ids
    assert TOKENIZER.decode(ids) == text or text.startswith(" ") or "▁" in text or _is_special(text)


def _is_special(text: str) -> bool:
    return any(name in text for name in TOKENIZER.all_special_tokens)


def test_digits_are_tokens_of_their_own():
    tokens = TOKENIZER.tokenize("42")
    assert tokens[-2:] == ["4", "2"]


def test_the_same_text_trains_the_same_tokenizer():
    lines = ["some words, some more words"] * 5
    assert train(iter(lines), 320).backend_tokenizer.to_str() == train(iter(lines), 320).backend_tokenizer.to_str()


def test_the_folder_loads_as_an_ordinary_tokenizer_with_its_template(world):
    tokenizer = load_tokenizer(world / "tokenizer")
    assert tokenizer.chat_template.startswith("{{ bos_token }}")
    assert tokenizer("Paris").input_ids[0] == tokenizer.bos_token_id
    assert json.loads((world / "tokenizer" / "manifest.json").read_text())["kind"] == "tokenizer"


@pytest.mark.parametrize("kind", MAKERS)
def test_the_stored_template_gives_other_servers_the_trained_tokens(kind, caplog):
    tokenizer, chosen = MAKERS[kind](), template("vicuna_v1.1")
    store_template(tokenizer, chosen)
    messages = [Message("user", "Hi there"), Message("assistant", "Hello!"), Message("user", "Bye")]
    rows = [{"role": message.role, "content": message.content} for message in messages]
    ids = tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_dict=True)["input_ids"]
    if "merging across" in kind:  # no such server can cut where an answer begins; then it is said
        assert "will not send exactly the tokens" in caplog.text
        return
    assert ids == encode_prompt(messages, tokenizer, chosen)
    assert ("bos_token" in tokenizer.chat_template) == (len(tokenizer("").input_ids) > 0)
    assert not caplog.text


def test_a_tokenizer_is_not_made_of_no_conversations(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=r"there is no conversation in .*empty.jsonl"):
        main(TokenizerConfig(inputs=(str(tmp_path / "empty.jsonl"),), out=str(tmp_path / "made")))
    assert not (tmp_path / "made").exists()
