"""What an engine that knows token ids does around the model: a job's prompt as ids, the answer's ids as text."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vicuna.config import ModelConfig
from vicuna.conversation import Message
from vicuna.errors import VicunaError
from vicuna.serve import faults
from vicuna.serve.engines import Piece
from vicuna.serve.engines.detokenize import Detokenizing
from vicuna.serve.engines.text import AnswerText
from vicuna.serve.protocol import Job

WIDE = 64
"""Characters that a token may always be thought to have."""


@dataclass(frozen=True)
class Beginning:
    """A job as an engine that knows token ids takes it up."""

    prompt: list[int]
    ids: list[int]
    """The prompt, and what the answer has already."""
    limit: int
    """Most tokens of prompt and answer together."""
    stop_ids: frozenset[int]
    """Those that end the answer."""
    biases: Mapping[int, float]
    """What to add to the logits of single tokens."""
    text: AnswerText
    """Turns ids into text; it has those that there are already."""
    waiting_text: str
    """Text of these ids that the client does not have yet."""

    @property
    def end(self) -> Piece | None:
        """The last piece of an answer that needs no more tokens; None where it does."""
        if len(self.ids) < self.limit and not self.text.stopped:
            return None
        return Piece(self.waiting_text + self.text.flush(), [], "stop" if self.text.stopped else "length")


class Prompting:
    """Tokenizer and template of a checkpoint, and the model's limits."""

    def __init__(self, model: ModelConfig, max_length: int, vocabulary: int) -> None:
        """
        Args:
            model: folder and template.
            max_length: most tokens of prompt and answer together.
            vocabulary: token ids that the model has.

        Raises:
            InputError: no tokenizer, or not the template that the weights were trained with.
        """
        from vicuna.models.load import load_template, load_tokenizer

        self.tokenizer = load_tokenizer(model.path)
        self.template = load_template(model.path, model.template, self.tokenizer)
        self.max_length = max_length
        self._vocabulary = vocabulary
        self._detokenizing = Detokenizing(self.tokenizer)
        self._lead = getattr(self.template, "answer_lead", "")
        self._widest_token = max(WIDE, *map(len, self.tokenizer.get_vocab()))

    def stop_ids(self, stated: int | Sequence[int] | None) -> frozenset[int]:
        """The ids that end an answer: the template's, and those that the model's generation settings state."""
        more = [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
        return frozenset([*self.template.stop_ids(self.tokenizer), *more])

    def ids(self, job: Job) -> list[int]:
        """The token ids of a job's prompt, at least one.

        Raises:
            Fault: 400; there are none, too many, or the template cannot write these messages.
        """
        prompt = self.tokenized(job)
        if len(prompt) >= self.max_length:
            raise faults.context_exceeded(f"{len(prompt)} tokens", self.max_length, job.prompt_field)
        self.refuse_unknown(prompt, job.prompt_field)
        return prompt

    def tokenized(self, job: Job) -> list[int]:
        """The token ids of a job's prompt, whether the model knows them and has room for them or not.

        Raises:
            Fault: 400; there are none, far too many, or the template cannot write these messages.
        """
        from vicuna.prompt import encode_prompt

        texts = [turn.content for turn in job.messages] if job.messages is not None else [job.prompt or ""]
        self._refuse_hopeless(sum(map(len, texts)), job.prompt_field)
        if job.messages is not None:
            messages = [Message(turn.role, turn.content) for turn in job.messages]
            try:
                return encode_prompt(messages, self.tokenizer, self.template)
            except VicunaError as error:
                raise faults.invalid(str(error), param="messages") from error
        if job.tokens is not None:
            return list(job.tokens)
        ids: list[int] = self.tokenizer(job.prompt or "").input_ids
        if not ids:
            raise faults.invalid("the prompt is empty and this tokenizer has no token to begin with", param="prompt")
        return ids

    def text_ids(self, text: str | Sequence[int]) -> list[int]:
        """The token ids of a text to embed.

        Raises:
            Fault: 400; there are none or too many.
        """
        if isinstance(text, str) and len(text) > self._hopeless:
            raise faults.text_too_long(f"{len(text)} characters", self.max_length)
        ids: list[int] = self.tokenizer(text).input_ids if isinstance(text, str) else list(text)
        if not ids:
            raise faults.invalid("an empty text has no vector", param="input")
        if len(ids) > self.max_length:
            raise faults.text_too_long(f"{len(ids)} tokens", self.max_length)
        self.refuse_unknown(ids, "input")
        return ids

    def begin(self, job: Job, stop_ids: frozenset[int]) -> Beginning:
        """Take a job up.

        Args:
            job: with what other workers have written of the answer.
            stop_ids: the model's (`stop_ids`); the job may have more, or want none of these.

        Raises:
            Fault: 400; as for `ids`, or a bias is for a token that the model does not have.
        """
        prompt = self.ids(job)
        biases = {int(token): float(bias) for token, bias in job.extras.get("logit_bias", {}).items()}
        self.refuse_unknown(biases, "logit_bias")
        text = self._text(job, prompt)
        return Beginning(
            prompt=prompt,
            ids=[*prompt, *job.emitted],
            limit=min(self.max_length, len(prompt) + (job.sampling.max_tokens or self.max_length)),
            stop_ids=frozenset(job.sampling.stop_token_ids) | (frozenset() if job.sampling.ignore_eos else stop_ids),
            biases=biases,
            text=text,
            waiting_text=text.push(job.emitted) if job.emitted else "",
        )

    def _text(self, job: Job, prompt: Sequence[int]) -> AnswerText:
        """What turns the ids of this job's answer into text; the ids so far are still to be pushed."""
        chat = job.messages is not None
        return AnswerText(
            self._detokenizing.begin(prompt),
            [*job.sampling.stop, *(self.template.stop_strings if chat else ())],
            self._lead if chat else "",
            len(job.shown),
        )

    def refuse_unknown(self, tokens: Collection[int], field: str) -> None:
        """Refuse token ids that the model does not have: one would fail the whole batch.

        Raises:
            Fault: 400.
        """
        highest = max(tokens, default=0)
        if highest >= self._vocabulary:
            raise faults.invalid(
                f"{field}: the model has no token {highest}; its ids end at {self._vocabulary - 1}", param=field
            )

    @property
    def _hopeless(self) -> int:
        """Characters that are too many in any case."""
        return self.max_length * self._widest_token

    def _refuse_hopeless(self, characters: int, field: str) -> None:
        """Refuse what is far too long before it is tokenised: that takes seconds, and everybody else would wait."""
        if characters > self._hopeless:
            raise faults.context_exceeded(f"{characters} characters", self.max_length, field)
