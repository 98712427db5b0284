"""Toxicity by a moderation endpoint in OpenAI's manner."""

import os
import urllib.parse
from collections.abc import Sequence
from typing import Any

from vicuna.data.config import ToxicityConfig
from vicuna.data.filters.windows import windows
from vicuna.errors import ConfigError, InputError, VicunaError

MODEL = "omni-moderation-latest"
WINDOW = 6_000
"""Characters of a text that are sent as one input; a longer text's score is the highest of its stretches."""


class ModerationError(VicunaError):
    """The moderation endpoint gave no usable answer."""


class Moderation:
    """Scores by OpenAI's moderation endpoint, or another server with the same interface.

    Source: POST /moderations of OpenAI's API reference (`input` a list of texts; `results[].category_scores`).
    """

    def __init__(self, config: ToxicityConfig) -> None:
        """Make a scorer; nothing is sent yet.

        Raises:
            ConfigError: OpenAI's own endpoint needs a key, and the environment has none.
        """
        import openai

        key = os.environ.get(config.key_env, "")
        if not key and urllib.parse.urlsplit(config.base_url).hostname == "api.openai.com":
            raise ConfigError(f"{config.base_url} needs a key: put it into the environment variable {config.key_env}")
        self._config = config
        self._client = openai.OpenAI(
            base_url=config.base_url, api_key=key or "none", timeout=config.timeout, max_retries=config.attempts - 1
        )

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """One score from 0 to 1 for each text: the highest score of any category that counts.

        Raises:
            ModerationError: no usable answer after every try.
            ConfigError: the endpoint does not accept the key.
            InputError: the endpoint has no such model or category, or refuses the request.
        """
        owners = [
            (number, window) for number, text in enumerate(texts) for window in windows(text, WINDOW) if window.strip()
        ]
        scores = [0.0] * len(texts)
        for start in range(0, len(owners), self._config.batch):
            batch = owners[start : start + self._config.batch]
            for (number, _), score in zip(batch, self._ask([window for _, window in batch]), strict=True):
                scores[number] = max(scores[number], score)
        return scores

    def _ask(self, inputs: list[str]) -> list[float]:
        import openai

        where = self._config.base_url
        try:
            reply = self._client.moderations.create(model=self._config.model or MODEL, input=inputs)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            name = self._config.key_env
            raise ConfigError(f"{where} does not accept the key in the environment variable {name}") from error
        except (openai.BadRequestError, openai.NotFoundError, openai.UnprocessableEntityError) as error:
            raise InputError(f"{where} refuses to score texts: {_said(error)}") from error
        except openai.APIConnectionError as error:
            raise ModerationError(f"no moderation server answers at {where}") from error
        except openai.APIStatusError as error:
            raise ModerationError(f"{where} still fails after {self._config.attempts} tries: {_said(error)}") from error
        except openai.OpenAIError as error:
            raise ModerationError(f"{where} does not answer in OpenAI's manner: {_said(error)}") from error
        return self._scores(reply, len(inputs))

    def _scores(self, reply: Any, size: int) -> list[float]:
        try:
            found: list[dict[str, float]] = [each.category_scores.model_dump(by_alias=True) for each in reply.results]
        except (AttributeError, TypeError) as error:
            message = f"{self._config.base_url} does not answer in OpenAI's manner: no results with category_scores"
            raise ModerationError(message) from error
        if len(found) != size:
            raise ModerationError(f"{self._config.base_url} scored {len(found)} of {size} texts")
        known = sorted({name for scores in found for name in scores})
        if missing := set(self._config.labels) - set(known):
            raise InputError(f"the endpoint has no category {sorted(missing)[0]!r}; it has {', '.join(known)}")
        wanted = self._config.labels or known
        return [max((float(scores.get(name) or 0.0) for name in wanted), default=0.0) for scores in found]


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:300]
