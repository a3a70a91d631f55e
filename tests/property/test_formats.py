"""Block formats: bounded error, and values that came from a format go back into it unchanged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dougong.formats import e2m1, e4m3, fp4_block, fp8_block, ue8m0

SCALES = st.integers(0, 245)  # above, 448 times the scale is no float32


@st.composite
def matrices(draw: st.DrawFn, column_multiple: int) -> np.ndarray:
    """Random matrices over many magnitudes, ragged against 128 unless asked otherwise."""
    rows = draw(st.integers(1, 150))
    columns = draw(st.integers(1, 300 // column_multiple)) * column_multiple
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponents = generator.integers(-30, draw(st.integers(-29, 30)), (rows, columns))
    return np.ldexp(generator.normal(size=(rows, columns)), exponents).astype(np.float32)


@pytest.mark.parametrize(
    ("block", "multiple", "step"),
    [
        # Rounding to nearest is off by half a step of the largest value: 2**-4 of it for 3 mantissa
        # bits, 2**-2 for 1; below the smallest normal number, half the smallest number.
        (fp8_block, 1, (2**-4, 2**-10)),
        (fp4_block, 32, (2**-2, 2**-2)),
    ],
)
def test_quantizing_is_off_by_at_most_half_a_step(block, multiple, step) -> None:
    relative, absolute = step

    @given(matrices(multiple))
    def check(w_OI: np.ndarray) -> None:
        codes, scale = block.quantize(w_OI)
        got = block.dequantize(codes, scale)
        if block is fp8_block:
            per_value = np.repeat(np.repeat(scale, 128, 0), 128, 1)[: len(w_OI), : w_OI.shape[1]]
        else:
            per_value = np.repeat(scale, 32, 1)
        bound = np.maximum(np.abs(w_OI) * relative, per_value * absolute)
        assert (np.abs(got - w_OI) <= bound).all()
        assert (np.abs(w_OI) / per_value <= (448 if block is fp8_block else 6)).all()

    check()


@given(st.data())
def test_fp8_values_survive_being_quantized_again_whatever_scale_they_had(data) -> None:
    shape = data.draw(st.tuples(st.integers(1, 140), st.integers(1, 140)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 256, shape, np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0  # NaN
    scale_codes = data.draw(arrays(np.uint8, fp8_block.scale_shape(*shape), elements=SCALES))
    values = fp8_block.dequantize(codes, ue8m0.decode(scale_codes))
    again = fp8_block.dequantize(*fp8_block.quantize(values))
    assert again.tobytes() == values.tobytes()


@given(st.data())
def test_fp4_values_survive_being_quantized_again_whatever_scale_they_had(data) -> None:
    rows, blocks = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 4)))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    packed = generator.integers(0, 256, (rows, blocks * 16), np.uint8)
    scale_codes = data.draw(arrays(np.uint8, (rows, blocks), elements=SCALES))
    values = fp4_block.dequantize(packed, ue8m0.decode(scale_codes))
    again = fp4_block.dequantize(*fp4_block.quantize(values))
    assert again.tobytes() == values.tobytes()


@pytest.mark.parametrize("codec", [e4m3, e2m1])
def test_no_other_code_is_nearer(codec) -> None:
    """Against a search of the whole table, on any float32."""
    element = e4m3.E4M3 if codec is e4m3 else e2m1.E2M1
    finite = element.values[np.isfinite(element.values)].astype(np.float64)

    @given(arrays(np.float32, 20, elements=st.floats(-1000, 1000, width=32)))
    def check(x: np.ndarray) -> None:
        clipped = np.clip(x.astype(np.float64), -codec.MAX, codec.MAX)
        nearest = np.abs(finite[None] - clipped[:, None]).min(axis=1)
        assert (np.abs(codec.decode(codec.encode(x)) - clipped) == nearest).all()

    check()
