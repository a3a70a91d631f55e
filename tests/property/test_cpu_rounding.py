"""Backend cpu rounds as the reference does, bit for bit, at every rounding point of the release.

What comes before a rounding (a norm, a product) may differ from the reference in its last bits. So
each operator is compared with itself: rounded, and not rounded but then rounded by the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.stored import CPU, noise, stored, turns
from torch import Tensor

from dougong.errors import BackendError
from dougong.formats import fp8_block
from dougong.kernels.compressor import round_index_vector
from dougong.kernels.cpu.library import PATHS, instruction_path, set_instruction_path
from dougong.kernels.cpu.streams import FP4_INDEX, FP8_CACHE, norm_rope
from dougong.kernels.paged import Span, Spans
from dougong.kernels.rounding import LINEAR_GROUP, round_cache_entry, round_e4m3
from dougong.kernels.stored import StoredMatrix

some = settings(max_examples=20)
few = settings(max_examples=10)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def available_paths() -> list[str]:
    before, found = instruction_path(), []
    for path in PATHS:
        try:
            set_instruction_path(path)
        except BackendError:
            continue
        found.append(path)
    set_instruction_path(before)
    return found


@pytest.fixture(params=available_paths(), autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    before = instruction_path()
    set_instruction_path(request.param)
    yield
    set_instruction_path(before)


def same_bits(got: Tensor, want: Tensor) -> None:
    """Equal to the last bit, the sign of zero included."""
    kind = torch.int32 if got.dtype == torch.float32 else torch.int16
    assert got.dtype == want.dtype
    differs = got.contiguous().view(kind) != want.contiguous().view(kind)
    assert not differs.any(), (got[differs], want[differs])


# Ties of FP4 and of FP8 (odd multiples of half a step), the largest codes, their neighbours in
# float32, denormals, and zeros of both signs.
TIES = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 1.0625, 1.1875, 2**-10, 3 * 2**-10]
LARGEST = [240.0, 448.0, 464.0, 2**-6 - 2**-10]
SMALL = [1e-4, 0.0, -0.0, 2.0**-126, 2.0**-127, 3 * 2.0**-128, 2.0**-149]
NEIGHBOURS = [float(np.nextafter(np.float32(x), np.float32(s)))
              for x in TIES + LARGEST for s in (0, 1e3)]  # fmt: skip
EDGES = TIES + LARGEST + SMALL + NEIGHBOURS


def values(*shape: int, largest: float = 2.0**120) -> st.SearchStrategy[Tensor]:
    """Arrays of edges and of any floats, times one power of two a row."""
    some_float = st.sampled_from(EDGES) | st.floats(-1e3, 1e3, width=32)
    signed = st.builds(lambda x, minus: -x if minus else x, some_float, st.booleans())
    rows = arrays(np.float32, shape, elements=signed, fill=st.just(0.0))
    exponents = st.sampled_from([-149, -140, -126, -120, -30, -12, -1, 0, 3, 40, 108])

    def scaled(x: np.ndarray, exponent: int) -> Tensor:
        wide = np.ldexp(x.astype(np.float64), exponent).clip(-largest, largest)
        return torch.from_numpy(wide.astype(np.float32))

    return st.builds(scaled, rows, exponents)


@some
@given(st.data())
def test_fp8_of_cache_entries_is_the_references(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 7, 64, 65, 128, 200]))
    x = data.draw(values(2, size))
    same_bits(norm_rope(x, None, None, -1.0, rounding=FP8_CACHE), round_cache_entry(x, 0))
    half = x.bfloat16()
    same_bits(norm_rope(half, None, None, -1.0, rounding=FP8_CACHE), round_cache_entry(half, 0))


@some
@given(st.data())
def test_fp4_of_index_vectors_is_the_references(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 2, 16, 32, 64, 128]))
    x = data.draw(values(2, size))
    same_bits(norm_rope(x, None, None, -1.0, rounding=FP4_INDEX), round_index_vector(x))
    half = x.bfloat16()
    same_bits(norm_rope(half, None, None, -1.0, rounding=FP4_INDEX), round_index_vector(half))


def test_nothing_but_a_number_becomes_a_number() -> None:
    for odd in (float("nan"), float("inf"), -float("inf")):
        x = torch.ones(1, 64)
        x[0, 5] = odd
        for rounding in (FP8_CACHE, FP4_INDEX):
            assert not norm_rope(x, None, None, -1.0, rounding=rounding)[0, 5].isfinite()


@few
@given(st.data())
def test_entries_leave_their_operators_rounded_as_the_reference_rounds(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    tokens, pairs = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([4, 16, 32]))
    size = data.draw(st.sampled_from([64, 128]))
    seed = data.draw(st.integers(0, 999))
    pooled, weight = noise(tokens, size, seed=seed) * 30, noise(size, seed=1)
    kv, q = pooled.to(dtype), noise(tokens, 3, size, seed=seed + 1, dtype=dtype)
    turn = turns(tokens, pairs, seed)

    def finish(rounded: bool, index: bool) -> Tensor:
        # blocks of tokens that are all alike pool to what they are
        value = pooled.repeat_interleave(128, 0)
        entries: Tensor = CPU.compress(
            value,
            torch.zeros_like(value),
            torch.zeros(128, size),
            weight,
            turn,
            Spans([Span(0, len(value), 0)]),
            eps=1e-6,
            ring=None,
            place=None,
            dtype=dtype,
            rounded=rounded,
            index=index,
        )
        return entries

    points: list[tuple[Callable[[bool], Tensor], Callable[[Tensor], Tensor]]] = [
        (lambda rounded: CPU.norm_rope_kv(kv, weight, turn, 1e-6, rounded=rounded),
         lambda x: round_cache_entry(x, 2 * pairs)),
        (lambda rounded: finish(rounded, index=False), lambda x: round_cache_entry(x, 2 * pairs)),
        (lambda rounded: finish(rounded, index=True), round_index_vector),
        (lambda rounded: CPU.rope_index_q(q, turn, rounded=rounded), round_index_vector),
    ]  # fmt: skip
    for operator, rounds in points:
        same_bits(operator(True), rounds(operator(False)))


def identity(dtype: str, size: int, experts: int = 0) -> StoredMatrix:
    """The unit matrix in a stored format: what goes in comes out, exactly."""
    unit = np.eye(size, dtype=np.float32)
    count = max(experts, 1)
    if dtype == "F8_E4M3":
        codes, scales = fp8_block.quantize(unit)
        bits = (scales.view(np.uint32) >> 23).astype(np.uint8)
        return StoredMatrix(dtype, [codes] * count, [bits] * count, stacked=experts > 0)
    bf16 = (unit.view(np.uint32) >> 16).astype(np.uint16)
    return StoredMatrix("BF16", [bf16] * count, stacked=experts > 0)


@some
@given(st.data())
def test_activations_enter_a_quantized_product_rounded_as_the_reference_rounds(
    data: st.DataObject,
) -> None:
    size = data.draw(st.sampled_from([1, 64, 128, 130, 300]))
    tokens = data.draw(st.sampled_from([1, 2, 3, 7]))
    x = data.draw(values(tokens, size, largest=2.0**110))
    for row in (x, x.bfloat16()):
        got = CPU.linear(row, identity("F8_E4M3", size), rounded=True)
        assert torch.equal(got, round_e4m3(row, LINEAR_GROUP))  # a sum has no -0


@few
@given(st.data())
def test_the_experts_hidden_values_are_rounded_as_the_reference_rounds(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([32, 128, 160]))
    tokens = data.draw(st.sampled_from([1, 3, 20]))
    limit, seed = data.draw(st.sampled_from([0.0, 2.0])), data.draw(st.integers(0, 999))
    x = round_e4m3(noise(tokens, size, seed=seed, dtype=torch.bfloat16) * 2, LINEAR_GROUP)
    w1, w3 = stored("I8", size, size, 3, 2), stored("I8", size, size, 9, 2)
    weights, experts = noise(tokens, 1, seed=5).abs(), torch.arange(tokens)[:, None] % 2

    def hidden(w2: StoredMatrix, rounded: bool) -> Tensor:
        return CPU.grouped_experts(
            x, weights, experts, w1, w3, w2, limit=limit, rounded=rounded
        ).bfloat16()

    # x is rounded already and rounding it again changes nothing, so only the hidden values differ
    exact, rounded = identity("BF16", size, 2), identity("F8_E4M3", size, 2)
    assert torch.equal(hidden(rounded, True), round_e4m3(hidden(exact, False), LINEAR_GROUP))
