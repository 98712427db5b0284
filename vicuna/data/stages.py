"""The stages of one record, in the order of the settings. Pure but for what they load, so they run anywhere."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from vicuna.data import decontaminate, pages
from vicuna.data.chat import Chat, Drop, from_conversation
from vicuna.data.config import CleanConfig, Stage
from vicuna.data.filters import language, personal, quality, toxicity, validity
from vicuna.data.outcome import Example, Outcome
from vicuna.data.pages import is_page
from vicuna.data.sources import rows
from vicuna.data.sources.record import Record, whole_text
from vicuna.data.sources.turns import RowError
from vicuna.data.split import Piece, Splitter
from vicuna.files import sha256_text

EXAMPLE_LIMIT = 3_000
"""Characters of HTML that a before/after example of the report may have."""


# ------------------------------------------------------------------------------------------------ in what order
def before_dedup(config: CleanConfig) -> tuple[Stage, ...]:
    """The stages that are switched on and come before the duplicates are known."""
    return _enabled(config, config.order[: config.order.index("dedup")])


def after_dedup(config: CleanConfig) -> tuple[Stage, ...]:
    """The stages that are switched on and work on what is left then, but for the split, which is always last."""
    return _enabled(config, config.order[config.order.index("dedup") + 1 : -1])


def _enabled(config: CleanConfig, names: Sequence[Stage]) -> tuple[Stage, ...]:
    return tuple(each for each in names if getattr(config, each).enabled)


# ------------------------------------------------------------------------------------------------ what they do
def begin(record: Record) -> Outcome:
    """Make a record a chat; one that is none is dropped as it is read."""
    where = record.file + record.position
    if record.problem:
        reason = "file breaks off" if record.damaged else "malformed record"
        return _unreadable(record, reason, record.problem, record.text_hash)
    try:
        found = rows.reading(record.row, where)
    except RowError as error:
        return _unreadable(record, error.reason, str(error).removeprefix(f"{where}: "), _row_hash(record.row))
    except RecursionError:
        return _too_deep(record)
    if not _storable(found.conversation.metadata):
        return _too_deep(record)
    chat = from_conversation(found.conversation, record.file, record.position)
    if not chat.rounds:
        return _unreadable(record, "no turns", "", _row_hash(record.row), chat.id)
    outcome = Outcome(chat=chat, rounds_in=len(chat.rounds), mapped=found.mapped)
    if chat.misplaced_system:  # a chat has no place for it
        dropped = [Drop("read", "system message after the first turn", round=each) for each in chat.rounds]
        outcome.keep((chat.with_rounds(()), dropped))
    return outcome


def advance(outcome: Outcome, names: Sequence[Stage], config: CleanConfig) -> None:
    """Run stages by name, in order, until no round is left."""
    for name in names:
        if not outcome.chat.rounds:
            return
        _STAGES[name](outcome, config)


def cut(outcome: Outcome, config: CleanConfig) -> list[Piece]:
    """The last stage: the samples of what is left, cut to the context where `split` is switched on."""
    if not outcome.chat.rounds:
        return []
    if not config.split.enabled:
        return [Piece(outcome.chat.conversation(), None, rounds=len(outcome.chat.rounds))]
    pieces, drops = splitter(config)(outcome.chat)
    outcome.drops += drops
    return pieces


def prepare(names: Sequence[Stage], config: CleanConfig) -> None:
    """Load now what these stages, if switched on, would load at their first record: processes forked later share it."""
    for name in _enabled(config, names):
        if name in _PREPARE:
            _PREPARE[name](config)


@functools.lru_cache(1)
def splitter(config: CleanConfig) -> Splitter:
    """Cuts chats with the tokenizer and the template of `config.model`."""
    from vicuna.models.load import load_template, load_tokenizer

    tokenizer = load_tokenizer(config.model.path)
    template = load_template(config.model.path, config.model.template, tokenizer)
    return Splitter(tokenizer, template, config.model.max_length, config.split)


def _markdown(outcome: Outcome, config: CleanConfig) -> None:
    before = outcome.chat
    outcome.chat = _converted(before, config)
    outcome.example = _example(before, outcome.chat)


def _validity(outcome: Outcome, config: CleanConfig) -> None:
    outcome.keep(validity.valid(outcome.chat, config.validity))


def _quality(outcome: Outcome, config: CleanConfig) -> None:
    outcome.keep(quality.good(outcome.chat, config.quality))


def _language(outcome: Outcome, config: CleanConfig) -> None:
    result, outcome.language = language.kept(outcome.chat, config.language)
    outcome.keep(result)


def _toxicity(outcome: Outcome, config: CleanConfig) -> None:
    outcome.keep(toxicity.judged(outcome.chat, toxicity.scorer(config.toxicity), config.toxicity))


def _personal(outcome: Outcome, config: CleanConfig) -> None:
    outcome.chat, outcome.replaced = personal.scrubbed(outcome.chat, config.personal)


def _decontaminate(outcome: Outcome, config: CleanConfig) -> None:
    outcome.keep(decontaminate.decontaminated(outcome.chat, config.decontaminate))


def _scorer(config: CleanConfig) -> None:
    toxicity.scorer.cache_clear()  # its file of words may have changed since an earlier run in this process
    toxicity.scorer(config.toxicity)


_STAGES: dict[Stage, Callable[[Outcome, CleanConfig], None]] = {
    "markdown": _markdown,
    "validity": _validity,
    "quality": _quality,
    "toxicity": _toxicity,
    "language": _language,
    "personal": _personal,
    "decontaminate": _decontaminate,
}
_PREPARE: dict[Stage, Callable[[CleanConfig], object]] = {
    "language": lambda _: language.prepare(),
    "decontaminate": lambda config: decontaminate.prepare(config.decontaminate),
    "toxicity": _scorer,
    "split": splitter,
}


# ------------------------------------------------------------------------------------------------ details
def _unreadable(record: Record, reason: str, detail: str, text_hash: str, chat_id: str = "") -> Outcome:
    where = record.file + record.position
    chat = Chat(id=chat_id or where, file=record.file, position=record.position, source=where, rounds=())
    drop = Drop("read", reason, whole_text(detail))
    return Outcome(chat=chat, rounds_in=1, drops=[drop], record_hash=text_hash)


def _too_deep(record: Record) -> Outcome:
    flat = {name: value for name, value in record.row.items() if not isinstance(value, list | dict)}
    return _unreadable(record, "malformed record", "its values are nested too deeply", _row_hash(flat))


def _storable(metadata: Mapping[str, Any]) -> bool:
    """Whether metadata can be kept between two steps, within the three levels that are around it then."""
    try:
        orjson.dumps([[[metadata]]])
    except orjson.JSONEncodeError:
        return False
    return True


def _row_hash(row: Any) -> str:
    return sha256_text(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str))


def _converted(chat: Chat, config: CleanConfig) -> Chat:
    system = pages.to_text(chat.system, "user", config.markdown) if chat.system is not None else None
    rounds = []
    for each in chat.rounds:
        users = tuple(pages.to_text(text, "user", config.markdown) for text in each.users)
        answers = tuple(pages.to_text(text, "assistant", config.markdown) for text in each.answers)
        rounds.append(replace(each, users=users, answers=answers))
    return replace(chat, system=system, rounds=tuple(rounds))


def _example(before: Chat, after: Chat) -> Example | None:
    for old, new in zip(before.rounds, after.rounds, strict=True):
        for raw, text in zip(old.answers, new.answers, strict=True):
            if raw != text and len(raw) <= EXAMPLE_LIMIT and is_page(raw, "assistant"):
                kinds = {"katex": "formula", "<pre": "code", "<table": "table", "<ol": "list", "<ul": "list"}
                kind = next((name for mark, name in kinds.items() if mark in raw), "text")
                return Example(kind, f"{before.file}{before.position} round {old.index}", raw, text)
    return None
