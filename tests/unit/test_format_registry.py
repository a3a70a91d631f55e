"""The registry against the facts table and bytes counted by hand; block rules on small numbers."""

import csv
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dougong
from dougong.errors import InputError, ShapeError
from dougong.formats import FORMATS, FP4, FP8, Quantized, dequantize, find_format, quantize, ue8m0
from dougong.formats.measure import LOSSLESS_RATIO, Fidelity, fidelity, lossy_tiles

TABLE = Path(dougong.__file__).parent / "data" / "plan" / "low_precision_formats.csv"
ROWS = {row["id"]: row for row in csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines())}
IN_TABLE = [format for format in FORMATS.values() if format.table]


@pytest.mark.parametrize("format", IN_TABLE, ids=lambda format: format.name)
def test_elements_agree_with_the_facts_table(format) -> None:
    row = ROWS[format.table]
    assert format.element.bits == int(row["element_bits"])
    assert format.element.max == pytest.approx(float(row["max_abs"]), rel=1e-4)  # 5 digits there
    if row["min_subnormal"]:
        assert format.element.smallest == pytest.approx(float(row["min_subnormal"]), rel=0.01)
    assert format.native_machines == row["hardware_native"]


@pytest.mark.parametrize("format", IN_TABLE, ids=lambda format: format.name)
def test_bits_per_value_agree_with_the_facts_table(format) -> None:
    """The table rounds to three digits and leaves scales of whole rows and tensors out."""
    wanted = float(ROWS[format.table]["effective_bits"])
    if format.block == (1, 128) and format.table.startswith("fp8_block"):
        wanted = {"fp32": 8.25, "ue8m0_up": 8.0625}[format.scale]  # its `typical_use` says so
    assert format.bits_per_value((2**14, 2**14)) == pytest.approx(wanted, abs=2.1e-3)


@pytest.mark.parametrize(
    ("name", "shape", "nbytes"),
    [
        ("fp8_block128_fp32", (130, 257), 130 * 257 + 2 * 3 * 4),
        ("fp8_block128_ue8m0", (130, 257), 130 * 257 + 2 * 3),
        ("fp8_row128_fp32", (3, 257), 3 * 257 + 3 * 3 * 4),
        ("mxfp8_e4m3", (3, 96), 3 * 96 + 3 * 3),
        ("mxfp6_e2m3", (2, 64), 2 * 64 * 6 // 8 + 2 * 2),
        ("mxfp4", (2, 64), 64 + 4),
        ("nvfp4", (2, 64), 64 + 2 * 4 + 4),
        ("hif8", (5, 7), 35 + 4),
        ("int8_pc", (5, 7), 35 + 5 * 4),
        ("int8_g128", (5, 256), 5 * 256 + 5 * 2 * 2),
        ("int4_g32", (5, 64), 5 * 32 + 5 * 2 * 2),
        ("int4_g128_awq", (2, 128), 2 * 64 + 2 * 2 + 1),  # two FP16 scales, two 4-bit zeros
        ("bf16", (5, 7), 70),
    ],
)
def test_bytes_counted_by_hand(name: str, shape: tuple[int, int], nbytes: int) -> None:
    assert FORMATS[name].nbytes(shape) == nbytes
    assert quantize(np.ones(shape, np.float32), FORMATS[name]).nbytes == nbytes


def test_v4_flash_experts_take_the_bytes_of_its_index_file() -> None:
    """One w1: 2,048 x 4,096 as I8 [2048, 2048] and scales [2048, 128] (architecture.md 6.1)."""
    assert FP4.nbytes((2048, 4096)) == 2048 * 2048 + 2048 * 128


def test_aliases_and_unknown_names() -> None:
    assert find_format("fp8") is FP8
    assert find_format("fp4").name == "fp4_row32_ue8m0"
    with pytest.raises(InputError, match="'fp9' is unknown; choose one of fp8, fp4, bf16"):
        find_format("fp9")


def test_mx_scales_are_rounded_down_and_saturate_where_v4s_are_rounded_up() -> None:
    """OCP: 2**(floor(log2 amax) - 2). 7.9 is in the binade of 6, so 7.9 becomes 6."""
    row = np.array([[7.9, 1.0] + [0.0] * 30], np.float32)
    mx, ours = quantize(row, FORMATS["mxfp4"]), quantize(row, FP4)
    assert (mx.scale_PQ.tolist(), ours.scale_PQ.tolist()) == ([[1.0]], [[2.0]])
    assert dequantize(mx)[0, :2].tolist() == [6.0, 1.0]
    assert dequantize(ours)[0, :2].tolist() == [8.0, 1.0]
    assert (fidelity(row, mx).saturated, fidelity(row, ours).saturated) == (1, 0)


@pytest.mark.parametrize(
    ("name", "amax", "scale"),
    [
        ("mxfp8_e4m3", 448.0, 1.0),
        ("mxfp8_e4m3", 511.0, 1.0),
        ("mxfp8_e4m3", 512.0, 2.0),
        ("mxfp8_e5m2", 57344.0, 1.0),
        ("mxfp6_e3m2", 28.0, 1.0),
        ("mxfp6_e2m3", 7.5, 1.0),
        ("mxfp6_e2m3", 2.0**-126, 2.0**-127),  # as small as UE8M0 goes
        ("int8_pc", 127.0, 1.0),
        ("int4_g32", 7.0, 1.0),
        ("fp8_row128_fp32", 896.0, 2.0),
    ],
)
def test_the_scale_that_a_largest_value_gives(name: str, amax: float, scale: float) -> None:
    quantized = quantize(np.array([[amax, -amax / 2]], np.float32), FORMATS[name])
    assert quantized.scale_PQ.tolist() == [[scale]]


def test_rounding_scales_down_keeps_powers_of_two_and_stays_in_the_binade() -> None:
    powers = ue8m0.decode(np.arange(255, dtype=np.uint8))
    assert ue8m0.encode_down(powers).tolist() == list(range(255))
    above = np.nextafter(powers[:-1], np.float32(np.inf))
    assert ue8m0.encode_down(above).tolist() == list(range(254))
    below = np.nextafter(powers[1:], np.float32(0))
    assert ue8m0.encode_down(below).tolist() == list(range(254))
    with pytest.raises(InputError, match="UE8M0 cannot hold it"):
        ue8m0.encode_down(np.array([np.inf], np.float32))


def test_nvfp4_scales_twice() -> None:
    """A tensor of amax 2,688 = 6 * 448 has tensor scale 1 and one block at the E4M3 maximum."""
    row = np.array([[2688.0] + [0.0] * 15 + [6.0, 3.0] + [0.0] * 14 + [1e-5] * 16], np.float32)
    quantized = quantize(row, FORMATS["nvfp4"])
    assert quantized.tensor_scale == 1.0
    assert quantized.scale_PQ.tolist() == [[448.0, 1.0, 1.0]]  # the third would round to 0
    assert dequantize(quantized)[0, [0, 16, 17, 40]].tolist() == [2688.0, 6.0, 3.0, 0.0]
    doubled = quantize(row * np.float32(0.3), FORMATS["nvfp4"])
    assert doubled.tensor_scale == pytest.approx(0.3)
    assert (doubled.codes_OI == quantized.codes_OI).all()


def test_int4_with_a_zero_point_spends_its_codes_between_smallest_and_largest() -> None:
    row = np.array([[-1.0, 14.0, 0.0, 3.2]], np.float32)
    quantized = quantize(row, FORMATS["int4_g128_awq"])
    assert (quantized.scale_PQ.tolist(), quantized.zero_PQ.tolist()) == ([[1.0]], [[1]])
    assert quantized.codes_OI.tolist() == [[0, 15, 1, 4]]
    assert dequantize(quantized).tolist() == [[-1.0, 14.0, 0.0, 3.0]]
    # The zero point is rounded to nearest, and so is each value before the zero is added.
    shifted = quantize(np.array([[-1.6, 13.4]], np.float32), FORMATS["int4_g128_awq"])
    assert shifted.zero_PQ.tolist() == [[2]]
    tie = quantize(np.array([[-1.0, 14.0, 0.5]], np.float32), FORMATS["int4_g128_awq"])
    assert tie.codes_OI.tolist() == [[0, 15, 1]]


def test_scales_of_16_bits_are_rounded_to_them() -> None:
    row = np.full((1, 32), 0.1, np.float32)
    bf16 = quantize(row, FORMATS["int4_g32"]).scale_PQ
    assert bf16 == (np.float32([[0.1]]) / 7).astype(ml_dtypes.bfloat16).astype(np.float32)
    fp16 = quantize(row, FORMATS["int8_g128"]).scale_PQ
    assert fp16 == (np.float32([[0.1]]) / 127).astype(np.float16).astype(np.float32)


def test_hif8_is_scaled_to_where_it_has_three_mantissa_bits() -> None:
    quantized = quantize(np.array([[30.0, 0.25, -7.5]], np.float32), FORMATS["hif8"])
    assert quantized.tensor_scale == 2.0
    assert dequantize(quantized).tolist() == [[30.0, 0.25, -7.5]]


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
def test_every_format_takes_zeros_and_refuses_what_it_cannot_store(format) -> None:
    zeros = quantize(np.zeros((3, 40), np.float32), format)
    assert not dequantize(zeros).any()
    assert fidelity(np.zeros((3, 40), np.float32), zeros) == Fidelity(count=120)
    assert dequantize(quantize(np.zeros((0, 40), np.float32), format)).shape == (0, 40)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="NaN or infinity"):
            quantize(np.array([[1.0, bad]], np.float32), format)
    with pytest.raises(ShapeError, match=r"matrices, got shape \[40\]"):
        quantize(np.zeros(40, np.float32), format)


def test_scales_must_fit_the_codes() -> None:
    wrong = Quantized(FP8, np.zeros((4, 4), np.uint8), np.ones((2, 1), np.float32))
    with pytest.raises(ShapeError, match=r"codes \[4, 4\] do not fit scales \[2, 1\]"):
        dequantize(wrong)


def test_fp4_folds_into_fp8_up_to_the_stated_ratio_and_beyond_it_by_subnormals() -> None:
    """Official recast: FP8 scale = largest / 2**6. Every E2M1 value under every smaller scale."""
    e2m1 = FORMATS["mxfp4"].element.decode(np.arange(16, dtype=np.uint8))
    e4m3 = FP8.element

    def survives(ratio: float) -> tuple[bool, bool]:
        folded = e2m1 * np.float32(2.0**6 / ratio)
        exact = bool((e4m3.decode(e4m3.encode(folded)) == folded).all())
        nonzero = np.abs(folded[folded != 0])
        return exact, bool((nonzero >= 2.0**-6).all() and (nonzero <= e4m3.max).all())

    assert LOSSLESS_RATIO == 2.0**11
    assert [survives(2.0**e) for e in range(12)] == [(True, True)] * 12
    assert [survives(2.0**e) for e in range(12, 15)] == [(True, False)] * 3  # subnormal, exact
    assert survives(2.0**15) == (False, False)


def test_tiles_beyond_the_lossless_ratio_are_counted_and_zero_blocks_are_not() -> None:
    scale_OG = np.ones((130, 8), np.float32)  # 2 x 2 tiles of 128 rows and 4 blocks
    scale_OG[0, 0] = 2.0**11  # allowed
    scale_OG[0, 4] = 2.0**12  # one too many
    scale_OG[129, 0] = 2.0**-20  # too small beside 1, but its block is all zeros
    codes_OI = np.ones((130, 256), np.uint8)
    quantized = Quantized(FP4, codes_OI, scale_OG)
    assert lossy_tiles(quantized) == (4, 2)
    codes_OI[129, :32] = 8  # -0
    assert lossy_tiles(quantized) == (4, 1)
    scale_OG[129, 0] = 2.0**30  # nor does it matter how large
    assert lossy_tiles(quantized) == (4, 1)
    codes_OI[:] = 0
    assert lossy_tiles(quantized) == (4, 0)


def test_fidelity_adds_up_over_tensors() -> None:
    x = np.random.default_rng(0).standard_normal((64, 96), np.float32)
    whole = fidelity(x, quantize(x, FP8))
    error = dequantize(quantize(x, FP8)).astype(np.float64) - x
    want = np.sqrt((error**2).sum() / (x.astype(np.float64) ** 2).sum())
    assert whole.relative_rms == pytest.approx(want, rel=1e-12)
    assert (whole + whole).relative_rms == pytest.approx(want, rel=1e-12)
    assert (whole + whole).count == 2 * x.size
    assert Fidelity().relative_rms == 0
