"""Writes state files in a thread of its own, so that no step waits for the disk (no torch)."""

from __future__ import annotations

import queue
import threading

from dougong.engine.disk_store import DiskStore, Kind, Place

MOST_PENDING = 256  # files on their way; whoever brings more waits


class StoreWriter:
    """A queue in front of `DiskStore.write`."""

    def __init__(self, store: DiskStore) -> None:
        self._store = store
        self._queue: queue.Queue[tuple[Kind, Place, bytes] | None] = queue.Queue(MOST_PENDING)
        self._thread = threading.Thread(target=self._run, name="dougong-store", daemon=True)
        self._thread.start()

    def put(self, kind: Kind, place: Place, payload: bytes) -> None:
        """Takes a file to write."""
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
            try:
                self._store.write(*item)
            except Exception as problem:  # whatever it is, nobody may wait for this thread in vain
                self._store.stop_writing(problem)
            self._queue.task_done()
        self._queue.task_done()
