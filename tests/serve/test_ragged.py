"""Attention of a ragged batch is plain attention, answer by answer, wherever the cache's blocks lie."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from vicuna.serve.engines.continuous.cache import Chain, Node  # noqa: E402
from vicuna.serve.engines.continuous.ragged import SHARED, Look, Ragged, Span  # noqa: E402
from vicuna.serve.engines.continuous.stretches import StretchPool  # noqa: E402

torch.set_num_threads(1)
BLOCK = 8
ROOM = 1024
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Shape:
    """One layer's attention."""

    heads: int = 4
    shared: int = 2
    """Key heads."""
    key: int = 8
    value: int = 8
    dtype: torch.dtype = torch.float64


def chain(blocks: list[int]) -> Chain:
    made = Chain(Node(None, (), -1), shares=False)
    made.blocks = blocks
    return made


def batch(spans: list[tuple[int, int, list[int]]], dtype: torch.dtype = torch.float64) -> Ragged:
    """Of answers: tokens before the step, tokens of the step, blocks."""
    made = [Span([1] * count, start, chain(blocks)) for start, count, blocks in spans]
    return Ragged(made, BLOCK, ROOM, torch.device("cpu"), dtype)


def places(span: Span) -> list[int]:
    """Where an answer's tokens lie in the cache."""
    return [span.chain.blocks[place // BLOCK] * BLOCK + place % BLOCK for place in range(span.end)]


def plain(pool: StretchPool, query: torch.Tensor, ragged: Ragged, window: int | None, scale: float) -> torch.Tensor:
    """Masked softmax attention, one answer after the other, in float64."""
    heads, shared = query.shape[1], pool.keys.shape[0]
    rows = []
    for span, first in zip(ragged.spans, ragged.offsets):
        where = places(span)
        keys, values = (
            each[:, where].double().repeat_interleave(heads // shared, 0) for each in (pool.keys, pool.values)
        )
        scores = query[0, :, first : first + len(span.ids)].double() @ keys.transpose(-1, -2) * scale
        own, others = torch.arange(span.start, span.end)[:, None], torch.arange(span.end)[None]
        hidden = others > own
        if window is not None:
            hidden |= others <= own - window
        rows.append(torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ values)
    return torch.cat(rows, 1).transpose(0, 1)[None]


def check(ragged: Ragged, shape: Shape, window: int | None, seed: int) -> None:
    """Write the step's tokens into a cache that is full of others' and compare what each row sees."""
    draw = torch.Generator().manual_seed(seed)

    def normal(heads: int, count: int, size: int) -> torch.Tensor:
        return torch.randn(1, heads, count, size, generator=draw, dtype=torch.float64).to(shape.dtype)

    count = ragged.offsets[-1]
    keys, values = normal(shape.shared, count, shape.key), normal(shape.shared, count, shape.value)
    pool = StretchPool(keys, values, ROOM)
    pool.write(torch.arange(ROOM), normal(shape.shared, ROOM, shape.key), normal(shape.shared, ROOM, shape.value))
    pool.write(ragged.places, keys, values)
    query = normal(shape.heads, count, shape.key)
    scale = 0.3
    seen = pool.attend(query, ragged, window, scale)
    assert seen.shape == (1, count, shape.heads, shape.value)
    assert seen.dtype == shape.dtype
    truth = plain(pool, query, ragged, window, scale)
    torch.testing.assert_close(seen.double(), truth, atol=CLOSE[shape.dtype], rtol=CLOSE[shape.dtype])


@st.composite
def answers(draw: st.DrawFn) -> list[tuple[int, int, list[int]]]:
    """Answers of one step: some begin with the same blocks; their own blocks lie scattered or side by side."""
    beginnings = [draw(st.integers(0, 14)) for _ in range(2)]
    free = list(range(ROOM // BLOCK))
    if draw(st.booleans()):
        draw(st.randoms(use_true_random=False)).shuffle(free)
    common = [[free.pop(0) for _ in range(count)] for count in beginnings]
    made = []
    for _ in range(draw(st.integers(1, 8))):
        begin = draw(st.sampled_from([[], *common]))
        own = draw(st.integers(1, 60))
        count = draw(st.sampled_from([1, 1, 1, own, draw(st.integers(1, own))]))
        needed, spare = -(-own // BLOCK), draw(st.integers(0, 2))
        if needed + spare > len(free):
            break
        made.append((len(begin) * BLOCK + own - count, count, begin + [free.pop(0) for _ in range(needed)]))
        del free[:spare]
    return made or [(0, 1, [0])]


shapes = st.builds(
    Shape,
    heads=st.sampled_from([4, 8]),
    shared=st.sampled_from([1, 2, 4]),
    key=st.sampled_from([4, 8]),
    value=st.sampled_from([4, 8]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
windows = st.sampled_from([None, None, 1, 5, 16, 50, 10_000])


@settings(max_examples=300, deadline=None)
@given(spans=answers(), shape=shapes, window=windows, seed=st.integers(0, 99))
def test_a_ragged_batch_sees_what_each_answer_sees_by_itself(
    spans: list[tuple[int, int, list[int]]], shape: Shape, window: int | None, seed: int
) -> None:
    check(batch(spans, shape.dtype), shape, window, seed)


def seen_by_row(ragged: Ragged, looks: list[Look]) -> list[list[int]]:
    """The places of the cache that each row of the batch sees in these looks."""
    seen: list[list[int]] = [[] for _ in range(ragged.offsets[-1])]
    for look in looks:
        rows = range(len(seen))[look.rows] if isinstance(look.rows, slice) else look.rows.tolist()
        assert len(rows) == look.count
        shown = torch.zeros(look.count, look.size) if look.mask is None else look.mask.reshape(look.count, look.size)
        for number, row in enumerate(rows):
            visible = torch.nonzero(shown[number] == 0).flatten().tolist()
            seen[row] += [look.first + number * look.step + place for place in visible]
    return seen


@settings(max_examples=200, deadline=None)
@given(spans=answers(), window=windows)
def test_every_row_sees_each_place_that_it_may_see_exactly_once(
    spans: list[tuple[int, int, list[int]]], window: int | None
) -> None:
    ragged = batch(spans)
    rounds = ragged.looks(window)
    for looks in rounds:
        touched = [
            row
            for look in looks
            for row in (range(ragged.offsets[-1])[look.rows] if isinstance(look.rows, slice) else look.rows.tolist())
        ]
        assert len(set(touched)) == len(touched)  # a later look of the round would overwrite an earlier one
    seen = seen_by_row(ragged, [look for looks in rounds for look in looks])
    row = 0
    for span in ragged.spans:
        where = places(span)
        for own in range(span.start, span.end):
            first = 0 if window is None else max(0, own + 1 - window)
            assert sorted(seen[row]) == sorted(where[first : own + 1])
            row += 1


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(20, 30), min_size=2, max_size=6),
    apart=st.integers(4, 9),
    order=st.randoms(use_true_random=False),
    shape=shapes,
)
def test_answers_at_even_distances_are_computed_in_one_go(
    lengths: list[int], apart: int, order: object, shape: Shape
) -> None:
    spans = [(length - 1, 1, list(range(apart * i, apart * i + 4))) for i, length in enumerate(lengths)]
    order.shuffle(spans)  # type: ignore[attr-defined]
    ragged = batch(spans, shape.dtype)
    ((look,),) = ragged.looks(None)
    assert (look.count, look.step) == (len(lengths), apart * BLOCK)
    check(ragged, shape, None, 1)


def test_a_look_never_reaches_beyond_the_cache() -> None:
    last = ROOM // BLOCK
    ragged = batch([(25, 1, list(range(last - 8, last - 4))), (20, 1, list(range(last - 3, last)))])
    for look in itertools.chain.from_iterable(ragged.looks(None)):
        assert look.first + max(0, look.count - 1) * look.step + look.size <= ROOM
    check(ragged, Shape(), None, 2)


def test_what_answers_have_in_common_is_looked_at_together() -> None:
    common = list(range(SHARED // BLOCK))
    ragged = batch([(SHARED + 3, 1, [*common, 40 + 2 * i]) for i in range(5)])
    first, *more = ragged.looks(None)
    (look,) = first
    assert (look.count, look.size, look.mask) == (5, SHARED, None)
    assert sum(each.count for looks in more for each in looks) == 5
    check(ragged, Shape(), None, 3)


def test_positions_places_and_last_rows_are_those_of_each_answer() -> None:
    ragged = batch([(9, 3, [5, 2]), (0, 2, [7])])
    assert ragged.positions.tolist() == [[9, 10, 11, 0, 1]]
    assert ragged.places.tolist() == [2 * BLOCK + 1, 2 * BLOCK + 2, 2 * BLOCK + 3, 7 * BLOCK, 7 * BLOCK + 1]
    assert ragged.lasts([0, 1]).tolist() == [2, 4]
    assert ragged.lasts([]).tolist() == []
    table = ragged.table
    assert table.offsets.tolist() == [0, 3, 5]
    assert table.lengths.tolist() == [12, 2]
    assert table.blocks.tolist() == [[5, 2], [7, 0]]
    assert (table.most, table.longest) == (3, 12)
