"""Toxicity by a text classifier of the Hugging Face format."""

from collections.abc import Sequence
from typing import Any

from vicuna.data.config import ToxicityConfig
from vicuna.data.filters.windows import windows
from vicuna.errors import ConfigError, InputError

BYTES = 2
"""UTF-8 bytes that a token has at least, on average; what makes up more tokens than the classifier reads is cut off."""


class Classifier:
    """Scores by the probability of a classifier's labels; the highest of those that count."""

    def __init__(self, config: ToxicityConfig) -> None:
        """Load the classifier.

        Raises:
            InputError: there is no classifier of that name, or it cannot be loaded.
            ConfigError: it has none of the labels.
        """
        import transformers

        transformers.utils.logging.disable_progress_bar()
        try:
            self._pipeline: Any = transformers.pipeline(
                "text-classification", model=config.model, device=config.device, top_k=None
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            said = " ".join(str(error).split())[:300]
            raise InputError(f"cannot load the classifier {config.model}: {said}") from error
        known = [str(name) for name in self._pipeline.model.config.id2label.values()]
        if missing := [name for name in config.labels if name not in known]:
            raise ConfigError(f"toxicity.labels: {config.model} has no label {missing[0]!r}; it has {', '.join(known)}")
        tokens = self._pipeline.tokenizer.model_max_length
        positions = getattr(self._pipeline.model.config, "max_position_embeddings", None)
        self._most_tokens = tokens if tokens < 1_000_000 else positions or 512  # a huge number stands for "not said"
        self._labels = frozenset(config.labels)
        self._batch = config.batch

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """One score from 0 to 1 for each text: the highest of its stretches that fit the classifier's context."""
        owners = [(number, window) for number, text in enumerate(texts) for window in self._windows(text)]
        scores = [0.0] * len(texts)
        if not owners:
            return scores
        stretches = [window for _, window in owners]
        replies = self._pipeline(stretches, batch_size=self._batch, truncation=True, max_length=self._most_tokens)
        for (number, _), reply in zip(owners, replies, strict=True):
            counted = (float(each["score"]) for each in reply if each["label"] in self._labels)
            scores[number] = max(scores[number], *counted)
        return scores

    def _windows(self, text: str) -> list[str]:
        size = len(text.encode("utf-8", "surrogatepass")) or 1
        most = max(1, BYTES * self._most_tokens * len(text) // size)
        return [window for window in windows(text, most) if window.strip()]
