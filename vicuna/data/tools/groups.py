"""Which conversations must stay together: near-duplicates, and the pieces of one conversation."""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.int64]

_BLOCK = 500
"""Texts whose shingles are in memory at once."""


def near_labels(texts: Iterable[str], threshold: float) -> "Rows":
    """Labels that are equal for texts in one cluster of near-duplicates, shape (n,); keeps 1 kB for each text."""
    import numpy as np

    from vicuna.data.near import bands, candidates, clusters, signatures, verified

    stream = iter(texts)
    blocks = [signatures(())]
    while block := list(islice(stream, _BLOCK)):
        blocks.append(signatures(block))
    rows = np.concatenate(blocks)
    pairs = np.unique(np.concatenate([candidates(band) for band in bands(rows, threshold).T]), axis=0)
    return np.asarray(clusters(verified(pairs, rows, threshold, 1), len(rows)), dtype=np.int64)


def together(stems: "npt.NDArray[np.uint64]", turns: "Rows") -> "Rows":
    """Labels that are equal for pieces of one conversation.

    Args:
        stems: a number for each id without its `_4`, shape (n,).
        turns: the number at the id's end, or -1; shape (n,).

    Returns:
        labels, shape (n,). Ids count as pieces only where all with that stem end in even numbers, as pieces begin at
        questions; somebody's `chat_0`, `chat_1`, `chat_2` are conversations of their own.
    """
    import numpy as np

    _, labels = np.unique(stems, return_inverse=True)
    odd = np.zeros(labels.max(initial=-1) + 1, dtype=bool)
    odd[labels[(turns >= 0) & (turns % 2 == 1)]] = True
    alone = odd[labels]
    labels[alone] = len(odd) + np.arange(alone.sum())
    return np.asarray(labels, dtype=np.int64)


def joined(a: "Rows", b: "Rows") -> "Rows":
    """Labels that are equal where either of two labellings says so, directly or in steps; each of shape (n,)."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(a))
    firsts = [np.unique(labels, return_index=True, return_inverse=True) for labels in (a, b)]
    ends = np.concatenate([first[inverse] for _, first, inverse in firsts])
    edges = coo_array((np.ones(len(ends), dtype=np.int8), (np.tile(rows, 2), ends)), shape=(len(a), len(a)))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)
