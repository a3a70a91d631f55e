"""Element and block formats against ml_dtypes, torch and published tables, code by code."""

import ml_dtypes
import numpy as np
import pytest
import torch

from dougong.errors import InputError, ShapeError
from dougong.formats import bf16, e2m1, e4m3, fp4_block, fp8_block, ue8m0

CODES = np.arange(256, dtype=np.uint8)
NIBBLES = np.arange(16, dtype=np.uint8)
E2M1_TABLE = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # architecture.md 5.1

# Every 641st bit pattern of a float32: all exponents, both signs, subnormals, infinities.
SWEEP = np.arange(0, 2**32, 641, dtype=np.uint64).astype(np.uint32).view(np.float32)
SWEEP = SWEEP[~np.isnan(SWEEP)]


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal bit by bit: -0 is not 0."""
    return got.shape == want.shape and got.tobytes() == want.tobytes()


def test_e4m3_decodes_every_code_as_ml_dtypes_and_torch_do() -> None:
    got = e4m3.decode(CODES)
    assert np.array_equal(got, CODES.view(ml_dtypes.float8_e4m3fn).astype(np.float32), True)
    theirs = torch.from_numpy(CODES).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(got, theirs, True)
    assert np.isnan(got).sum() == 2
    assert e4m3.MAX == 448


def test_e2m1_decodes_every_code() -> None:
    assert e2m1.decode(NIBBLES).tolist() == [*E2M1_TABLE, *(-value for value in E2M1_TABLE)]
    assert same(e2m1.decode(NIBBLES), NIBBLES.view(ml_dtypes.float4_e2m1fn).astype(np.float32))


def test_ue8m0_decodes_every_code() -> None:
    theirs = CODES.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(ue8m0.decode(CODES), theirs, equal_nan=True)
    assert ue8m0.decode(CODES[[0, 127, 254]]).tolist() == [2.0**-127, 1.0, 2.0**127]


def test_bf16_decodes_every_code() -> None:
    codes = np.arange(2**16, dtype=np.uint16)
    theirs = codes.view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(bf16.decode(codes), theirs, equal_nan=True)


@pytest.mark.parametrize("element", [e4m3.E4M3, e2m1.E2M1])
def test_every_number_encodes_to_its_own_code(element) -> None:
    numbers = ~np.isnan(element.values)
    codes = np.arange(element.values.size, dtype=np.uint8)
    assert same(element.encode(element.values[numbers]), codes[numbers])


@pytest.mark.parametrize("element", [e4m3.E4M3, e2m1.E2M1])
def test_every_tie_goes_to_the_even_code_and_its_neighbours_to_the_nearest(element) -> None:
    codes = np.arange(element.values.size // 2 - element.has_nan, dtype=np.uint8)
    values = element.values[codes]
    ties = (values[:-1] + values[1:]) / 2  # exact in float32
    even = codes[:-1] + (codes[:-1] % 2)
    assert same(element.encode(ties), even)
    assert same(element.encode(np.nextafter(ties, np.float32(0))), codes[:-1])
    assert same(element.encode(np.nextafter(ties, np.float32(1e9))), codes[1:])
    sign = np.uint8(element.values.size // 2)
    assert same(element.encode(-ties), even | sign)


def test_ties_of_the_release() -> None:
    """Architecture.md 5.3: 0.25->0, 0.75->1, 1.25->1, 1.75->2, 2.5->2, 3.5->4, 5->4."""
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    assert e2m1.decode(e2m1.encode(ties)).tolist() == [0, 1, 1, 2, 2, 4, 4]


def test_encoding_a_sweep_of_all_float32_agrees_with_ml_dtypes() -> None:
    """Which has NaN for what is too large; ours saturates, so theirs gets clipped values."""
    for codec, dtype in ((e4m3, ml_dtypes.float8_e4m3fn), (e2m1, ml_dtypes.float4_e2m1fn)):
        clipped = np.clip(SWEEP, -codec.MAX, codec.MAX)
        theirs = clipped.astype(dtype).view(np.uint8)
        assert same(codec.encode(SWEEP), theirs)
    with np.errstate(over="ignore"):
        assert same(bf16.encode(SWEEP), SWEEP.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_saturation_and_nan() -> None:
    large = np.array([449, 1e30, np.inf, -np.inf], np.float32)
    assert e4m3.decode(e4m3.encode(large)).tolist() == [448, 448, 448, -448]
    assert e2m1.decode(e2m1.encode(large)).tolist() == [6, 6, 6, -6]
    nans = np.array([np.nan, -np.nan, 1.0], np.float32)
    assert e4m3.encode(nans).tolist() == [0x7F, 0xFF, 0x38]
    assert np.isnan(bf16.decode(bf16.encode(nans))).tolist() == [True, True, False]
    with pytest.raises(InputError, match="E2M1 cannot hold NaN"):
        e2m1.encode(nans)


def test_float64_input_is_rounded_to_float32_first() -> None:
    """As the released code does: just above a tie in float64 is the tie itself in float32."""
    above = np.array([2.5 + 1e-12])
    assert e2m1.decode(e2m1.encode(above)).tolist() == [2.0]


def test_ue8m0_rounds_up_and_keeps_powers_of_two() -> None:
    powers = ue8m0.decode(CODES[:255])
    assert same(ue8m0.encode(powers), CODES[:255])
    above = np.nextafter(powers[:-1], np.float32(np.inf))
    assert same(ue8m0.encode(above), CODES[1:255])
    below = np.nextafter(powers[1:], np.float32(0))
    assert same(ue8m0.encode(below), CODES[1:255])
    assert ue8m0.encode(np.array([0.0, -0.0, 1e-45], np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 2.0**127 * 1.5])
def test_ue8m0_refuses_what_it_cannot_hold(value: float) -> None:
    with pytest.raises(InputError, match="UE8M0 cannot hold it"):
        ue8m0.encode(np.array([value], np.float32))


def test_packing_puts_the_even_element_into_the_low_nibble() -> None:
    assert fp4_block.pack(np.array([[1, 2, 15, 0]], np.uint8)).tolist() == [[0x21, 0x0F]]
    pairs = np.arange(256, dtype=np.uint8)
    assert same(fp4_block.pack(fp4_block.unpack(pairs)), pairs)
    with pytest.raises(ShapeError, match="even last dim"):
        fp4_block.pack(np.zeros((2, 3), np.uint8))


def test_fp8_block_of_the_release() -> None:
    """Architecture.md 12: amax 448.5 gives scale 2, and these values."""
    row = np.array([[0.3, -1.7, 100, 448.5, 0.001, -0.02, 3.14159]], np.float32)
    codes, scale = fp8_block.quantize(row)
    assert scale.tolist() == [[2.0]]
    want = [[0.3125, -1.75, 96, 448, 0, -0.01953125, 3.25]]
    assert fp8_block.dequantize(codes, scale).tolist() == want


def test_fp8_tiles_have_their_own_scales_and_ragged_edges() -> None:
    w_OI = np.ones((130, 260), np.float32)
    w_OI[128:, 256:] = 448 * 4
    w_OI[:128, :128] = 0
    codes, scale = fp8_block.quantize(w_OI)
    small = 2.0**-8  # the power of two at or above 1 / 448
    assert scale.tolist() == [[1.0, small, small], [small, small, 4.0]]
    assert same(fp8_block.dequantize(codes, scale), w_OI)


def test_fp4_blocks_have_their_own_scales() -> None:
    w_OI = np.array([[6.0] * 32 + [0.0] * 32, [-0.25] * 32 + [100.0] * 32], np.float32)
    packed, scale = fp4_block.quantize(w_OI)
    assert packed.shape == (2, 32)
    assert scale.tolist() == [[1.0, 1.0], [0.0625, 32.0]]
    want = [[6.0] * 32 + [0.0] * 32, [-0.25] * 32 + [96.0] * 32]
    assert fp4_block.dequantize(packed, scale).tolist() == want


def test_dequantizing_matches_a_loop_over_elements() -> None:
    generator = np.random.default_rng(0)
    packed = generator.integers(0, 256, (3, 48), np.uint8)
    scale = ue8m0.decode(generator.integers(100, 140, (3, 3), np.uint8))
    table = [*E2M1_TABLE, *(-value for value in E2M1_TABLE)]
    want = [
        [table[packed[o, i // 2] >> 4 * (i % 2) & 15] * scale[o, i // 32] for i in range(96)]
        for o in range(3)
    ]
    assert fp4_block.dequantize(packed, scale).tolist() == want


@pytest.mark.parametrize("block", [fp8_block, fp4_block])
def test_block_formats_refuse_nan_infinity_and_wrong_shapes(block) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        w_OI = np.zeros((4, 64), np.float32)
        w_OI[3, 5] = bad
        with pytest.raises(InputError, match="NaN or infinity"):
            block.quantize(w_OI)
    with pytest.raises(ShapeError, match=r"got shape \[64\]"):
        block.quantize(np.zeros(64, np.float32))
    with pytest.raises(ShapeError, match="do not fit scales"):
        block.dequantize(np.zeros((4, 64), np.uint8), np.ones((4, 5), np.float32))


def test_fp4_needs_whole_blocks() -> None:
    with pytest.raises(ShapeError, match="multiple of 32 columns"):
        fp4_block.quantize(np.zeros((2, 48), np.float32))
