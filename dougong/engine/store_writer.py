"""Writes state files in a thread of its own, so that no step waits for the disk (no torch)."""

from __future__ import annotations

import queue
import threading

from dougong.engine.disk_store import DiskStore, Kind, Place

MOST_PENDING = 256  # files on their way; whoever brings more waits
MOST_KNOWN = 1_000_000  # names remembered, so that a file is not made twice for nothing


class StoreWriter:
    """A queue in front of `DiskStore.write`."""

    def __init__(self, store: DiskStore) -> None:
        self._store, self._known = store, set[tuple[Kind, bytes]]()
        self._queue: queue.Queue[tuple[Kind, Place, bytes] | None] = queue.Queue(MOST_PENDING)
        self._thread = threading.Thread(target=self._run, name="dougong-store", daemon=True)
        self._thread.start()

    def has(self, kind: Kind, place: Place) -> bool:
        """Whether this file was put here before."""
        return (kind, place.key) in self._known

    def put(self, kind: Kind, place: Place, payload: bytes) -> None:
        """Takes a file to write."""
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known.add((kind, place.key))
        self._queue.put((kind, place, payload))

    def flush(self) -> None:
        """Waits until everything put so far is on disk."""
        self._queue.join()

    def close(self) -> None:
        """Writes what is left and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._store.write(*item)
            self._queue.task_done()
        self._queue.task_done()
