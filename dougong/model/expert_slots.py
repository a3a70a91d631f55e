"""Memory for routed experts, filled from their files by threads, past the system's page cache.

A budget is only one if nothing else keeps the bytes as well: files are read with O_DIRECT, and
where a file system refuses that, their pages are given back after each read. The memory is asked
for in huge pages and is private, so that a forked child has its own.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint import Extent
from dougong.errors import CheckpointError

BLOCK = 4096  # what direct reads are aligned to: offset in the file, address and length
THREADS = 4  # four reads of some megabytes at a time keep an NVMe disk busy
_DIRECT = getattr(os, "O_DIRECT", 0)


@dataclass(frozen=True, slots=True)
class Run:
    """Whole blocks of a file, and where in a slot they go; the last `needed` bytes must be there.

    The file may end before the last block does.
    """

    path: Path
    begin: int
    length: int
    needed: int
    offset: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The reads that fill a slot of `nbytes`, and where in it each extent begins."""

    runs: tuple[Run, ...]
    offsets: tuple[int, ...]
    nbytes: int


def plan_reads(extents: Sequence[Extent]) -> Plan:
    """The fewest reads of whole blocks that hold `extents`: neighbours in a file are read at once.

    In a released checkpoint an expert's six tensors are neighbours.
    """
    runs: list[Run] = []
    offsets = [0] * len(extents)
    used = 0
    for i in sorted(range(len(extents)), key=lambda i: (str(extents[i].path), extents[i].begin)):
        extent = extents[i]
        begin, end = extent.begin // BLOCK * BLOCK, -(-extent.end // BLOCK) * BLOCK
        last = runs[-1] if runs else None
        if last is not None and last.path == extent.path and begin <= last.begin + last.length:
            run = runs.pop()
            length = max(end - run.begin, run.length)
            needed = max(extent.end - run.begin, run.needed)
            runs.append(Run(run.path, run.begin, length, needed, run.offset))
        else:
            runs.append(Run(extent.path, begin, end - begin, extent.end - begin, used))
        offsets[i] = runs[-1].offset + extent.begin - runs[-1].begin
        used = runs[-1].offset + runs[-1].length
    return Plan(tuple(runs), tuple(offsets), used)


class Slots:
    """`count` slots of `nbytes` each. `bytes_read` and `busy_s`: what was read, and for how long
    at least one read was under way.
    """

    def __init__(self, count: int, nbytes: int) -> None:
        """Reserves the memory; a page of it is taken when it is first written."""
        self.count, self.nbytes = count, nbytes
        self.bytes_read, self.busy_s = 0, 0.0
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, count * nbytes, flags=flags)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._memory)
        self._files: dict[Path, tuple[int, bool]] = {}
        self.after_fork()

    def after_fork(self) -> None:
        """Begins anew in a child process, which has none of its parent's threads."""
        self._lock = threading.Lock()
        self._active, self._since_s = 0, 0.0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="experts")

    def settle(self) -> None:
        """Returns when no read is under way."""
        self._pool.shutdown(cancel_futures=True)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="experts")

    def fill(self, slot: int, plan: Plan) -> Future[None]:
        """Begins to read `plan` into `slot`. The future raises CheckpointError if a file fails."""
        return self._pool.submit(self._fill, slot, plan)

    def array(self, slot: int, offset: int, like: NDArray[np.generic]) -> NDArray[np.generic]:
        """The bytes at `offset` of `slot` as an array of the dtype and shape of `like`."""
        start = slot * self.nbytes + offset
        found = np.frombuffer(self._view[start : start + like.nbytes], like.dtype)
        return found.reshape(like.shape)

    def _fill(self, slot: int, plan: Plan) -> None:
        self._begin()
        num_bytes = 0
        try:
            for run in plan.runs:
                num_bytes += self._read(run, slot * self.nbytes + run.offset)
        finally:
            self._end(num_bytes)

    def _read(self, run: Run, start: int) -> int:
        try:
            descriptor, is_direct = self._open(run.path)
            done = 0
            while done < run.needed:  # a signal may cut a read short, at a block
                target = self._view[start + done : start + run.length]
                got = os.preadv(descriptor, [target], run.begin + done)
                if got <= 0:
                    raise CheckpointError(f"{run.path} has become shorter while it was in use.")
                done += got
            if not is_direct:
                os.posix_fadvise(descriptor, run.begin, run.length, os.POSIX_FADV_DONTNEED)
        except OSError as problem:
            raise CheckpointError(f"{run.path} cannot be read: {problem.strerror}.") from None
        return done

    def _open(self, path: Path) -> tuple[int, bool]:
        """A descriptor that stays open, and whether reads through it pass the page cache by."""
        with self._lock:
            if path not in self._files:
                self._files[path] = _open_direct(path)
            return self._files[path]

    def _begin(self) -> None:
        with self._lock:
            if not self._active:
                self._since_s = time.perf_counter()
            self._active += 1

    def _end(self, num_bytes: int) -> None:
        with self._lock:
            self._active -= 1
            self.bytes_read += num_bytes
            if not self._active:
                self.busy_s += time.perf_counter() - self._since_s

    def __del__(self) -> None:
        for descriptor, _ in self._files.values():
            os.close(descriptor)


def _open_direct(path: Path) -> tuple[int, bool]:
    """Opens for direct reads, or for buffered ones where the file system has no direct ones."""
    if _DIRECT:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | _DIRECT)
            try:
                os.preadv(descriptor, [mmap.mmap(-1, BLOCK)], 0)
                return descriptor, True
            except OSError:
                os.close(descriptor)
    return os.open(path, os.O_RDONLY), False
