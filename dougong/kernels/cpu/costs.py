"""What native calls cost: seconds and the bytes of weights that they read, by operator.

Bytes are counted from the arguments of each call as it is made: experts that the router chose,
matrices as they are stored with their scales, float parameters as they are kept.
"""

from __future__ import annotations

import ctypes
import time
from collections import defaultdict
from typing import Any

from dougong.kernels.cpu.library import BF16, E2M1, E4M3, F32, INT8, Matrix, library

_CODE_BYTES = {F32: 4.0, BF16: 2.0, E4M3: 1.0, E2M1: 0.5, INT8: 1.0}


class Costs:
    """Sums over calls, by operator: `seconds` and `weight_bytes`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.weight_bytes: dict[str, int] = defaultdict(int)

    def run(self, name: str, arguments: Any) -> None:
        """Makes one call of operator `dg_...` and adds what it cost."""
        function, operator = getattr(library(), name), name.removeprefix("dg_")
        start = time.perf_counter()
        function(arguments)
        self.seconds[operator] += time.perf_counter() - start
        self.weight_bytes[operator] += weight_bytes(operator, arguments)


def weight_bytes(operator: str, a: Any) -> int:
    """Bytes of parameters that a call with arguments `a` reads, each counted once."""
    if operator == "linear":
        return _matrix_bytes(_matrix(a.weight))
    if operator == "experts":
        chosen = {0}
        if a.experts:
            chosen = set((ctypes.c_int64 * (a.tokens * a.top_k)).from_address(a.experts))
        each = (_matrix_bytes(_matrix(w, e)) for w in (a.w1, a.w3, a.w2) for e in chosen)
        return sum(each)
    if operator == "router":
        return _matrix_bytes(_matrix(a.weight)) + _floats(a.bias, _matrix(a.weight).rows)
    if operator == "mhc_mix":
        rows = a.num_streams * (2 + a.num_streams if a.iterations else 1)
        return _floats(a.fn, rows * (a.num_streams * a.size + 1))
    if operator == "norm_rope":
        return _floats(a.weight, a.size)
    if operator == "compress":
        return _floats(a.ape, a.ratio * a.width + a.width // (2 if a.overlap else 1))
    if operator == "attention":
        return _floats(a.sink, a.heads)
    if operator == "lookup":  # of an int64 table one row a token
        return 8 * int(a.count) * int(a.width)
    return 0


def _matrix(address: int, index: int = 0) -> Matrix:
    return Matrix.from_address(address + index * ctypes.sizeof(Matrix))


def _matrix_bytes(w: Matrix) -> int:
    """Codes and scales of a stored matrix."""
    scales = 0
    if w.format == E2M1:
        scales = w.rows * (w.columns // 32)
    elif w.format == E4M3:
        scales = -(-w.rows // 128) * -(-w.columns // 128) * (4 if w.group else 1)
    elif w.format == INT8:
        scales = w.rows * -(-w.columns // w.group) * 4
    return int(w.rows * w.columns * _CODE_BYTES[w.format]) + scales


def _floats(address: int | None, count: int) -> int:
    return 4 * count if address else 0
