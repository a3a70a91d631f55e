"""Who owns the requests' states: memory for the scheduler, states for the runner, and the cache.

One mechanism serves the prefix cache, the disk, preemption and restarts: a request's complete
blocks, shared by reference, and *resume points*, snapshots taken where a block ends. A request that
finds its beginning goes on behind the last resume point; blocks known beyond that are read, not
written, while the tokens between are computed once more; and where that is cheaper, only the
windows are replayed. Whatever is found, the bits are those of a cold start.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dougong.engine.disk_store import DiskStore, Kind, Place
from dougong.engine.fingerprint import fingerprint
from dougong.engine.prefix_cache import Match, Node, PrefixCache
from dougong.engine.request import Phase, Request
from dougong.engine.scheduler import BLOCK_TOKENS
from dougong.engine.scratch import scratch_file
from dougong.engine.settings import StateSettings
from dougong.engine.store_writer import StoreWriter
from dougong.engine.windows import Windows
from dougong.errors import InputError
from dougong.kernels.paged import BlockPool
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer

Resume = tuple[torch.Tensor, int]  # the recent bytes of a snapshot, and how many


@dataclass
class _Held:
    """One running request: its state, the cache nodes it stands on, and its resume points."""

    state: RequestState
    nodes: list[Node] = field(default_factory=list)
    wanted: set[int] = field(default_factory=set)  # resume points to keep, in blocks
    resumes: dict[int, torch.Tensor] = field(default_factory=dict)  # taken and not yet kept
    exact: int = 0  # tokens behind which the windows are those of a cold start
    places: list[Place] = field(default_factory=list)  # on disk, of the blocks handed over so far


class States:
    """States of the running requests and the prefix cache, in one pool of `total` blocks.

    Args:
        resume_bytes: budget for the resume points that the cache keeps in memory.
        windows: behind which blocks resume points are kept, and what is done without one.
        store: where blocks and resume points are also kept on disk.
        file: maps the pool to this file, so that the system may write blocks out.
        poison: fills free blocks and fresh rings with NaN (for tests).
    """

    def __init__(
        self,
        model: Transformer,
        total: int,
        *,
        resume_bytes: int = 256 * 2**20,
        windows: Windows | None = None,
        store: DiskStore | None = None,
        file: Path | None = None,
        poison: bool = False,
    ) -> None:
        self.model, self.total, self.store = model, total, store
        self.windows = windows or Windows()
        self.pool = BlockPool(model.layout.block_bytes, total, file=file, poison=poison)
        self.cache = PrefixCache(
            resume_bytes, lambda block: self.pool.drop([block]), lambda resume: None
        )
        self.counts: Counter[str] = Counter()  # requests that went on from memory, disk, a replay
        self._held: dict[int, _Held] = {}
        self._writer = None if store is None else StoreWriter(store)

    @classmethod
    def open(cls, model: Transformer, tokens: int, settings: StateSettings) -> States:
        """States of `tokens` tokens where `settings` says, mapped if they are larger than allowed.

        Raises InputError if a folder or the scratch file cannot be had.
        """
        total, store = max(tokens // BLOCK_TOKENS, 1), None
        if settings.folder is not None:
            model_print = fingerprint(model, approximate=not settings.windows.exact)
            store = DiskStore(settings.folder, model_print, settings.folder_bytes)
        num_bytes, limit = total * model.layout.block_bytes, settings.memory_bytes
        with scratch_file(settings.scratch, num_bytes, limit) as file:
            return cls(
                model,
                total,
                resume_bytes=settings.resume_bytes,
                windows=settings.windows,
                store=store,
                file=file,
            )

    # -- what the scheduler asks ---------------------------------------------------------------

    def available(self) -> int:
        """Blocks that are free, or that only the cache keeps."""
        return self._num_free + self.cache.evictable()

    def attach(self, request: Request) -> tuple[int, int]:
        """A state that begins with what the cache has of the request: its tokens, its blocks."""
        state = self.model.new_state(self.pool)
        held = self._held[request.id] = _Held(state)
        if request.job.prompt_logprobs is None:  # whose every token has to be computed
            self._find(request, held)
        ends, first = self.windows.wanted(len(request.ids)), max(state.length + 1, held.exact)
        held.wanted |= {end for end in ends if end * BLOCK_TOKENS >= first}
        return state.length, len(state.memory.table.blocks)

    def reserve(self, request: Request, blocks: int) -> None:
        """Takes the blocks at once, so that a promise cannot be broken later."""
        self.make_room(blocks)
        self._held[request.id].state.memory.table.extend(blocks)

    def make_room(self, blocks: int) -> None:
        """Sees to it that so many are free, at the cache's expense if need be."""
        self.cache.evict(max(blocks - self._num_free, 0))

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
        low, held = request.computed, self._held[request.id]
        if high == low + 1:
            return high
        ends = {end * BLOCK_TOKENS for end in held.wanted}
        if request.phase is Phase.DECODE and self.windows.keeps:
            ends.add((low // BLOCK_TOKENS + 1) * BLOCK_TOKENS)
        return min((end for end in ends if low < end < high), default=high)

    def reached(self, request: Request) -> None:
        """Told after `request.computed` has grown: takes a resume point, shares what is whole."""
        held = self._held[request.id]
        end, rest = divmod(request.computed, BLOCK_TOKENS)
        writing = request.phase is Phase.DECODE and self.windows.keeps
        if rest == 0 and (end in held.wanted or writing):
            if end not in held.wanted:  # while writing, only the latest is worth its memory
                held.resumes.clear()
            snapshot = held.state.snapshot(rollback=0)
            held.resumes[end] = snapshot.recent
            snapshot.release()
        if end in held.wanted or request.computed == request.prompt_tokens:
            self._keep(request, held)  # others that begin alike need not wait for the answer

    def figures(self) -> dict[str, Any]:
        """How often the caches served, and bytes by kind; `disk` is null without a store."""
        size, cached = self.pool.block_bytes, self.cache.evictable()
        kinds = {
            "blocks": (self.pool.num_used - cached) * size,  # of requests that are running
            "cached_blocks": cached * size,
            "rings": len(self._held) * self.model.layout.ring_bytes,
            "resume_points": self.cache.resume_bytes,
            "disk": None if self.store is None else self.store.num_bytes,
        }
        served = {name: self.counts[name] for name in ("memory hits", "disk hits", "replays")}
        return {"cache": served | {"evicted blocks": self.cache.evicted}, "bytes": kinds}

    def flush(self) -> None:
        """Waits until what was handed to the disk is there."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Finishes writing to disk and closes the store."""
        if self._writer is not None and self.store is not None:
            self._writer.close()
            self.store.close()

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
            self.counts["memory hits"] += 1
        else:
            held.state.replay(blocks, start)
            held.exact = match.tokens if start > 0 else 0
            self.counts["replays"] += start > 0
        if match.resumable < len(match.nodes) and self.windows.keeps:
            held.wanted.add(len(match.nodes))  # where this request leaves what is known

    def _keep(self, request: Request, held: _Held) -> None:
        """Adds the complete blocks to the cache, which may know some of them already."""
        tenant, table = request.job.tenant, held.state.memory.table
        count, known = request.computed // BLOCK_TOKENS, len(held.nodes)
        if count <= known and not held.resumes:
            return
        ids, blocks = request.ids[: count * BLOCK_TOKENS], table.blocks[: max(count, known)]
        self._save(tenant, ids, blocks, held)
        resumes = {end: (recent, recent.numel()) for end, recent in held.resumes.items()}
        self.pool.hold(blocks[known:])
        nodes = self.cache.insert(tenant, ids, blocks, resumes, held.nodes)
        for i in range(known, len(nodes)):
            if nodes[i].block != blocks[i]:  # the same bytes: once is enough
                self.pool.drop([blocks[i]])
                table.replace(i, nodes[i].block)
        self.cache.hold(nodes)
        self.cache.let_go(held.nodes)
        held.nodes, held.resumes = nodes, {}

    @property
    def _num_free(self) -> int:
        free = self.pool.num_free
        assert free is not None  # the pool has a fixed size
        return free

    # -- the disk ------------------------------------------------------------------------------

    def _load(self, store: DiskStore, request: Request, match: Match, most: int) -> Match:
        """Brings what the disk knows beyond `match` into the cache; the longer match."""
        tenant, ids, state = request.job.tenant, request.ids[:most], self.of(request)
        places = store.places(tenant, ids)
        count, ends = store.find(places)
        if count <= len(match.nodes) and max(ends, default=0) <= match.resumable:
            return match
        self.cache.hold(match.nodes)  # making room must not take what is to be continued
        blocks = [node.block for node in match.nodes]
        for place in places[len(blocks) : count]:
            data = store.read(Kind.BLOCK, place, self.pool.block_bytes)
            if data is None or len(data) != self.pool.block_bytes or not self.available():
                break
            self.make_room(1)
            blocks += self.pool.allocate()
            self.pool.bytes(blocks[-1])[:] = _tensor(data)
        resumes: dict[int, Resume] = {}
        for end in sorted(ends, reverse=True):
            if not resumes and match.resumable < end <= len(blocks):
                resume = self._load_resume(store, places[end - 1], state)
                resumes |= {end: resume} if resume is not None else {}
        self.counts["disk hits"] += len(blocks) > len(match.nodes) or bool(resumes)
        self.cache.insert(tenant, ids, blocks, resumes, match.nodes)
        self.cache.let_go(match.nodes)
        return self.cache.match(tenant, request.ids, most)

    def _load_resume(self, store: DiskStore, place: Place, state: RequestState) -> Resume | None:
        """A resume point from disk, if it is one of this model behind this block."""
        data = store.read(Kind.RESUME, place, self.model.layout.recent_bytes)
        if data is None:
            return None
        recent = _tensor(data)
        try:
            fits = state.recent_length(recent) == (place.index + 1) * BLOCK_TOKENS
        except InputError:
            return None
        return (recent, recent.numel()) if fits else None

    def _save(self, tenant: str, ids: list[int], blocks: list[int], held: _Held) -> None:
        """Hands blocks and resume points to the writer, but for those that the disk has."""
        if self.store is None or self._writer is None:
            return
        first = len(held.places)
        held.places = self.store.places(tenant, ids, held.places)
        behind = [held.places[end - 1] for end in held.resumes]
        there = self.store.has(held.places[first:] + behind)
        for place in held.places[first:]:
            if (place.key, Kind.BLOCK) not in there:
                block = self.pool.bytes(blocks[place.index])
                self._writer.put(Kind.BLOCK, place, block.numpy().tobytes())
        for place, recent in zip(behind, held.resumes.values(), strict=True):
            if (place.key, Kind.RESUME) not in there:
                self._writer.put(Kind.RESUME, place, recent.numpy().tobytes())


def _tensor(data: bytes) -> torch.Tensor:
    """Bytes as uint8, writable."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
