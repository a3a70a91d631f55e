"""Backend cpu: a row's bits depend on that row alone.

Not on how many rows are computed with it, its place among them, the number of threads, or the
instruction set.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.stored import CPU, DTYPES, STORED, noise, stored
from torch import Tensor

from dougong.conform.case import Case
from dougong.conform.draw import Draw
from dougong.conform.kernels import available_paths, same
from dougong.conform.operator_cases import MAKERS
from dougong.kernels.cpu.library import instruction_path, set_instruction_path
from dougong.kernels.registry import operator_names

ROWS = (1, 2, 3, 17, 128, 1000)
SEEDS = range(3)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def restore_threads() -> Iterator[None]:
    threads, path = torch.get_num_threads(), instruction_path()
    yield
    torch.set_num_threads(threads)
    set_instruction_path(path)


def only(operator: str) -> Any:
    """Backend cpu with this operator and no other: a case that calls another one fails."""
    return SimpleNamespace(**{operator: getattr(CPU, operator)})


def cases(operator: str) -> Iterator[Case]:
    """Several of each kind, of 1,000 rows where rows are no whole samples."""
    for seed in SEEDS:
        for make in MAKERS[operator]:
            yield make(Draw(seed), ROWS[-1])


def assert_rows_are_their_own(case: Case, count: int) -> None:
    """The first, the middle and the last `count` rows, computed apart, are the same bits."""
    ops = only(case.operator)
    whole = case.run(ops)
    for first in {0, (case.rows - count) // 2, case.rows - count}:
        alone = case.run(ops, first, first + count)
        assert same(alone, whole, first, first + count), (case.operator, case.about, count, first)


def test_every_operator_has_cases() -> None:
    assert set(MAKERS) == set(operator_names())


@pytest.mark.parametrize("operator", operator_names())
def test_rows_have_equal_bits_however_many_are_computed(operator: str) -> None:
    for case in cases(operator):
        assert case.operator == operator
        for count in [count for count in ROWS if count <= case.rows]:
            assert_rows_are_their_own(case, count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", STORED)
def test_products_have_equal_bits_in_every_format(format_: str, dtype: torch.dtype) -> None:
    x, weight = noise(1000, 96, dtype=dtype), stored(format_, 90, 96)

    def call(ops: Any, inputs: Any, rows: slice) -> tuple[Tensor, ...]:
        return ops.linear(x[rows], weight), ops.linear(x[rows], weight, rounded=True)

    for count in ROWS:
        assert_rows_are_their_own(Case("linear", format_, 1000, {}, call, 0.0), count)


@pytest.mark.parametrize("operator", operator_names())
@pytest.mark.usefixtures("restore_threads")
def test_threads_and_instruction_sets_change_no_bit(operator: str) -> None:
    paths, ops = available_paths(), only(operator)
    assert paths[-1] == "portable"
    for case in cases(operator):
        torch.set_num_threads(1)
        set_instruction_path(paths[0])
        whole = case.run(ops)
        for path in paths:
            set_instruction_path(path)
            low, high = case.rows // 10, case.rows // (8 if path == "portable" else 2) + 1
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                some = case.run(ops, low, high)
                assert same(some, whole, low, high), (case.about, path, threads)
