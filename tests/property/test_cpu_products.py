"""Backend cpu's products in every stored format: long and odd shapes, every path, every code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.stored import CPU, DTYPES, STORED, noise, stored

from dougong.conform.kernels import available_paths
from dougong.errors import CheckpointError, ShapeError
from dougong.kernels.cpu.library import instruction_path, set_instruction_path
from dougong.kernels.registry import operators
from dougong.kernels.stored import StoredMatrix

# More rows than a panel has and more columns than are added up at once, neither a whole number of
# tiles: 67 = 64 + 3, 2208 = 17 * 128 + 32.
ROWS, COLUMNS, TOKENS = 67, 2208, 19


@pytest.fixture(autouse=True)
def inference():
    threads, path = torch.get_num_threads(), instruction_path()
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)
    set_instruction_path(path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", STORED)
def test_long_rows_equal_the_reference_and_each_other(format_: str, dtype: torch.dtype) -> None:
    x, weight = noise(TOKENS, COLUMNS, dtype=dtype), stored(format_, ROWS, COLUMNS)
    whole = CPU.wide_linear(x, weight)
    want = operators("reference").linear(x.double(), weight.dense().double())
    # float32 sums of 2,208 terms of which unit-RMS results are made: some 2,208 ** 0.5 roundings
    torch.testing.assert_close(whole.double(), want, rtol=0, atol=2e-5)
    for path in available_paths():
        set_instruction_path(path)
        for count in (1, 2, 3) if path == "portable" else (1, 2, 3, 17):
            torch.set_num_threads(count % 3 + 1)
            got = CPU.wide_linear(x[1 : 1 + count], weight)
            assert torch.equal(got, whole[1 : 1 + count]), (path, count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [32, 96, 160])
def test_fp4_columns_meet_their_own_elements(columns: int, dtype: torch.dtype) -> None:
    weight = stored("I8", 9, columns)  # FP4 is multiplied in another order than it is stored
    got = CPU.wide_linear(torch.eye(columns).to(dtype), weight)
    assert torch.equal(got.T, weight.dense())


@pytest.mark.parametrize("group", [0, 32, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_int8_code_is_exact(dtype: torch.dtype, group: int) -> None:
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    scale = 2.0 ** -np.arange(256 // (group or 256), dtype=np.float32)[None]
    weight = StoredMatrix("INT8", [codes], [scale], group=group)
    got = CPU.wide_linear(torch.eye(256).to(dtype), weight)[:, 0]
    assert torch.equal(got, weight.dense()[0])


def test_float_scales_that_cannot_be_computed_with_are_refused() -> None:
    codes = np.zeros((4, 256), np.int8)
    with pytest.raises(ShapeError, match="a multiple of 32"):
        StoredMatrix("INT8", [codes], [np.ones((4, 16), np.float32)], group=16)
    with pytest.raises(ShapeError, match="only INT8"):
        StoredMatrix("BF16", [codes.astype(np.uint16)], group=32)
    with pytest.raises(ShapeError, match=r"scales \(4, 1\), expected \(4, 2\)"):
        StoredMatrix("INT8", [codes], [np.ones(4, np.float32)], group=128)
    with pytest.raises(CheckpointError, match="infinite scales"):
        StoredMatrix("INT8", [codes], [np.full(4, np.inf, np.float32)])
    fp8 = codes.view(np.uint8)
    with pytest.raises(CheckpointError, match="infinite scales"):
        StoredMatrix("F8_E4M3", [fp8], [np.full((1, 2), np.nan, np.float32)])
