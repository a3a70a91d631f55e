"""Every block format on random matrices: bounded error, and its own values come back unchanged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.formats import FORMATS, Format, dequantize, fidelity, quantize

# Half a step relative to the value, and half the smallest step in units of the scale. Integers have
# one step everywhere; HiF8's steps depend on the magnitude (below).
HALF_STEP = {
    "BF16": (2.0**-8, 0.0),
    "E4M3": (2.0**-4, 2.0**-10),
    "E5M2": (2.0**-3, 2.0**-17),
    "E3M2": (2.0**-3, 2.0**-5),
    "E2M3": (2.0**-4, 2.0**-4),
    "E2M1": (2.0**-2, 2.0**-2),
    "INT8": (0.0, 0.5),
    "INT4": (0.0, 0.5),
    "UINT4": (0.0, 0.5),
}
# |x| / scale from which on HiF8 has 3, 2, 1 and 0 mantissa bits (up to 15), and half a step there.
HIF8_STEPS = ((2.0**-3, 2.0**-4), (2.0**-7, 2.0**-3), (2.0**-15, 2.0**-2), (0.0, 2.0**-1))
EVERY_FORMAT = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Random matrices over many magnitudes, ragged against every block, some columns zero."""
    rows, columns = draw(st.integers(1, 140)), draw(st.integers(1, 300))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponents = generator.integers(-8, draw(st.integers(-7, 8)), (rows, columns))
    values = np.ldexp(generator.normal(size=(rows, columns)), exponents).astype(np.float32)
    values[:, generator.random(columns) < draw(st.sampled_from([0, 0.5]))] = 0
    return values


def per_value(of_block: np.ndarray, format: Format, shape: tuple[int, int]) -> np.ndarray:
    """A block's figure for each of its values, by index arithmetic."""
    height, width = format.block_shape(shape[1])
    rows, columns = np.arange(shape[0]) // height, np.arange(shape[1]) // width
    return of_block[rows][:, columns]


def half_step(x_OI: np.ndarray, step: np.ndarray, format: Format) -> np.ndarray:
    """The largest error that rounding to nearest can make."""
    if format.name == "hif8":
        scaled = np.abs(x_OI) / step
        relative = np.select([scaled >= low for low, _ in HIF8_STEPS], [r for _, r in HIF8_STEPS])
        return np.maximum(relative * np.abs(x_OI), step * 2.0**-23)
    relative, absolute = HALF_STEP[format.element.name]
    return np.maximum(np.abs(x_OI) * relative, step * absolute)


@EVERY_FORMAT
def test_errors_are_at_most_half_a_step_plus_what_lies_beyond_the_range(format) -> None:
    @settings(max_examples=25)
    @given(matrices())
    def check(x_OI: np.ndarray) -> None:
        quantized = quantize(x_OI, format)
        step = np.full(x_OI.shape, np.float64(quantized.tensor_scale))
        if quantized.scale_PQ is not None:
            step *= per_value(quantized.scale_PQ, format, x_OI.shape)
        zero = np.zeros(x_OI.shape)
        if quantized.zero_PQ is not None:
            zero = per_value(quantized.zero_PQ, format, x_OI.shape)
        lowest = (0 if format.zero_point else -format.element.max) - zero
        highest = format.element.max - zero
        beyond = np.maximum(np.maximum(x_OI - highest * step, lowest * step - x_OI), 0)
        error = np.abs(dequantize(quantized).astype(np.float64) - x_OI)
        # Quotient and product are rounded to float32 as well.
        slack = 2.0**-22 * (np.abs(x_OI) + step)
        assert (error <= half_step(x_OI, step, format) + beyond + slack).all()
        if format.scale in ("ue8m0_up", "fp32"):
            assert (beyond <= slack).all()

    check()


@EVERY_FORMAT
def test_bands_are_the_whole_cut_into_rows(format) -> None:
    """130 rows cross the edges of bands of 32 and of tiles of 128."""
    x_OI = np.random.default_rng(3).standard_normal((130, 70)).astype(np.float32)
    quantized = quantize(x_OI, format)
    parts = [dequantize(part) for _, part in quantized.bands()]
    assert np.concatenate(parts).tobytes() == dequantize(quantized).tobytes()
    assert fidelity(x_OI, quantized).count == x_OI.size


EXACT = [f for f in FORMATS.values() if f.scale.startswith("ue8m0") or f.name == "bf16"]


@pytest.mark.parametrize("format", EXACT, ids=lambda format: format.name)
def test_values_that_came_from_a_power_of_two_format_go_back_unchanged(format) -> None:
    @settings(max_examples=25)
    @given(matrices())
    def check(x_OI: np.ndarray) -> None:
        values = dequantize(quantize(x_OI, format))
        assert dequantize(quantize(values, format)).tobytes() == values.tobytes()

    check()


@EVERY_FORMAT
def test_a_power_of_two_in_front_changes_scales_only(format) -> None:
    """Scaling by 2**k is exact, so that the error of a format does not depend on the unit."""
    x_OI = np.random.default_rng(5).standard_normal((40, 130)).astype(np.float32)
    small, large = quantize(x_OI, format), quantize(x_OI * np.float32(8), format)
    if format.scale == "none" and not format.tensor_scale:
        assert (dequantize(large) == dequantize(small) * 8).all()
        return
    assert (large.codes_OI == small.codes_OI).all()
    assert large.zero_PQ is None or (large.zero_PQ == small.zero_PQ).all()
