"""The model that engines are compared with: made here, small, with answers that every server must give alike.

A random LLaMA whose greedy answers never end, on a byte-level BPE tokenizer trained on made-up words. Only tokens that
are a space and letters can be chosen, so an answer's tokens can be counted by its spaces, whatever a server says of
them, and no character is ever incomplete. The chat template writes a question alone, so all see the same token ids.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = 4096
CONTEXT = 4096
BOS, EOS, PAD = range(3)
SPECIAL = ("<s>", "</s>", "<pad>")
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
         "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": CONTEXT,
         "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "tie_word_embeddings": False}  # fmt: skip
SPREAD = 0.05
"""Standard deviation of the weights: with transformers' usual 0.02 the best tokens are so close to each other that
rounding decides between them."""


def make(folder: Path) -> None:
    """Write weights (float32), tokenizer and settings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True)
    words = _train_tokenizer()
    words.save(str(folder / "tokenizer.json"))
    # By hand, because transformers 4 does not know the name that transformers 5 gives this class.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS],
                "pad_token": SPECIAL[PAD], "chat_template": TEMPLATE, "model_max_length": CONTEXT,
                "clean_up_tokenization_spaces": False}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=SPREAD))
    with torch.no_grad():  # a logit of exactly 0 is never the highest of thousands of random ones
        possible = torch.zeros(VOCABULARY, 1)
        possible[_spaced(words)] = 1
        model.lm_head.weight.mul_(possible)
    model.save_pretrained(folder)


def _train_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    draw = random.Random(0)
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    made = ["".join(draw.choices(syllables, k=draw.choice((2, 2, 3)))) for _ in range(6000)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    backend.train_from_iterator((" ".join(draw.choices(made, k=50)) for _ in range(2000)), trainer)
    return backend


def _spaced(words: Any) -> list[int]:
    """Ids of the tokens that are a space and letters, and that such a text is made of again."""
    vocabulary: dict[str, int] = words.get_vocab()
    return sorted(
        index
        for token, index in vocabulary.items()
        if token.startswith("Ġ") and token[1:].isascii() and token[1:].isalpha()
        if words.encode(f"a {token[1:]}").ids[1:] == [index]
    )


def count(answer: str) -> int:
    """Tokens of an answer."""
    return len(answer.split())


@dataclass(frozen=True)
class Kind:
    """A kind of prompts."""

    tokens: int
    shared: int = 0
    """How many of them, at the start, all prompts of the kind have in common."""


class Prompts:
    """Prompts of exact lengths, none like another, the same for everybody who names the same kind and label."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._words = [self._tokenizer.decode([index]).strip() for index in _spaced(self._tokenizer)]

    def some(self, kind: Kind, label: str, number: int) -> list[str]:
        """So many prompts of a kind; others for each label."""
        return [self._prompt(kind, f"{label} {index}") for index in range(number)]

    def _prompt(self, kind: Kind, name: str) -> str:
        words = ["a"]  # a token; so is every word after a space
        if kind.shared:
            words += random.Random(str(kind)).choices(self._words, k=kind.shared - 1)
        words += random.Random(f"{kind} {name}").choices(self._words, k=kind.tokens - len(words))
        return " ".join(words)

    def ids(self, prompt: str) -> list[int]:
        """A prompt's token ids."""
        return list(self._tokenizer.encode(prompt).ids)

    def text(self, ids: list[int]) -> str:
        """The text of an answer's ids."""
        return str(self._tokenizer.decode(ids))
