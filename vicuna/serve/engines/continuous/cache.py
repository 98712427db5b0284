"""Which blocks of the cache belong to whom: a paged cache's books, without the keys and values themselves.

The cache is cut into blocks of as many tokens each. An answer's tokens lie in a `Chain` of blocks. Full blocks are
nodes of a tree whose paths are token ids, so answers that begin alike hold the same blocks (counted references), and a
block that nobody holds any more stays for the next prompt that begins like it until its room is needed: the least
recently used leaf goes first. The block at a chain's end that is not full belongs to that chain alone.

Blocks of one chain are laid side by side where possible: attention on a CPU reads a stretch of them as one piece.
"""

import heapq
from collections.abc import Sequence

import numpy as np

FREE, CLAIMED, TAKEN = range(3)
BLOCK = 16
"""Tokens of a block, where a GPU's kernel wants nothing else."""
AHEAD = 256
"""Tokens for which room is claimed behind a growing chain, so that others begin elsewhere."""


def _is_idle(entry: "tuple[int, int, Node]") -> bool:
    """Whether the entry's node was not used since it was made."""
    used_at, _, node = entry
    return node.parent is not None and not node.users and not node.children and node.used_at == used_at


def _even(blocks: int) -> int:
    """The next power of two: answers of about one length then lie at even distances, which attention makes use of."""
    return 1 << (blocks - 1).bit_length()


class Node:
    """A full block: the tokens in it, and what came before and after them."""

    __slots__ = ("block", "children", "parent", "tokens", "used_at", "users")

    def __init__(self, parent: "Node | None", tokens: tuple[int, ...], block: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.block = block
        self.children: dict[tuple[int, ...], Node] = {}
        self.users = 0
        self.used_at = 0


class Chain:
    """The blocks of one answer or text, in order."""

    __slots__ = ("blocks", "claim", "nodes", "root", "shares")

    def __init__(self, root: Node, shares: bool) -> None:
        self.root = root
        self.shares = shares
        """Whether its full blocks are for others too."""
        self.blocks: list[int] = []
        self.nodes: list[Node] = []
        """Those of its first blocks, all that are full and known to the tree."""
        self.claim = range(0)
        """Blocks that are kept free for it."""


class Cache:
    """Hands out blocks. Not thread-safe."""

    def __init__(self, blocks: int, size: int, *, share: bool = True) -> None:
        """
        Args:
            blocks: how many there are.
            size: tokens of each.
            share: keep full blocks and share them.
        """
        self.blocks = blocks
        self.size = size
        self._share = share
        self._state = np.zeros(blocks, np.int8)
        self._roots: dict[int, Node] = {}
        self._idle: list[tuple[int, int, Node]] = []  # a heap; entries whose node was used since are out of date
        self._clock = 0
        self.free = blocks
        """Blocks that hold nothing."""
        self.kept = 0
        """Blocks that nobody uses now and that are kept for later."""

    @property
    def used(self) -> int:
        """Blocks that chains hold."""
        return self.blocks - self.free - self.kept

    # ------------------------------------------------------------------------------------- a chain's life
    def open(self, adapter: int = 0, *, share: bool = True) -> Chain:
        """An empty chain; keys and values depend on the adapter, so each has a tree of its own."""
        root = self._roots.setdefault(adapter, Node(None, (), -1))
        return Chain(root, share and self._share)

    def match(self, chain: Chain, ids: Sequence[int]) -> int:
        """Take over blocks that hold what comes next in `ids`; the last token is never matched, as its logits are
        needed. Returns the tokens that the chain's known blocks hold then. Its last block must be full."""
        node = chain.nodes[-1] if chain.nodes else chain.root
        if not chain.shares or len(chain.blocks) > len(chain.nodes):
            return len(chain.nodes) * self.size
        for start in range(len(chain.nodes) * self.size, len(ids) - self.size, self.size):
            found = node.children.get(tuple(ids[start : start + self.size]))
            if found is None:
                break
            self._hold(found)
            chain.nodes.append(found)
            chain.blocks.append(found.block)
            node = found
        return len(chain.nodes) * self.size

    def adopt(self, chain: Chain, ids: Sequence[int], filled: int) -> int:
        """As `match` for a chain that has blocks already which nothing was written to: those are given back.

        Args:
            chain: its first `filled` tokens are computed.
            ids: its tokens.
            filled: how many are.

        Returns:
            How many of its tokens are computed now.
        """
        done = filled // self.size
        if not chain.shares or done != len(chain.nodes):
            return filled
        node = chain.nodes[-1] if chain.nodes else chain.root
        for place in range(done, (len(ids) - 1) // self.size):
            found = node.children.get(tuple(ids[place * self.size : (place + 1) * self.size]))
            if found is None:
                break
            self._hold(found)
            self._give_back(chain.blocks[place])
            chain.nodes.append(found)
            chain.blocks[place] = found.block
            node = found
        return max(filled, len(chain.nodes) * self.size)

    def grow(self, chain: Chain, tokens: int, hoped: int = 0) -> bool:
        """Make sure that the chain has room for so many tokens; False, and nothing changed, where it cannot have it.

        Args:
            chain: what grows.
            tokens: tokens that it must hold.
            hoped: tokens that it may come to hold.
        """
        missing = -(-tokens // self.size) - len(chain.blocks)
        if missing <= 0:
            return True
        if missing > self.free + self.kept:
            return False
        ahead = -(-min(max(hoped - tokens, 0), AHEAD) // self.size)
        for _ in range(missing):
            if not len(chain.claim):
                self._claim(chain, _even(missing + ahead))
            chain.blocks.append(self._take(chain))
            missing -= 1
        return True

    def fill(self, chain: Chain, ids: Sequence[int], filled: int) -> None:
        """The chain's first `filled` tokens are computed: let others find its full blocks."""
        if not chain.shares:
            return
        for place in range(len(chain.nodes), filled // self.size):
            tokens = tuple(ids[place * self.size : (place + 1) * self.size])
            parent = chain.nodes[-1] if chain.nodes else chain.root
            node = parent.children.get(tokens)
            if node is None:
                node = parent.children[tokens] = Node(parent, tokens, chain.blocks[place])
                node.users = 1
            else:  # another answer has computed the same meanwhile: one copy is enough
                self._hold(node)
                self._give_back(chain.blocks[place])
                chain.blocks[place] = node.block
            chain.nodes.append(node)

    def next_block(self, chain: Chain, ids: Sequence[int], filled: int) -> object:
        """What names the block that the chain's next token is in, the same for all that would compute the same; None
        where others could not share it."""
        start = len(chain.nodes) * self.size
        if not chain.shares or filled // self.size != len(chain.nodes) or len(ids) - start <= self.size:
            return None
        node = chain.nodes[-1] if chain.nodes else chain.root
        return id(node), tuple(ids[start : start + self.size])

    def close(self, chain: Chain, *, keep: bool = True) -> list[int]:
        """The chain ends; its known blocks are kept, the others are free. Returns what is free now.

        Args:
            chain: what ends.
            keep: False also frees its known blocks that no other chain holds, and what is kept behind them.
        """
        self._unclaim(chain)
        freed = chain.blocks[len(chain.nodes) :]
        for block in freed:
            self._give_back(block)
        self._clock += 1
        for node in reversed(chain.nodes):
            node.users -= 1
            node.used_at = self._clock
            if node.users == 0:
                self.kept += 1
                if keep:
                    self._offer(node)
                else:
                    freed += self._forget_from(node)
        chain.blocks, chain.nodes = [], []
        return freed

    # ------------------------------------------------------------------------------------- blocks
    def _hold(self, node: Node) -> None:
        if node.users == 0:
            self.kept -= 1
        node.users += 1

    def _give_back(self, block: int) -> None:
        self._state[block] = FREE
        self.free += 1

    def _take(self, chain: Chain) -> int:
        """A block: the next one that is claimed for the chain, or any other."""
        if len(chain.claim):
            block, chain.claim = chain.claim[0], chain.claim[1:]
            if self._state[block] == CLAIMED:
                return self._taken(block)
            chain.claim = range(0)  # others needed it
        for state in (FREE, CLAIMED):
            found = np.flatnonzero(self._state == state)
            if len(found):
                return self._taken(int(found[0 if state == FREE else -1]))
        self._evict(1)
        return self._take(chain)

    def _taken(self, block: int) -> int:
        self._state[block] = TAKEN
        self.free -= 1
        return block

    # ------------------------------------------------------------------------------------- side by side
    def _claim(self, chain: Chain, wanted: int) -> None:
        """Keep the blocks behind the chain's end free for it, or others that lie side by side."""
        behind = chain.blocks[-1] + 1 if chain.blocks else 0
        stretch = self._free_from(behind, wanted) if chain.blocks else range(0)
        if not stretch:
            stretch = self._stretch(wanted)
            if len(stretch) < wanted and self.kept:
                self._evict(min(self.kept, 2 * wanted))
                stretch = self._stretch(wanted)
        chain.claim = stretch
        self._state[stretch.start : stretch.stop] = CLAIMED

    def _unclaim(self, chain: Chain) -> None:
        part = self._state[chain.claim.start : chain.claim.stop]
        part[part == CLAIMED] = FREE
        chain.claim = range(0)

    def _free_from(self, start: int, wanted: int) -> range:
        part = self._state[start : start + wanted]
        taken = np.flatnonzero(part != FREE)
        return range(start, start + (int(taken[0]) if len(taken) else len(part)))

    def _stretch(self, wanted: int) -> range:
        """The first stretch of free blocks that is long enough, or else the longest."""
        edges = np.flatnonzero(np.diff(np.concatenate(([1], self._state != FREE, [1]))))
        if not len(edges):
            return range(0)
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        enough = np.flatnonzero(lengths >= wanted)
        best = int(enough[0]) if len(enough) else int(lengths.argmax())
        start = int(starts[best])
        return range(start, start + min(int(lengths[best]), wanted))

    # ------------------------------------------------------------------------------------- forgetting
    def forget(self) -> list[int]:
        """Keep nothing any more; returns all blocks that are free then."""
        self._evict(self.kept)
        free: list[int] = np.flatnonzero(self._state != TAKEN).tolist()
        return free

    def _offer(self, node: Node) -> None:
        if node.children:
            return
        if len(self._idle) > 4 * self.blocks:  # at most one entry for each block is not out of date
            self._idle = [entry for entry in self._idle if _is_idle(entry)]
            heapq.heapify(self._idle)
        heapq.heappush(self._idle, (node.used_at, id(node), node))

    def _evict(self, count: int) -> None:
        """Free so many kept blocks, leaves that were used longest ago first."""
        while count and self._idle:
            entry = heapq.heappop(self._idle)
            node, parent = entry[-1], entry[-1].parent
            if parent is None or not _is_idle(entry):
                continue
            self._forget(node)
            count -= 1
            if parent.users == 0 and parent.parent is not None:
                self._offer(parent)

    def _forget_from(self, node: Node) -> list[int]:
        """A node that nobody uses goes with all that comes after it; returns their blocks."""
        nodes = [node]
        for each in nodes:
            nodes.extend(each.children.values())
        for each in reversed(nodes):
            self._forget(each)
        return [each.block for each in nodes]

    def _forget(self, node: Node) -> None:
        """A leaf that nobody uses goes."""
        if node.parent is not None:
            del node.parent.children[node.tokens]
        node.parent = None
        self._give_back(node.block)
        self.kept -= 1
