"""Recorded operator calls: a decode step is one native call that repeats them.

One token's arithmetic takes microseconds an operator, and so would calling each from Python. Inside
`recording(program)` operators are checked and given memory as always, but only noted down; the
program then runs them all, as often as wanted, on the same memory.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dougong.kernels.cpu.costs import Costs
from dougong.kernels.cpu.library import CALLS, Call, library

_CODES = {name: code for code, name in enumerate(CALLS)}
_COUNTS = ("tokens", "rows", "count")  # an operator's field that grows with the tokens
_active = threading.local()


class Program:
    """Calls in order, recorded for `capacity` tokens; fewer use the front of the same memory."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self._size = capacity, (capacity, 0)
        self._calls: list[tuple[str, ctypes.Structure]] = []
        self._kept: list[Any] = []  # the memory that their arguments point to
        self._counts: list[tuple[Any, str, int]] = []  # whose field is how much for each token
        self._spanned: list[Any] = []  # arguments with spans
        self._array: ctypes.Array[Call] | None = None

    def note(self, name: str, arguments: ctypes.Structure, kept: tuple[Any, ...]) -> None:
        """Records one call."""
        self._calls.append((name, arguments))
        # a detached tensor keeps its memory, whatever happens to the parameter it came from
        self._kept.append([x.detach() if isinstance(x, Tensor) else x for x in kept])
        field = next(field for field in _COUNTS if hasattr(arguments, field))
        self._counts.append((arguments, field, getattr(arguments, field) // self.capacity))
        if hasattr(arguments, "num_spans"):
            self._spanned.append(arguments)

    def run(self, tokens: int, num_spans: int) -> None:
        """Runs every call in order, for the first `tokens` rows and `num_spans` spans."""
        assert tokens <= self.capacity
        if self._size != (tokens, num_spans):
            for arguments, field, each in self._counts:
                setattr(arguments, field, each * tokens)
            for arguments in self._spanned:
                arguments.num_spans = num_spans
            self._size = tokens, num_spans
        costs: Costs | None = getattr(_active, "costs", None)
        if costs is not None:
            for name, arguments in self._calls:
                costs.run(name, arguments)
            return
        if self._array is None:
            calls = [Call(_CODES[name], ctypes.addressof(a)) for name, a in self._calls]
            self._array = (Call * len(calls))(*calls)
        library().dg_run(self._array, len(self._array))


@contextmanager
def recording(program: Program) -> Iterator[Program]:
    """Operators of backend cpu, called in this thread, are noted in `program`, not run."""
    _active.program = program
    try:
        yield program
    finally:
        _active.program = None


@contextmanager
def measuring() -> Iterator[Costs]:
    """What this thread's native calls cost in here, the recorded ones run one by one."""
    _active.costs = Costs()
    try:
        yield _active.costs
    finally:
        _active.costs = None


def call(name: str, arguments: ctypes.Structure, *kept: Any) -> None:
    """Runs one native operator, or records it; `kept` is the memory that the arguments point to."""
    program: Program | None = getattr(_active, "program", None)
    costs: Costs | None = getattr(_active, "costs", None)
    if program is not None:
        program.note(name, arguments, kept)
    elif costs is not None:
        costs.run(name, arguments)
    else:
        getattr(library(), name)(arguments)
