"""What finished prompts and answers left behind, found again by the next request that begins alike.

A radix tree over blocks of 128 tokens, one tree a tenant. A node is one complete block: the
tokens, the memory block that holds their compressed entries, and at some nodes a *resume point*:
what else a request needs to go on right behind the block (windows and compressor tails), which is
big and therefore kept only where a continuation is likely. Who finds blocks beyond the last resume
point can have the windows replayed instead; the caller decides.

No torch: blocks and resume points are handles that the owner gives and takes back.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from dougong.engine.scheduler import BLOCK_TOKENS


@dataclass(eq=False)
class Node:
    """One block of a prefix, or what begins a tenant's tree.

    `users`: requests that stand on it; such a node is never evicted.  `offered`: it waits among the
    leaves that may be.
    """

    key: tuple[int, ...]
    parent: Node | None
    block: int = -1
    tenant: str = ""  # of a root
    resume: object | None = None
    resume_bytes: int = 0
    users: int = 0
    used_at: int = 0
    offered: bool = False
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)


_NOTHING = Node((), None)  # the root of a tenant that is not known


@dataclass(frozen=True)
class Match:
    """The longest known prefix of some ids: its nodes, and how many lead to a resume point."""

    nodes: list[Node]
    resumable: int

    @property
    def tokens(self) -> int:
        """Tokens whose compressed entries are known."""
        return len(self.nodes) * BLOCK_TOKENS

    @property
    def resumable_tokens(self) -> int:
        """Tokens after which a request can go on without computing any of them."""
        return self.resumable * BLOCK_TOKENS


class PrefixCache:
    """Blocks and resume points by the tokens they stand for; the latter under a budget of bytes.

    The tree owns one reference to every block and resume point in it, and gives it back through
    `drop_block` and `drop_resume`. Blocks are limited by whoever needs memory and calls `evict`.
    """

    def __init__(
        self,
        resume_budget: int,
        drop_block: Callable[[int], None],
        drop_resume: Callable[[object], None],
    ) -> None:
        self.resume_budget, self.resume_bytes, self.num_blocks = resume_budget, 0, 0
        self.evicted = 0  # blocks, since the start
        self._drop_block, self._drop_resume = drop_block, drop_resume
        self._roots: dict[str, Node] = {}
        self._resumes: OrderedDict[Node, None] = OrderedDict()  # who has one, last used last
        self._clock, self._in_use = 0, 0
        # (last use, tie, leaf), each once: may be out of date, which whoever takes it out sees
        self._leaves: list[tuple[int, int, Node]] = []
        self._ties = count()

    def match(self, tenant: str, ids: Sequence[int], most: int | None = None) -> Match:
        """The longest cached prefix of `ids`, at most `most` tokens of it; counts as a use."""
        node, nodes, resumable = self._roots.get(tenant, _NOTHING), [], 0
        for key in _keys(ids if most is None else ids[:most]):
            if (child := node.children.get(key)) is None:
                break
            node = child
            nodes.append(node)
            if node.resume is not None:
                resumable = len(nodes)
        self._touch(nodes)
        return Match(nodes, resumable)

    def hold(self, nodes: Sequence[Node]) -> None:
        """Keeps the nodes from eviction until as many calls of `let_go`."""
        for node in nodes:
            self._in_use += node.users == 0
            node.users += 1

    def let_go(self, nodes: Sequence[Node]) -> None:
        """Ends one `hold`."""
        for node in nodes:
            assert node.users > 0, "a block was let go more often than held"
            node.users -= 1
            if node.users == 0:
                self._in_use -= 1
                self._offer(node)

    def insert(
        self,
        tenant: str,
        ids: Sequence[int],
        blocks: Sequence[int],
        resumes: Mapping[int, tuple[object, int]],
        known: Sequence[Node] = (),
    ) -> list[Node]:
        """Adds the complete blocks of `ids`, and returns the nodes that now stand for them.

        The tree takes over the caller's reference to those of `blocks` that the new nodes name.
        Args: blocks: a handle for each complete block.  resumes: number of blocks -> (resume point
        behind them, its bytes); ownership passes to the tree, which drops what it has already.
        known: nodes of the first blocks, held by the caller; these are not looked for again.
        """
        nodes = list(known)
        node = nodes[-1] if nodes else self._roots.setdefault(tenant, Node((), None, tenant=tenant))
        keys = _keys(ids, len(nodes))
        for key, block in zip(keys, blocks[len(nodes) :], strict=False):
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = Node(key, node, block)
                self.num_blocks += 1
            node = child
            nodes.append(node)
        for depth, (resume, num_bytes) in resumes.items():
            if 1 <= depth <= len(nodes) and nodes[depth - 1].resume is None:
                self._keep_resume(nodes[depth - 1], resume, num_bytes)
            else:
                self._drop_resume(resume)
        self._touch(nodes)
        self._offer(node)
        self.shed_resumes(self.resume_budget)
        return nodes

    def evictable(self) -> int:
        """Blocks that could be freed now: who stands on a block stands on all before it."""
        return self.num_blocks - self._in_use

    def evict(self, blocks: int) -> int:
        """Frees up to so many blocks, least recently used leaves first; returns how many."""
        freed = 0
        while freed < blocks and self._leaves:
            used_at, _, leaf = heapq.heappop(self._leaves)
            leaf.offered = False
            if used_at != leaf.used_at:
                self._offer(leaf)  # used since
            elif self._is_free(leaf):
                self._remove(leaf)
                freed += 1
        self.evicted += freed
        return freed

    def shed_resumes(self, budget: int) -> None:
        """Forgets the least recently used resume points until the rest take that many bytes."""
        while self.resume_bytes > budget:
            self._forget_resume(next(iter(self._resumes)))

    def clear(self) -> None:
        """Drops everything that nobody uses."""
        self.evict(self.num_blocks)

    # -- inside --------------------------------------------------------------------------------

    def _touch(self, nodes: Sequence[Node]) -> None:
        self._clock += 1
        for node in nodes:
            node.used_at = self._clock
            if node.resume is not None:  # the end of a prompt is worth more than its middle
                self._resumes.move_to_end(node)

    def _is_free(self, node: Node) -> bool:
        alive = node.parent is not None and node.parent.children.get(node.key) is node
        return alive and not node.children and node.users == 0

    def _offer(self, node: Node) -> None:
        """Notes a leaf that may be evicted."""
        if self._is_free(node) and not node.offered:
            node.offered = True
            heapq.heappush(self._leaves, (node.used_at, next(self._ties), node))

    def _remove(self, leaf: Node) -> None:
        parent = leaf.parent
        assert parent is not None
        self._forget_resume(leaf)
        self._drop_block(leaf.block)
        del parent.children[leaf.key]
        self.num_blocks -= 1
        if parent.parent is None and not parent.children:
            del self._roots[parent.tenant]  # callers come and go, and so must their names
        self._offer(parent)

    def _keep_resume(self, node: Node, resume: object, num_bytes: int) -> None:
        node.resume, node.resume_bytes = resume, num_bytes
        self.resume_bytes += num_bytes
        self._resumes[node] = None

    def _forget_resume(self, node: Node) -> None:
        if node.resume is not None:
            self._drop_resume(node.resume)
            self.resume_bytes -= node.resume_bytes
            node.resume, node.resume_bytes = None, 0
            del self._resumes[node]


def _keys(ids: Sequence[int], first: int = 0) -> Iterator[tuple[int, ...]]:
    """The complete blocks of `ids` from number `first` on."""
    for low in range(first * BLOCK_TOKENS, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        yield tuple(ids[low : low + BLOCK_TOKENS])
