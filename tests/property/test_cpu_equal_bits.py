"""Backend cpu: a row's bits depend on that row alone.

Not on how many rows are computed with it, its place among them, the number of threads, or the
instruction set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from support.stored import CPU, DTYPES, STORED, noise, stored, turns
from torch import Tensor

from dougong.errors import BackendError
from dougong.kernels.cpu.library import PATHS, instruction_path, set_instruction_path

ROWS = (1, 2, 3, 17, 128, 1000)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def restore_threads():
    threads, path = torch.get_num_threads(), instruction_path()
    yield
    torch.set_num_threads(threads)
    set_instruction_path(path)


def calls(dtype: torch.dtype) -> dict[str, tuple[Callable[..., Tensor], Tensor]]:
    """Operators as functions of some rows, and 1,000 rows."""
    w1, w3 = stored("I8", 64, 96, 1, 4), stored("I8", 64, 96, 9, 4)
    w2, shared = stored("I8", 96, 64, 20, 4), stored("F8_E4M3", 72, 96)
    x, fn = noise(1000, 96, dtype=dtype), noise(24, 4 * 96, seed=3) * 0.1
    experts, weights = (torch.arange(2000) * 7 % 4).view(1000, 2), noise(1000, 2, seed=5)
    base, scale, gate = noise(24, seed=6), torch.ones(3), stored("BF16", 9, 96)
    streams, turn = noise(1000, 4, 96, seed=7, dtype=dtype), turns(1000, 8)
    table: dict[str, Callable[..., Tensor]] = {
        f"linear {name}": partial(lambda w, rows: CPU.linear(x[rows], w), stored(name, 90, 96))
        for name in STORED
    }
    mix = {"iterations": 20, "hc_eps": 1e-6, "norm_eps": 1e-6}
    table |= {
        "rounded": lambda rows: CPU.linear(x[rows], shared, rounded=True),
        "logits": lambda rows: CPU.logits(x[rows], shared),
        "projection": lambda rows: CPU.grouped_projection(x[rows].unflatten(1, (3, 32)), w48, 3),
        "experts": lambda rows: CPU.grouped_experts(
            x[rows], weights[rows], experts[rows], w1, w3, w2, limit=1.0, rounded=False
        ),
        "router": lambda rows: CPU.router(
            x[rows], gate, None, None, top_k=2, route_scale=1.0
        )[0],
        "mhc": lambda rows: CPU.mhc_pre(streams[rows], fn, base, scale, **mix)[0],
        "comb": lambda rows: CPU.mhc_pre(streams[rows], fn, base, scale, **mix)[2].movedim(2, 0),
        "norm": lambda rows: CPU.norm_rope_kv(x[rows], base.repeat(4), turn[rows], 1e-6,
                                              rounded=True),
        "index": lambda rows: CPU.index_select(
            streams[rows], noise(1000, 4)[rows].to(dtype), keys, start=rows.start, ratio=4, k=20
        ),
        "attention": lambda rows: CPU.attention(
            streams[rows], recent[max(rows.start - 29, 0) : rows.stop], keys, None,
            base[:4].clone(), turn[rows], start=rows.start, window=30, ratio=4,
        ),
    }  # fmt: skip
    w48 = stored("F8_E4M3", 48, 32)
    keys, recent = noise(250, 96, seed=8, dtype=dtype), noise(1000, 96, seed=9, dtype=dtype)
    return {name: (call, call(slice(0, 1000))) for name, call in table.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_equal_bits_however_many_are_computed(dtype: torch.dtype) -> None:
    for name, (call, whole) in calls(dtype).items():
        for count in ROWS:
            for first in (0, (1000 - count) // 2, 1000 - count):
                rows = slice(first, first + count)
                assert torch.equal(call(rows), whole[rows]), (name, count, first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("restore_threads")
def test_threads_and_instruction_sets_change_no_bit(dtype: torch.dtype) -> None:
    table = calls(dtype)
    small, used = slice(480, 500), 0
    for path in PATHS:
        try:
            set_instruction_path(path)
        except BackendError:
            continue  # this machine has fewer
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rows = small if path == "portable" else slice(100, 400)
            for name, (call, whole) in table.items():
                assert torch.equal(call(rows), whole[rows]), (name, path, threads)
            used += 1
    assert used >= 3
