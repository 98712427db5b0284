"""Who a model is: the file of names, and the questions and answers that follow from it."""

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vicuna.conversation import Conversation, Message
from vicuna.data.tools.phrases import TOPICS, Topic
from vicuna.errors import InputError
from vicuna.settings.build import build
from vicuna.settings.given import read_file
from vicuna.settings.tree import settings_of

PLACES = ("name", "maker", "base", "other", "company")
"""What may stand in braces in a question or an answer."""


@dataclass(frozen=True, kw_only=True)
class Persona:
    """Names for identity conversations."""

    name: str
    """What the model is called."""
    maker: str
    """Who made it, as it stands after "by": the Vicuna project."""
    makers: dict[str, str] = field(default_factory=dict)
    """Language → what the maker is called there, where it is called otherwise."""
    base: str = ""
    """The model that it was fine-tuned from; empty leaves such questions out."""
    others: tuple[str, ...] = ()
    """Models that it is often taken for; it says that it is none of them. Neither its base nor a part of its name."""
    companies: tuple[str, ...] = ()
    """Companies that it is often taken to come from; it says that none of them made it."""
    languages: tuple[str, ...] = ("en",)
    """Languages to ask in."""
    topics: tuple[Topic, ...] = ()
    """Further questions and answers, in any language, with the same placeholders ({name}, {maker}, {base}, ...)."""

    def __post_init__(self) -> None:
        for key in ("name", "maker"):
            if not getattr(self, key).strip():
                raise ValueError(f"{key} is empty")
        if unknown := [code for code in self.languages if code not in TOPICS]:
            raise ValueError(f"languages holds {', '.join(TOPICS)}; got {unknown[0]!r}; for others write topics")
        if unknown := [code for code in self.makers if code not in TOPICS]:
            raise ValueError(f"makers has names for languages ({', '.join(TOPICS)}); got {unknown[0]!r}")
        if not self.languages and not self.topics:
            raise ValueError("languages and topics are both empty, so there is nothing to ask")
        for other in self.others:
            if other.casefold() in (self.name.casefold(), self.base.casefold()):
                raise ValueError(f"others holds {other!r}, which is the model itself or its base")
        if self.maker.casefold() in [each.casefold() for each in self.companies]:
            raise ValueError(f"companies holds {self.maker!r}, which is the maker")
        for topic in self.topics:
            _check(topic, self)

    @classmethod
    def read(cls, path: str) -> "Persona":
        """Read a YAML file of names.

        Raises:
            InputError: there is no such file.
            ConfigError: it does not say what is needed (file and line are named).
        """
        if not Path(path).is_file():
            raise InputError(f"there is no file {path}; it is a YAML file with name and maker")
        return build(cls, {each.key: each for each in read_file(path, settings_of(cls))})


def _check(topic: Topic, persona: Persona) -> None:
    if not topic.questions or not topic.answers:
        raise ValueError("topics holds one without questions or without answers")
    for text in (*topic.questions, *topic.answers):
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            raise ValueError(f"topics: {text!r}: {error}; a brace itself is written twice") from error
        if unknown := sorted(names - set(PLACES)):
            raise ValueError(f"topics: {{{unknown[0]}}} in {text!r} is none of {', '.join(PLACES)}")
        if "base" in names and not persona.base:
            raise ValueError(f"topics: {text!r} needs base, which is empty")


def identity_conversations(persona: Persona, answers: int, casual: bool) -> Iterator[Conversation]:
    """Every question with some of its answers, each pair once, in a fixed order.

    Args:
        persona: the names.
        answers: how many answers each question gets, where there are so many; 0 is all.
        casual: each question also as people type in haste: small letters, no mark at the end.
    """
    seen: set[tuple[str, str]] = set()
    for language, topic in _topics(persona):
        for turn, (question, names) in enumerate(_questions(topic, language, persona, casual)):
            wanted = len(topic.answers) if answers == 0 else min(answers, len(topic.answers))
            for k in range(wanted):
                text = topic.answers[(turn + k) % len(topic.answers)]
                answer = _sentence(text.format_map(names))
                if (question, answer) in seen:
                    continue
                seen.add((question, answer))
                messages = (Message("user", question), Message("assistant", answer))
                number = f"identity-{len(seen):04d}"
                yield Conversation(number, messages, metadata={"identity": topic.name, "language": language or "own"})


def _topics(persona: Persona) -> Iterator[tuple[str, Topic]]:
    for language in persona.languages:
        for topic in TOPICS[language]:
            yield language, topic
    for topic in persona.topics:
        yield "", topic


def _questions(topic: Topic, language: str, persona: Persona, casual: bool) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The topic's questions, filled in, with the names that their answers take."""
    asked: set[str] = set()
    for question in topic.questions:
        for names in _fillings(question + " ".join(topic.answers), language, persona):
            text = question.format_map(names)
            for form in (text, _hasty(text)) if casual else (text,):
                if form not in asked:
                    asked.add(form)
                    yield form, names


def _fillings(text: str, language: str, persona: Persona) -> Iterator[dict[str, str]]:
    """What the placeholders of a text may stand for: one for each other model or company that it names."""
    if "{base}" in text and not persona.base:
        return
    names = {"name": persona.name, "maker": persona.makers.get(language, persona.maker), "base": persona.base}
    for other in persona.others if "{other}" in text else ("",):
        for company in persona.companies if "{company}" in text else ("",):
            yield names | {"other": other, "company": company}


def _hasty(text: str) -> str:
    return re.sub(r"[\s?.!¿¡]+\Z", "", text.lstrip("¿¡ ")).lower()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
