"""Every code of every element format: from its bit fields, and against ml_dtypes."""

import ml_dtypes
import numpy as np
import pytest

from dougong.errors import InputError
from dougong.formats.elements import BF16, INT4, INT8, UINT4
from dougong.formats.hif8 import HIF8, VALUES
from dougong.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, Minifloat

# Element, its dtype in ml_dtypes, exponent bits, mantissa bits, bias, largest, smallest.
FLOATS = [
    (E4M3, ml_dtypes.float8_e4m3fn, 4, 3, 7, 448.0, 2.0**-9),
    (E5M2, ml_dtypes.float8_e5m2, 5, 2, 15, 57344.0, 2.0**-16),
    (E3M2, ml_dtypes.float6_e3m2fn, 3, 2, 3, 28.0, 2.0**-4),
    (E2M3, ml_dtypes.float6_e2m3fn, 2, 3, 1, 7.5, 2.0**-3),
    (E2M1, ml_dtypes.float4_e2m1fn, 2, 1, 1, 6.0, 0.5),
]
IDS = [row[0].name for row in FLOATS]
# Every 641st bit pattern of a float32: all exponents, both signs, subnormals, infinities.
SWEEP = np.arange(0, 2**32, 641, dtype=np.uint64).astype(np.uint32).view(np.float32)
SWEEP = SWEEP[~np.isnan(SWEEP)]


def from_fields(code: int, exponent_bits: int, mantissa_bits: int, bias: int) -> float:
    """IEEE's rule: (1 + m / 2**M) * 2**(e - bias), or m / 2**M * 2**(1 - bias) where e is 0."""
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
    fraction = (code & (2**mantissa_bits - 1)) / 2**mantissa_bits
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias)
    return sign * (1 + fraction) * 2.0 ** (exponent - bias)


@pytest.mark.parametrize("row", FLOATS, ids=IDS)
def test_every_code_decodes_as_its_bit_fields_say_and_as_ml_dtypes_does(row) -> None:
    element, dtype, exponent_bits, mantissa_bits, bias, largest, smallest = row
    codes = np.arange(2**element.bits, dtype=np.uint8)
    got = element.decode(codes)
    numbers = np.isfinite(got)
    by_hand = [from_fields(int(code), exponent_bits, mantissa_bits, bias) for code in codes]
    assert got[numbers].tolist() == np.array(by_hand)[numbers].tolist()
    assert np.array_equal(got, codes.view(dtype).astype(np.float32), equal_nan=True)
    assert (element.max, element.smallest) == (largest, smallest)
    assert got[numbers & (got > 0)].min() == smallest


def test_which_codes_are_no_numbers() -> None:
    def special(element: Minifloat) -> list[str]:
        codes = np.arange(2**element.bits, dtype=np.uint8)
        is_number = np.isfinite(element.decode(codes))
        return [f"{code:02x}:{element.values[code]}" for code in codes[~is_number]]

    assert special(E4M3) == ["7f:nan", "ff:nan"]
    infinities = ["7c:inf", "7d:nan", "7e:nan", "7f:nan", "fc:-inf", "fd:nan", "fe:nan", "ff:nan"]
    assert special(E5M2) == infinities
    assert special(E3M2) == special(E2M3) == special(E2M1) == []


@pytest.mark.parametrize("row", FLOATS, ids=IDS)
def test_encoding_a_sweep_of_all_float32_agrees_with_ml_dtypes(row) -> None:
    """Theirs gets clipped values: it makes NaN or infinity of what is too large."""
    element, dtype = row[:2]
    theirs = np.clip(SWEEP, -element.max, element.max).astype(dtype).view(np.uint8)
    assert (element.encode(SWEEP) == theirs).all()


@pytest.mark.parametrize("row", FLOATS, ids=IDS)
def test_every_tie_goes_to_the_even_code_and_its_neighbours_to_the_nearest(row) -> None:
    element = row[0]
    codes = np.arange(2 ** (element.bits - 1), dtype=np.uint8)
    codes = codes[np.isfinite(element.decode(codes))]
    values = element.decode(codes)
    ties = (values[:-1] + values[1:]) / 2  # exact in float32
    assert element.encode(ties).tolist() == (codes[:-1] + codes[:-1] % 2).tolist()
    assert element.encode(np.nextafter(ties, np.float32(0))).tolist() == codes[:-1].tolist()
    assert element.encode(np.nextafter(ties, np.float32(1e9))).tolist() == codes[1:].tolist()
    assert element.encode(values).tolist() == codes.tolist()


@pytest.mark.parametrize("row", FLOATS, ids=IDS)
def test_overflow_is_where_one_more_step_would_be_nearer(row) -> None:
    element, mantissa_bits = row[0], row[3]
    largest = np.frexp(element.max)
    next_up = element.max + np.ldexp(1.0, largest[1] - 1 - mantissa_bits)
    assert element.overflow == (element.max + next_up) / 2


def test_saturation_and_nan_follow_each_format() -> None:
    large = np.array([1e30, np.inf, -np.inf], np.float32)
    for element, *_ in FLOATS:
        wanted = [element.max, element.max, -element.max]
        assert element.decode(element.encode(large)).tolist() == wanted
    assert E5M2.encode(np.array([np.nan, -np.nan], np.float32)).tolist() == [0x7F, 0xFF]
    for element in (E3M2, E2M3, E2M1, INT8, INT4, UINT4):
        with pytest.raises(InputError, match=f"{element.name} cannot hold NaN"):
            element.encode(np.array([np.nan], np.float32))


def hif8_by_hand(code: int) -> float:
    """hardware.md 2, bit by bit: sign, dot, exponent (sign and magnitude), mantissa."""
    sign, body = (-1.0, code - 128) if code >= 128 else (1.0, code)
    if code == 0x80:
        return float("nan")
    if body == 0x6F:
        return sign * float("inf")
    if body >> 3 == 0:  # dot 0000: denormal
        return sign * 2.0 ** (body - 23) if body else 0.0
    if body >> 3 == 1:  # dot 0001, no exponent, mantissa 3
        return sign * (1 + (body & 7) / 8)
    if body >> 4 == 1:  # dot 001, exponent sign, magnitude 1, mantissa 3
        return sign * (1 + (body & 7) / 8) * 2.0 ** (-1 if body & 8 else 1)
    if body >> 5 == 1:  # dot 01, sign and one bit (2, 3), mantissa 3
        size = 2 + (body >> 3 & 1)
        return sign * (1 + (body & 7) / 8) * 2.0 ** (-size if body & 16 else size)
    if body >> 5 == 2:  # dot 10, sign and two bits (4 to 7), mantissa 2
        size = 4 + (body >> 2 & 3)
        return sign * (1 + (body & 3) / 4) * 2.0 ** (-size if body & 16 else size)
    size = 8 + (body >> 1 & 7)  # dot 11, sign and three bits (8 to 15), mantissa 1
    return sign * (1 + (body & 1) / 2) * 2.0 ** (-size if body & 16 else size)


def test_every_hif8_code_decodes_as_the_bit_layout_says() -> None:
    assert np.array_equal(VALUES, np.float32([hif8_by_hand(c) for c in range(256)]), True)
    finite = VALUES[np.isfinite(VALUES)]
    assert np.unique(finite).size == finite.size == 253  # 256 - NaN and two infinities: one zero
    assert (HIF8.max, HIF8.smallest) == (finite.max(), finite[finite > 0].min())


def test_hif8_covers_38_binades_with_three_two_one_and_no_mantissa_bits() -> None:
    positive = VALUES[:128][np.isfinite(VALUES[:128]) & (VALUES[:128] > 0)]
    exponents, per_binade = np.unique(np.frexp(positive)[1] - 1, return_counts=True)
    assert exponents.tolist() == list(range(-22, 16))
    wanted = [1] * 7 + [2] * 8 + [4] * 4 + [8] * 7 + [4] * 4 + [2] * 7 + [1]  # 1.5 * 2**15 is inf
    assert per_binade.tolist() == wanted


def test_every_hif8_tie_goes_away_from_zero() -> None:
    positive = np.sort(VALUES[:128][np.isfinite(VALUES[:128])])
    ties = (positive[:-1] + positive[1:]) / 2
    for sign in (1, -1):
        assert (HIF8.decode(HIF8.encode(sign * ties)) == sign * positive[1:]).all()
        below = HIF8.decode(HIF8.encode(sign * np.nextafter(ties, np.float32(0))))
        assert (below == sign * positive[:-1]).all()
        assert (HIF8.decode(HIF8.encode(sign * positive)) == sign * positive).all()


def test_hif8_overflows_to_infinity_and_keeps_nan() -> None:
    x = np.array([40959.99, 40960, np.inf, -np.inf, np.nan, -0.0], np.float32)
    assert HIF8.encode(x).tolist() == [0x6E, 0x6F, 0x6F, 0xEF, 0x80, 0]


@pytest.mark.parametrize(
    ("element", "lowest", "highest"), [(INT8, -127, 127), (INT4, -7, 7), (UINT4, 0, 15)]
)
def test_integers_are_twos_complement_symmetric_and_round_ties_to_even(
    element, lowest: int, highest: int
) -> None:
    whole = np.arange(lowest, highest + 1, dtype=np.float32)
    codes = element.encode(whole)
    assert codes.tolist() == [int(n) % 2**element.bits for n in whole]
    assert (element.decode(codes) == whole).all()
    ties = whole[:-1] + 0.5
    assert element.decode(element.encode(ties)).tolist() == [round(float(t)) for t in ties]
    far = np.array([1e9, -1e9, np.inf], np.float32)
    assert element.decode(element.encode(far)).tolist() == [highest, lowest, highest]


def test_bf16_as_an_element_is_ml_dtypes() -> None:
    with np.errstate(over="ignore"):
        theirs = SWEEP.astype(ml_dtypes.bfloat16)
    assert (BF16.encode(SWEEP) == theirs.view(np.uint16)).all()
    assert np.array_equal(BF16.decode(theirs.view(np.uint16)), theirs.astype(np.float32))
    assert (BF16.max, BF16.smallest) == (3.3895313892515355e38, 2.0**-133)
