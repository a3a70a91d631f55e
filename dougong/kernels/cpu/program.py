"""Recorded operator calls: a decode step repeats them with a few numbers changed.

One token's arithmetic takes microseconds an operator, and so would calling each from Python. Inside
`recording(program)` operators are checked and given memory as always, but only noted down; the
program then runs them all in one native call, as often as wanted, on the same memory.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dougong.kernels.cpu.library import CALLS, Add, Call, library
from dougong.kernels.cpu.tensors import DTYPES, floats

_CODES = {name: code for code, name in enumerate(CALLS)}
_active = threading.local()


class Program:
    """Calls in order; `arguments` of the last one recorded can be changed between runs."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._arguments: list[Any] = []
        self._kept: list[Any] = []  # memory that the arguments point to
        self._calls: ctypes.Array[Call] | None = None

    @property
    def last(self) -> Any:
        """The arguments of the call recorded last."""
        return self._arguments[-1]

    def note(self, name: str, arguments: ctypes.Structure, kept: tuple[Any, ...]) -> None:
        """Records one call."""
        self._names.append(name)
        self._arguments.append(arguments)
        # a detached tensor keeps its memory, whatever happens to the parameter it came from
        self._kept.append([x.detach() if isinstance(x, Tensor) else x for x in kept])
        self._calls = None

    def run(self) -> None:
        """Runs every call in order."""
        if self._calls is None:
            pairs = zip(self._names, self._arguments, strict=True)
            calls = [Call(_CODES[name], ctypes.addressof(a)) for name, a in pairs]
            self._calls = (Call * len(calls))(*calls)
        library().dg_run(self._calls, len(self._calls))


@contextmanager
def recording(program: Program) -> Iterator[Program]:
    """Operators of backend cpu, called in this thread, are noted in `program`, not run."""
    _active.program = program
    try:
        yield program
    finally:
        _active.program = None


def call(name: str, arguments: ctypes.Structure, *kept: Any) -> None:
    """Runs one native operator, or records it; `kept` is the memory that the arguments point to."""
    program: Program | None = getattr(_active, "program", None)
    if program is None:
        getattr(library(), name)(arguments)
    else:
        program.note(name, arguments, kept)


def add(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """y = a + b of float32 tensors of y's shape, rounded to y's dtype."""
    a, b = floats(a, "add: a", *y.shape), floats(b, "add: b", *y.shape)
    arguments = Add(a.data_ptr(), b.data_ptr(), y.data_ptr(), y.numel(), DTYPES[y.dtype])
    call("dg_add", arguments, a, b, y)
    return y
