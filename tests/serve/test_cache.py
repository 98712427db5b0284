"""The cache's books: no block is ever lost or written to by two, and what is shared is the same."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from vicuna.serve.engines.continuous.cache import AHEAD, TAKEN, Cache, Chain, Node

Written = tuple[int, tuple[int, ...]]
"""What keys and values of a token depend on: the adapter, and the tokens up to it."""
tokens = st.builds(
    lambda zeros, rest: [0] * zeros + rest, st.integers(0, 10), st.lists(st.integers(0, 1), min_size=1, max_size=3)
)
"""So few kinds that many begin alike."""


@dataclass(eq=False)
class Answer:
    """A chain, what it is for, and how much of it is computed."""

    chain: Chain
    adapter: int
    ids: list[int]
    filled: int = 0
    closed: bool = field(default=False)


class Books(RuleBasedStateMachine):
    """Answers come, grow and go as in the batcher; `written` is what stands in each place of the cache."""

    answers = Bundle("answers")

    @initialize(
        blocks=st.sampled_from([4, 8, 16, 40, 1]),
        size=st.integers(1, 3),
        share=st.sampled_from([True, True, True, False]),
    )
    def start(self, blocks: int, size: int, share: bool) -> None:
        self.cache = Cache(blocks, size, share=share)
        self.share = share
        self.open: list[Answer] = []
        self.written: dict[int, Written | None] = {}

    @rule(
        target=answers,
        ids=tokens,
        adapter=st.sampled_from([0, 0, 1]),
        share=st.sampled_from([True, True, True, False]),
        whole=st.booleans(),
    )
    def join(self, ids: list[int], adapter: int, share: bool, whole: bool) -> object:
        answer = Answer(self.cache.open(adapter, share=share), adapter, ids)
        answer.filled = self.cache.match(answer.chain, ids)
        assert answer.filled < len(ids)  # the last token's logits are needed
        assert share or answer.filled == 0
        self.open.append(answer)
        if self.grown(answer):
            if whole:
                self.compute(answer, len(ids))
            return answer
        self.leave(answer, keep=True)
        return multiple()

    @rule(answer=answers, more=st.lists(st.integers(0, 1), min_size=1, max_size=3), hoped=st.integers(0, 3 * AHEAD))
    def write_on(self, answer: Answer, more: list[int], hoped: int) -> None:
        if answer.closed:
            return
        before = list(answer.ids)
        answer.ids += more
        if not self.grown(answer, hoped):
            answer.ids = before

    def grown(self, answer: Answer, hoped: int = 0) -> bool:
        cache, chain = self.cache, answer.chain
        missing = -(-len(answer.ids) // cache.size) - len(chain.blocks)
        left = cache.free + cache.kept
        before = (list(chain.blocks), cache.free, cache.kept, cache._state.copy())
        if cache.grow(chain, len(answer.ids), hoped):
            assert missing <= left
            for block in chain.blocks[len(before[0]) :]:  # what stood there is nobody's any more
                self.written |= dict.fromkeys(self.places(block), None)
            assert chain.blocks[: len(before[0])] == before[0]
            assert len(chain.blocks) * cache.size >= len(answer.ids)
            return True
        assert missing > left
        assert (chain.blocks, cache.free, cache.kept) == before[:3]
        assert np.array_equal(cache._state, before[3])
        return False

    @rule(answer=answers, count=st.sampled_from([1, 2, 5, 100]))
    def go_on(self, answer: Answer, count: int) -> None:
        if not answer.closed:
            self.compute(answer, count)

    def compute(self, answer: Answer, count: int) -> None:
        end = min(len(answer.ids), answer.filled + count)
        for place in range(answer.filled, end):
            self.written[self.where(answer, place)] = self.content(answer, place)
        answer.filled = end
        self.cache.fill(answer.chain, answer.ids, end)
        if answer.chain.shares:
            assert len(answer.chain.nodes) == end // self.cache.size

    @rule(answer=answers)
    def adopt(self, answer: Answer) -> None:
        if answer.closed:
            return
        found = self.cache.adopt(answer.chain, answer.ids, answer.filled)
        assert answer.filled <= found <= max(answer.filled, len(answer.ids) - 1)
        answer.filled = found

    @rule(ids=tokens, adapter=st.sampled_from([0, 0, 1]), keep=st.sampled_from([True, True, True, False]))
    def pass_by(self, ids: list[int], adapter: int, keep: bool) -> None:
        """A whole life at once."""
        answer = self.join(ids, adapter, True, True)
        if isinstance(answer, Answer):
            self.leave(answer, keep)

    @rule(answer=consumes(answers), keep=st.sampled_from([True, True, False]))
    def leave(self, answer: Answer, keep: bool) -> None:
        if answer.closed:
            return
        held = set(answer.chain.blocks)
        freed = self.cache.close(answer.chain, keep=keep)
        answer.closed = True
        self.open.remove(answer)
        assert len(set(freed)) == len(freed)
        assert set(freed) <= held or not keep
        assert all(self.cache._state[block] != TAKEN for block in freed)

    # ------------------------------------------------------------------------------------- what always holds
    def places(self, block: int) -> range:
        return range(block * self.cache.size, (block + 1) * self.cache.size)

    def where(self, answer: Answer, place: int) -> int:
        return self.places(answer.chain.blocks[place // self.cache.size])[place % self.cache.size]

    def content(self, answer: Answer, place: int) -> Written:
        return answer.adapter, tuple(answer.ids[: place + 1])

    def tree(self) -> list[Node]:
        found = list(self.cache._roots.values())
        for node in found:
            found.extend(node.children.values())
        return found[len(self.cache._roots) :]

    @invariant()
    def what_was_computed_is_still_there(self) -> None:
        for answer in self.open:
            for place in range(answer.filled):
                assert self.written[self.where(answer, place)] == self.content(answer, place)

    @invariant()
    def every_block_is_free_or_kept_or_used(self) -> None:
        cache = self.cache
        assert cache.free + cache.kept + cache.used == cache.blocks
        assert min(cache.free, cache.kept, cache.used) >= 0
        held = {block for answer in self.open for block in answer.chain.blocks}
        assert cache.used == len(held)
        idle = [node.block for node in self.tree() if node.users == 0]
        assert len(idle) == cache.kept
        assert not held & set(idle)
        taken = set(np.flatnonzero(cache._state == TAKEN).tolist())
        assert taken == held | set(idle)

    @invariant()
    def a_block_of_several_chains_is_one_node_that_counts_them(self) -> None:
        owners = Counter(block for answer in self.open for block in answer.chain.blocks)
        known = Counter(node for answer in self.open for node in answer.chain.nodes)
        nodes = self.tree()
        assert len({node.block for node in nodes}) == len(nodes)
        for node in nodes:
            assert node.users == known[node] == owners.get(node.block, 0)
        shared = {node.block for node in nodes}
        assert all(count == 1 for block, count in owners.items() if block not in shared)
        for answer in self.open:
            assert [node.block for node in answer.chain.nodes] == answer.chain.blocks[: len(answer.chain.nodes)]

    @invariant()
    def two_chains_have_the_same_next_block_where_they_would_compute_the_same(self) -> None:
        size, names, blocks = self.cache.size, set(), set()
        for answer in self.open:
            name = self.cache.next_block(answer.chain, answer.ids, answer.filled)
            if name is not None:
                block = (answer.adapter, tuple(answer.ids[: (len(answer.chain.nodes) + 1) * size]))
                assert (name in names) == (block in blocks)
                names.add(name)
                blocks.add(block)

    def teardown(self) -> None:
        for answer in list(self.open):
            self.leave(answer, keep=True)
        assert self.cache.used == 0
        assert self.share or self.cache.kept == 0
        everything = self.cache.open()
        assert self.cache.grow(everything, self.cache.blocks * self.cache.size)  # whatever is kept gives way
        assert (self.cache.free, self.cache.kept, self.tree()) == (0, 0, [])
        assert sorted(everything.blocks) == list(range(self.cache.blocks))


TestBooks = pytest.mark.filterwarnings("error")(Books.TestCase)
TestBooks.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


# ------------------------------------------------------------------------------------------- what is kept, and for whom
def written(cache: Cache, ids: list[int], adapter: int = 0) -> Chain:
    """A chain with all of these tokens computed."""
    chain = cache.open(adapter)
    cache.match(chain, ids)
    assert cache.grow(chain, len(ids))
    cache.fill(chain, ids, len(ids))
    return chain


def found(cache: Cache, ids: list[int], adapter: int = 0) -> int:
    chain = cache.open(adapter)
    tokens = cache.match(chain, ids)
    cache.close(chain)
    return tokens


def test_the_next_turn_of_a_conversation_finds_all_full_blocks_of_the_last() -> None:
    cache = Cache(20, 4)
    cache.close(written(cache, list(range(30))))
    assert cache.kept == 7
    assert found(cache, list(range(40))) == 28
    assert found(cache, list(range(28))) == 24  # its last token is to be computed
    assert found(cache, [*range(10), 99, *range(11, 30)]) == 8


def test_adapters_do_not_find_each_others_blocks() -> None:
    cache = Cache(20, 4)
    cache.close(written(cache, list(range(20)), adapter=1))
    assert found(cache, list(range(20)), adapter=0) == 0
    assert found(cache, list(range(20)), adapter=1) == 16


def test_a_chain_that_is_not_to_be_kept_leaves_nothing_but_what_others_hold() -> None:
    cache = Cache(20, 4)
    other = written(cache, list(range(8)))
    chain = written(cache, [*range(8), 50, 51, 52, 53, 54])
    assert chain.blocks[:2] == other.blocks
    assert sorted(cache.close(chain, keep=False)) == sorted({2, 3})
    assert (cache.used, cache.kept) == (2, 0)
    assert found(cache, [*range(8), 50, 51, 52, 53, 54]) == 8


def test_nobody_finds_what_follows_on_a_chain_that_is_not_to_be_kept() -> None:
    cache = Cache(20, 4)
    bad, more = written(cache, list(range(8))), written(cache, list(range(12)))
    cache.close(more)
    assert sorted(cache.close(bad, keep=False)) == [0, 1, 2]
    assert (cache.used, cache.kept) == (0, 0)
    assert found(cache, list(range(20))) == 0


def test_what_was_used_longest_ago_is_forgotten_first_and_the_ends_of_prompts_before_their_beginnings() -> None:
    cache = Cache(12, 1)
    first, second, third = ([number, *range(50, 53)] for number in (1, 2, 3))
    for ids in (first, second, third):
        cache.close(written(cache, ids))
    assert found(cache, [*first, 0]) == 4  # used again
    cache.close(written(cache, [9, 9]))
    left = {ids[0]: found(cache, [*ids, 0]) for ids in (first, second, third)}
    assert left[1] == 4
    assert left[2] < 4
    assert left[2] <= left[3]


def test_what_is_noted_for_forgetting_does_not_pile_up_where_nothing_is_ever_forgotten() -> None:
    cache = Cache(20, 4)
    for _ in range(1000):
        cache.close(written(cache, list(range(10))))
    assert len(cache._idle) <= 5 * cache.blocks
    everything = cache.open()
    assert cache.grow(everything, 80)


def test_forgetting_leaves_what_is_used_and_frees_everything_else() -> None:
    cache = Cache(20, 4)
    chain = written(cache, list(range(8)))
    cache.close(written(cache, [*range(8), 50, 51, 52, 53, 54]))
    cache.close(written(cache, [7] * 12))
    assert sorted([*cache.forget(), *chain.blocks]) == list(range(20))
    assert (cache.used, cache.kept) == (2, 0)
    assert found(cache, list(range(9))) == 8


def test_answers_that_grow_side_by_side_keep_their_blocks_together() -> None:
    cache = Cache(200, 16)
    chains = [cache.open() for _ in range(4)]
    for length in range(1, 400):
        for chain in chains:
            assert cache.grow(chain, length, 500)
    for chain in chains:
        gaps = sum(after != before + 1 for before, after in zip(chain.blocks, chain.blocks[1:]))
        assert gaps <= 1
