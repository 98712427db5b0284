"""Prompt templates: how messages become one text, and which characters of it the model is to learn.

A template turns messages into `Piece`s. Three are built in; any chat template of a Hugging Face tokenizer works too.
What a template writes is kept apart from what people wrote, so that nobody can type a control token.
"""

import functools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vicuna.conversation import Message
from vicuna.errors import VicunaError
from vicuna.files import sha256_text


class TemplateError(VicunaError):
    """The template is unknown, or it cannot say these messages."""


def special_tokens(tokenizer: Any) -> set[str]:
    """Names of all tokens that the tokenizer treats as special, not only of those with a role such as EOS."""
    added = {each.content for each in tokenizer.added_tokens_decoder.values() if each.special}
    return added | set(tokenizer.all_special_tokens)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the rendered text."""

    text: str
    control: bool = False
    """Written by the template as one special token; text that people wrote is never control."""
    target: bool = False
    """The model writes this: an answer and the stop that ends it."""
    train: bool = True
    """Whether training learns a target (see `Message.train`)."""


class Template(ABC):
    """How messages become text."""

    name: str
    adds_bos: bool
    """Whether the tokenizer's own opening tokens come first (else the text itself holds them)."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end an answer, for templates whose stop is not a special token."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """SHA-256 of everything that decides the rendering."""

    @abstractmethod
    def pieces(self, messages: Sequence[Message], *, open_turn: bool = False) -> list[Piece]:
        """The rendered text in pieces; with `open_turn` it ends where the assistant begins to speak."""

    @abstractmethod
    def stop_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Token ids that end an answer."""

    @abstractmethod
    def jinja(self, *, generation: bool = False, bos: bool = False, stop: str | None = None) -> str:
        """The same template for `apply_chat_template`, rendering to the same bytes.

        Args:
            generation: wrap answers in `{% generation %}`, as TRL and others want for assistant-only loss.
            bos: start with the tokenizer's BOS token, for servers that add none themselves.
            stop: the stop token of the tokenizer at hand, where it is not the template's own.
        """


@dataclass(frozen=True)
class TextTemplate(Template):
    """A template made of fixed strings around the messages."""

    name: str
    system: str
    """What stands in front when a conversation has no system message of its own."""
    system_end: str
    user: str
    user_end: str
    assistant: str
    """Up to here goes the prompt that a server sends; it has no trailing space."""
    answer_lead: str
    """White space between the assistant's name and the answer; the model writes it, so it is part of the target."""
    stop: str
    stop_is_token: bool
    answer_end: str = ""
    stop_strings: tuple[str, ...] = ()
    adds_bos: bool = True

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the template's strings."""
        return sha256_text(json.dumps(asdict(self), sort_keys=True))

    def pieces(self, messages: Sequence[Message], *, open_turn: bool = False) -> list[Piece]:
        """The rendered text in pieces.

        Raises:
            TemplateError: a system message stands after the first message.
        """
        first_is_system = bool(messages) and messages[0].role == "system"
        system = messages[0].content if first_is_system else self.system
        found = [Piece(system + self.system_end), *self.turns(messages[first_is_system:])]
        return [*found, Piece(self.assistant)] if open_turn else found

    def turns(self, messages: Sequence[Message]) -> list[Piece]:
        """The pieces of messages that follow others; they do not depend on those.

        Raises:
            TemplateError: one is a system message.
        """
        return [piece for message in messages for piece in self._message(message)]

    def _message(self, message: Message) -> list[Piece]:
        if message.role == "user":
            return [Piece(self.user + message.content + self.user_end)]
        if message.role == "system":
            raise TemplateError(f"template {self.name} takes a system message only as the first one")
        return [
            Piece(self.assistant),
            Piece(self.answer_lead + message.content, target=True, train=message.train),
            Piece(self.stop, control=self.stop_is_token, target=True, train=message.train),
            Piece(self.answer_end),
        ]

    def stop_token(self, tokenizer: Any) -> str:
        """The special token that stands for the template's stop with this tokenizer.

        It is the template's own where the tokenizer has it as a special token, else the tokenizer's EOS.
        """
        if self.stop in special_tokens(tokenizer):
            return self.stop
        if tokenizer.eos_token is None:
            raise TemplateError(f"template {self.name} ends answers with {self.stop!r}, and the tokenizer has neither "
                                "that special token nor an EOS token; add one")  # fmt: skip
        return str(tokenizer.eos_token)

    def stop_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """The stop token's id; for a stop that is text, EOS (see `stop_strings` for the text)."""
        if self.stop_is_token:
            return (int(tokenizer.convert_tokens_to_ids(self.stop_token(tokenizer))),)
        return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)

    def jinja(self, *, generation: bool = False, bos: bool = False, stop: str | None = None) -> str:
        """The template as Jinja source."""
        end = self.stop if stop is None or not self.stop_is_token else stop
        answer = f"{{{{ m['content'] }}}}{{{{ {_quoted(end)} }}}}"
        if generation:
            answer = f"{{% generation %}}{answer}{{% endgeneration %}}"
        return "".join([
            "{{ bos_token }}" if bos else "",
            "{% if messages and messages[0]['role'] == 'system' %}",
            "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}",
            f"{{% else %}}{{% set system = {_quoted(self.system)} %}}{{% set turns = messages %}}{{% endif %}}",
            f"{{{{ system }}}}{{{{ {_quoted(self.system_end)} }}}}",
            "{% for m in turns %}{% if m['role'] == 'user' %}",
            f"{{{{ {_quoted(self.user)} }}}}{{{{ m['content'] }}}}{{{{ {_quoted(self.user_end)} }}}}",
            "{% elif m['role'] == 'assistant' %}",
            f"{{{{ {_quoted(self.assistant + self.answer_lead)} }}}}{answer}{{{{ {_quoted(self.answer_end)} }}}}",
            "{% else %}{{ raise_exception('only the first message may be a system message') }}{% endif %}{% endfor %}",
            f"{{% if add_generation_prompt %}}{{{{ {_quoted(self.assistant)} }}}}{{% endif %}}",
        ])  # fmt: skip


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    return json.dumps(text, ensure_ascii=False)


class ChatTemplate(Template):
    """The chat template that a Hugging Face tokenizer carries."""

    adds_bos = False

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise TemplateError(
                f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no chat template; "
                f"name one of: {', '.join(BUILT_IN)}"
            )
        self._tokenizer = tokenizer
        try:
            self._source = str(tokenizer.get_chat_template())
        except ValueError as error:  # several named templates and none of them the default
            raise TemplateError(f"the tokenizer's chat template cannot be used: {error}") from error
        self.name = f"chat-{self.hash[:12]}"

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the Jinja source and the special tokens that it may name."""
        tokens = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}
        return sha256_text(json.dumps([self._source, tokens], sort_keys=True))

    def pieces(self, messages: Sequence[Message], *, open_turn: bool = False) -> list[Piece]:
        """The rendered text in pieces, found by rendering once with marks in place of the messages' texts.

        An answer's target begins where the generation prompt ends, since the model has to write all that follows.

        Raises:
            TemplateError: the template refuses the messages, rewrites their text, or ends answers without a special
                token, so that one cannot say which tokens are the answer.
        """
        marks = _marks([message.content for message in messages])
        masked = [Message(m.role, mark) for m, mark in zip(messages, marks, strict=True)]
        parts = self._align(self._render(masked, open_turn), self._render(messages, open_turn), marks, messages)
        found: list[Piece] = []
        answer: Message | None = None
        for text, index in parts:
            before, answer = answer, None
            if index is None:
                literal = self._literal(text)
                found += self._with_stop(literal, before.train) if before else literal
            elif messages[index].role == "assistant":
                answer = messages[index]
                found = self._from_prompt_on(found, messages[:index], answer.train)
                found.append(Piece(text, target=True, train=answer.train))
            else:
                found.append(Piece(text))
        return found

    def _render(self, messages: Sequence[Message], open_turn: bool) -> str:
        import jinja2

        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=open_turn))
        except (jinja2.TemplateError, TypeError, ValueError, IndexError) as error:
            raise TemplateError(f"the chat template refuses these messages: {error}") from error

    def _align(
        self, skeleton: str, rendered: str, marks: Sequence[str], messages: Sequence[Message]
    ) -> list[tuple[str, int | None]]:
        """Walk the skeleton along the real rendering: (text, index of the message it is, or None for the template's).

        A template may strip the white space around a message; any other change of its text is an error.
        """
        which = {mark: i for i, mark in enumerate(marks)}
        split = re.split("(" + "|".join(map(re.escape, marks)) + ")", skeleton) if marks else [skeleton]
        parts: list[tuple[str, int | None]] = []
        position = 0
        for i, part in enumerate(split):
            text = part
            if part in which:
                follows = split[i + 1]
                said = messages[which[part]].content
                forms = (said, said.strip(), said.lstrip(), said.rstrip())
                text = next((form for form in forms if rendered.startswith(form + follows, position)), "\0")
            if not rendered.startswith(text, position):
                raise TemplateError(f"{self.name} changes the text of messages, so the answers cannot be found in it")
            parts.append((text, which.get(part)))
            position += len(text)
        if position != len(rendered):
            raise TemplateError(f"{self.name} changes the text of messages, so the answers cannot be found in it")
        return [part for part in parts if part[0] or part[1] is not None]

    def _literal(self, text: str) -> list[Piece]:
        specials = special_tokens(self._tokenizer)
        if not specials:
            return [Piece(text)]
        parts = re.split("(" + "|".join(map(re.escape, sorted(specials, key=len, reverse=True))) + ")", text)
        return [Piece(part, control=part in specials) for part in parts if part]

    def _with_stop(self, literal: list[Piece], train: bool) -> list[Piece]:
        """What follows an answer: white space and the first special token belong to its target."""
        for i, piece in enumerate(literal):
            if piece.control:
                return [Piece(p.text, p.control, True, train) for p in literal[: i + 1]] + literal[i + 1 :]
            if piece.text.strip():
                break
        raise TemplateError(f"{self.name} ends answers without a special token, so a model could not learn to stop")

    def _from_prompt_on(self, found: list[Piece], asked: Sequence[Message], train: bool) -> list[Piece]:
        """The pieces before an answer, with all that follows the generation prompt made target."""
        prompt = self._render(asked, True)
        if not "".join(piece.text for piece in found).startswith(prompt):
            raise TemplateError(f"{self.name} begins answers in another way than its generation prompt does")
        position, marked = 0, []
        for piece in found:
            inside = max(0, min(len(piece.text), len(prompt) - position))
            position += len(piece.text)
            if piece.control or inside in (0, len(piece.text)):
                marked.append(piece if inside else Piece(piece.text, piece.control, True, train))
            else:
                marked += [replace(piece, text=piece.text[:inside]), Piece(piece.text[inside:], False, True, train)]
        return marked

    def stop_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """The special token that follows an answer, and EOS."""
        probe = self.pieces([Message("user", "a"), Message("assistant", "b")])
        names = {piece.text for piece in probe if piece.control and piece.target}
        ids = {int(tokenizer.convert_tokens_to_ids(name)) for name in names}
        if tokenizer.eos_token_id is not None:
            ids.add(int(tokenizer.eos_token_id))
        return tuple(sorted(ids))

    def jinja(self, *, generation: bool = False, bos: bool = False, stop: str | None = None) -> str:
        """The tokenizer's own source.

        Raises:
            TemplateError: `generation` is asked for and the source has no such markers.
        """
        if generation and "{% generation" not in self._source and "{%- generation" not in self._source:
            raise TemplateError(f"{self.name} has no {{% generation %}} markers; add them to the chat template")
        return self._source


def _marks(texts: Sequence[str]) -> list[str]:
    """One mark for each text, of characters that Unicode keeps out of text, and in none of the texts."""
    everything, nonce = "\0".join(texts), 0
    while f"\ufdd0{nonce}." in everything:
        nonce += 1
    return [f"\ufdd0{nonce}.{i}\ufdd1" for i in range(len(texts))]


BUILT_IN = {
    each.name: each
    for each in (
        # Weights v1.1 to v1.5. Bytes as FastChat's conversation template "vicuna_v1.1" renders them.
        TextTemplate(
            name="vicuna_v1.1",
            system="A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions.",
            system_end=" ",
            user="USER: ",
            user_end=" ",
            assistant="ASSISTANT:",
            answer_lead=" ",
            stop="</s>",
            stop_is_token=True,
        ),
        # Weights v0 (March 2023). FastChat's "zero_shot" bytes: without the example exchange of its "one_shot".
        TextTemplate(
            name="vicuna_v0",
            system="A chat between a curious human and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the human's questions.",
            system_end="\n### ",
            user="Human: ",
            user_end="\n### ",
            assistant="Assistant:",
            answer_lead=" ",
            stop="\n###",
            stop_is_token=False,
            answer_end=" ",
            stop_strings=("\n###", "###"),
        ),
        # Stanford Alpaca's prompt without input (train.py, PROMPT_DICT["prompt_no_input"]); the answer follows the
        # colon directly. Alpaca is single-turn; later rounds are written the same way after the stop token.
        TextTemplate(
            name="alpaca",
            system="Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.",
            system_end="\n\n",
            user="### Instruction:\n",
            user_end="\n\n",
            assistant="### Response:",
            answer_lead="",
            stop="</s>",
            stop_is_token=True,
        ),
    )
}
"""Name → template."""


def template(name_or_tokenizer: Any) -> Template:
    """The template of this name, or the chat template that a Hugging Face tokenizer carries.

    Raises:
        TemplateError: the name is unknown (the known ones are listed), or the tokenizer has no chat template.
    """
    if isinstance(name_or_tokenizer, Template):
        return name_or_tokenizer
    if not isinstance(name_or_tokenizer, str):
        return ChatTemplate(name_or_tokenizer)
    if name_or_tokenizer not in BUILT_IN:
        raise TemplateError(f"unknown prompt template {name_or_tokenizer!r}; known: {', '.join(BUILT_IN)}, "
                            "or a tokenizer with a chat template")  # fmt: skip
    return BUILT_IN[name_or_tokenizer]
