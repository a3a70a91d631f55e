"""Batches made ahead by other processes, so that a fast device does not wait for its data.

A batch is a pure function of its step, so it does not matter who makes it: with any number of
workers the run reads the same.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import fields
from typing import Any, cast

import torch

from dougong.train.data.mixture import PackedBatch

AHEAD = 2  # batches under way for each worker
PARENT_CHECK_S = 1.0

Make = Callable[[int], PackedBatch]
Packed = dict[str, Any]
"""A batch's fields, tensors as numpy arrays: torch would send each one as a shared file."""


class BatchReader:
    """`reader(step)` is `make(step)`, made ahead for the steps that follow."""

    def __init__(self, make: Make, num_steps: int, workers: int = 0) -> None:
        """Starts the workers, which inherit `make` with all its texts; 0: makes each when asked."""
        self._make, self._num_steps, self._ahead = make, num_steps, AHEAD * workers
        self._coming: dict[int, Future[Packed]] = {}
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            # Forked, so that the texts are shared; at once, before the device's threads are there.
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("fork"),
                initializer=_begin,
                initargs=(make, os.getpid()),
            )
            for ready in [self._pool.submit(os.getpid) for _ in range(workers)]:
                ready.result()

    def __call__(self, step: int) -> PackedBatch:
        """The batch of a step; asking for them in order is what is fast."""
        if self._pool is None:
            return self._make(step)
        for old in [one for one in self._coming if one < step]:
            self._coming.pop(old).cancel()
        for later in range(step, min(step + self._ahead, self._num_steps)):
            if later not in self._coming:
                self._coming[later] = self._pool.submit(_produce, later)
        return _unpacked(self._coming.pop(step).result())

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


_make_here: Make | None = None  # in a worker: what it was started to make


def _begin(make: Make, parent: int) -> None:
    global _make_here
    _make_here = make
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """Ends this worker when its run was killed: nobody would read from it any more."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def _produce(step: int) -> Packed:
    assert _make_here is not None, "workers begin with it"
    batch = _make_here(step)
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


def _unpacked(packed: Packed) -> PackedBatch:
    values = {
        name: value if isinstance(value, list) else torch.from_numpy(value)
        for name, value in packed.items()
    }
    return PackedBatch(**cast("dict[str, Any]", values))
