"""Who owns the requests' states: memory for the scheduler, states for the runner, and the cache.

One mechanism serves the prefix cache, the disk, preemption and restarts: a request's complete
blocks, shared by reference, and *resume points*, snapshots taken where a block ends. A request that
finds its beginning goes on behind the last resume point; blocks known beyond that are read, not
written, while the tokens between are computed once more; and where that is cheaper, only the
windows are replayed. Whatever is found, the bits are those of a cold start.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dougong.engine.disk_store import DiskStore, Kind
from dougong.engine.prefix_cache import Match, Node, PrefixCache
from dougong.engine.request import Request
from dougong.engine.scheduler import BLOCK_TOKENS
from dougong.engine.store_writer import StoreWriter
from dougong.engine.windows import Windows
from dougong.kernels.paged import BlockPool
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer


@dataclass
class _Held:
    """One running request: its state, the cache nodes it stands on, and its resume points."""

    state: RequestState
    nodes: list[Node]
    wanted: set[int]  # numbers of blocks behind which a resume point is to be kept
    resumes: dict[int, torch.Tensor] = field(default_factory=dict)
    latest: int = 0  # the last block boundary with a resume point taken while writing


class States:
    """States of the running requests and the prefix cache, in one pool of `total` blocks.

    Args:
        resume_bytes: budget for the resume points that the cache keeps in memory.
        windows: behind which blocks resume points are kept, and what is done without one.
        store: where blocks and resume points are also kept on disk.
        poison: fills free blocks with NaN (for tests).
    """

    def __init__(
        self,
        model: Transformer,
        total: int,
        *,
        resume_bytes: int = 256 * 2**20,
        windows: Windows | None = None,
        store: DiskStore | None = None,
        poison: bool = False,
    ) -> None:
        self.model, self.total, self.store = model, total, store
        self.windows = windows or Windows()
        self.pool = BlockPool(model.layout.block_bytes, total, poison=poison)
        self.cache = PrefixCache(
            resume_bytes, lambda block: self.pool.drop([block]), lambda resume: None
        )
        self._held: dict[int, _Held] = {}
        self._writer = None if store is None else StoreWriter(store)

    # -- what the scheduler asks ---------------------------------------------------------------

    def available(self) -> int:
        """Blocks that are free, or that only the cache keeps."""
        free = self.pool.num_free
        assert free is not None
        return free + self.cache.evictable()

    def attach(self, request: Request) -> int:
        """A state that begins with what the cache has of the request; returns its tokens."""
        state = self.model.new_state(self.pool)
        held = _Held(state, [], set())
        self._held[request.id] = held
        if request.job.prompt_logprobs is None:  # whose every token has to be computed
            self._find(request, held)
        ends = self.windows.wanted(request.prompt_tokens)
        held.wanted |= {end for end in ends if end * BLOCK_TOKENS > state.length}
        return state.length

    def reserve(self, request: Request, blocks: int) -> None:
        """Takes the blocks at once, so that a promise cannot be broken later."""
        free = self.pool.num_free
        assert free is not None
        if blocks > free:
            self.cache.evict(blocks - free)
        self._held[request.id].state.memory.table.extend(blocks)

    def release(self, request: Request) -> None:
        """Leaves what is complete to the cache, the rest to the pool."""
        held = self._held.pop(request.id)
        self._keep(request, held)
        self.cache.let_go(held.nodes)
        held.state.release()

    # -- what the core asks --------------------------------------------------------------------

    def of(self, request: Request) -> RequestState:
        """The state of a running request."""
        return self._held[request.id].state

    def next_cut(self, request: Request, high: int) -> int:
        """Where a chunk that would end at `high` should end: at the next wanted resume point."""
        ends = [end * BLOCK_TOKENS for end in self._held[request.id].wanted]
        return min((end for end in ends if request.computed < end < high), default=high)

    def reached(self, request: Request) -> None:
        """Told after `request.computed` has grown: takes resume points, shares a whole prompt."""
        held = self._held[request.id]
        end, rest = divmod(request.computed, BLOCK_TOKENS)
        writing = bool(request.written) and self.windows.keeps
        if rest == 0 and (end in held.wanted or writing):
            if end not in held.wanted:  # while writing, only the latest is worth its memory
                held.resumes.pop(held.latest, None)
                held.latest = end
            held.resumes[end] = held.state.snapshot(rollback=0).recent
        if request.computed == request.prompt_tokens:
            self._keep(request, held)  # others that begin alike need not wait for the answer

    def close(self) -> None:
        """Finishes writing to disk."""
        if self._writer is not None:
            self._writer.close()

    # -- the cache -----------------------------------------------------------------------------

    def _find(self, request: Request, held: _Held) -> None:
        """Puts the state as far into the request as cache and disk know it."""
        tenant, most = request.job.tenant, len(request.ids) - 1  # one token is left to compute
        match = self.cache.match(tenant, request.ids, most)
        if self.store is not None:
            match = self._load(self.store, request, match, most)
        if not match.nodes:
            return
        self.cache.hold(match.nodes)
        held.nodes = match.nodes
        blocks = [node.block for node in match.nodes]
        config = self.model.config
        replayed = self.windows.replayed(config.num_hidden_layers, config.sliding_window)
        start = max(match.tokens - replayed, 0)
        if match.resumable_tokens > start:
            recent = match.nodes[match.resumable - 1].resume
            assert isinstance(recent, torch.Tensor)
            held.state.resume(blocks, recent, match.tokens)
        else:
            held.state.replay(blocks, start)
        if match.resumable < len(match.nodes) and self.windows.keeps:
            held.wanted.add(len(match.nodes))  # where this request leaves what is known

    def _keep(self, request: Request, held: _Held) -> None:
        """Adds the complete blocks to the cache, which may know some of them already."""
        tenant, table = request.job.tenant, held.state.memory.table
        count = request.computed // BLOCK_TOKENS
        if count == 0 or not self.model.layout.block_bytes:
            return
        ids, blocks = request.ids[: count * BLOCK_TOKENS], table.blocks[:count]
        resumes = {end: (recent, recent.numel()) for end, recent in held.resumes.items()}
        self._save(tenant, ids, blocks, held.resumes)
        held.resumes = {}
        self.pool.hold(blocks)
        taken = set(self.cache.insert(tenant, ids, blocks, resumes))
        self.pool.drop(block for block in blocks if block not in taken)
        nodes = self.cache.match(tenant, ids).nodes
        for i, node in enumerate(nodes):
            table.replace(i, node.block)  # the same bytes: once is enough
        self.cache.hold(nodes)
        self.cache.let_go(held.nodes)
        held.nodes = nodes

    # -- the disk ------------------------------------------------------------------------------

    def _load(self, store: DiskStore, request: Request, match: Match, most: int) -> Match:
        """Brings what the disk knows beyond `match` into the cache; the longer match."""
        tenant, ids = request.job.tenant, request.ids[:most]
        places = store.places(tenant, ids)
        count, ends = store.find(places)
        known, end = len(match.nodes), max(ends, default=0)
        if count <= known and end <= match.resumable:
            return match
        self.cache.hold(match.nodes)  # making room must not take what is to be continued
        blocks = [node.block for node in match.nodes]
        for place in places[known:count]:
            data = store.read(Kind.BLOCK, place, self.pool.block_bytes)
            if data is None or len(data) != self.pool.block_bytes or not self._room():
                break
            blocks += self.pool.allocate()
            self.pool.bytes(blocks[-1])[:] = _tensor(data)
        resumes = {}
        if match.resumable < end <= len(blocks):
            data = store.read(Kind.RESUME, places[end - 1], self.model.layout.recent_bytes)
            if data is not None:
                resumes[end] = (_tensor(data), len(data))
        self.cache.insert(tenant, ids, blocks, resumes)
        self.cache.let_go(match.nodes)
        return self.cache.match(tenant, request.ids, most)

    def _room(self) -> bool:
        """Whether a block can be allocated, at the cache's expense if need be."""
        return bool(self.pool.num_free) or self.cache.evict(1) > 0

    def _save(
        self, tenant: str, ids: list[int], blocks: list[int], resumes: dict[int, torch.Tensor]
    ) -> None:
        """Hands blocks and resume points to the writer, which leaves out what the disk has."""
        if self.store is None or self._writer is None:
            return
        for place, block in zip(self.store.places(tenant, ids), blocks, strict=True):
            if not self._writer.has(Kind.BLOCK, place):
                self._writer.put(Kind.BLOCK, place, self.pool.bytes(block).numpy().tobytes())
            recent = resumes.get(place.index + 1)
            if recent is not None and not self._writer.has(Kind.RESUME, place):
                self._writer.put(Kind.RESUME, place, recent.numpy().tobytes())


def _tensor(data: bytes) -> torch.Tensor:
    """Bytes as uint8, writable."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
