"""Room in a base model for tokens that were added to its tokenizer."""

from dataclasses import dataclass
from typing import Any

import torch

from vicuna.errors import ConfigError, InputError


@dataclass(frozen=True)
class Growth:
    """Tokens that the tokenizer has, and the model had not."""

    before: int
    """Rows of the embedding in the base model."""
    after: int
    """Rows that the tokenizer needs."""
    tokens: tuple[str, ...]
    """The added tokens beyond the old rows, by id."""

    def __str__(self) -> str:
        some = ", ".join(self.tokens[:4]) + (", ..." if len(self.tokens) > 4 else "")
        return (
            f"the embedding grows from {self.before:,} to {self.after:,} rows for tokens that were added to the "
            f"tokenizer ({some}); a new row begins as the mean of the old ones"
        )


def grow(model_config: Any, tokenizer: Any, *, adapter: bool) -> Growth | None:
    """Make room for the tokenizer's added tokens in the configuration from which a model is built.

    More rows than tokens are fine: many models round their number up.

    Args:
        model_config: transformers' configuration; its `vocab_size` is changed in place.
        tokenizer: the tokenizer to train with.
        adapter: whether the embedding is frozen.

    Returns:
        what grew; None where there is a row for every token.

    Raises:
        ConfigError: rows are missing, and the embedding is frozen: they would never learn what their tokens mean.
        InputError: a token that is not an added one has no row: model and tokenizer do not belong together.
    """
    rows = int(model_config.vocab_size)
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return None
    added = tokenizer.added_tokens_decoder
    if foreign := sorted(set(beyond) - set(added)):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path} has the word {beyond[foreign[0]]!r} with id {foreign[0]}, and "
            f"the model embeds only {rows}; use the tokenizer that belongs to the model"
        )
    growth = Growth(rows, max(beyond) + 1, tuple(beyond[number] for number in sorted(beyond)))
    if adapter:
        raise ConfigError(
            f"the tokenizer has tokens that the model does not ({', '.join(growth.tokens[:4])}), and an adapter does "
            "not learn their rows; use --lora.kind none, or the tokenizer that belongs to the model"
        )
    model_config.vocab_size = growth.after
    return growth


def embedding_names(model: Any) -> frozenset[str]:
    """Names of the parameters that have a row for each token: the input embedding, and the output matrix and bias."""
    owners = [each for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each is not None]
    tables = {id(parameter) for owner in owners for parameter in owner.parameters(recurse=False)}
    return frozenset(name for name, each in model.named_parameters(remove_duplicate=False) if id(each) in tables)


def grown(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """A table with as many rows as asked for: each new one is the mean of the old ones.

    From a random row a model would begin by predicting the new tokens everywhere; the mean is as likely as the rest.

    Args:
        tensor: a whole table, shape (old rows, ...).
        rows: at least as many as it has.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    missing = rows - len(tensor)
    if not missing:
        return tensor
    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(missing, *tensor.shape[1:])])
