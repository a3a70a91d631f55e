"""How cache entries are written: sizes, exact bytes, and that rounded ones lose nothing."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.stored import CPU, noise
from torch import Tensor

from dougong.config import V4Config, load_config
from dougong.errors import ShapeError
from dougong.kernels.compressor import round_index_vector
from dougong.kernels.entries import EntryFormat
from dougong.kernels.paged import BlockPool, Place, RequestMemory, Span, Spans
from dougong.kernels.rounding import INDEX_GROUP, round_cache_entry, round_e2m1
from dougong.model.layout import StateLayout
from dougong.model.state import RequestState
from dougong.plan.kv import kv_bytes, kv_bytes_per_token

ENTRY, KEY = EntryFormat("fp8", 512, 64), EntryFormat("fp4", 128)
BF16 = torch.bfloat16
# everything that a rounding can meet: zeros of both signs, tiny, huge, and neighbours of ties
values = st.one_of(
    st.floats(-1e4, 1e4, width=32),
    st.sampled_from([0.0, -0.0, 1e-30, -1e-5, 448.0, 449.0, 6.0, 3.0000002, 0.25, 1.75]),
)


def rows(width: int, **options: object) -> st.SearchStrategy[Tensor]:
    return arrays(np.float32, (2, width), elements=values, **options).map(torch.from_numpy)


def layout(preset: str, *, rounded: bool) -> StateLayout:
    config = load_config(preset)
    assert isinstance(config, V4Config)
    return StateLayout(config, BF16, rounded=rounded)


def test_the_released_shapes_take_584_and_68_bytes() -> None:
    assert (ENTRY.nbytes, KEY.nbytes) == (584, 68)


@pytest.mark.parametrize(("preset", "per_token"), [("v4-flash", 3514), ("v4-pro", 5031)])
def test_a_token_takes_the_bytes_that_inspect_predicts(preset: str, per_token: int) -> None:
    config = load_config(preset)
    release, plain = layout(preset, rounded=True), layout(preset, rounded=False)
    assert release.bytes_per_token == kv_bytes_per_token(config)
    assert int(release.bytes_per_token) == per_token
    assert plain.bytes_per_token == kv_bytes_per_token(config, "bf16", "bf16")


@pytest.mark.parametrize("preset", ["v4-flash", "v4-pro", "m97", "nano"])
def test_memory_grows_by_exactly_the_predicted_bytes(preset: str) -> None:
    config, state = load_config(preset), RequestState(layout(preset, rounded=True))
    held = {}
    for length in (4096, 36864):
        state.reserve(length - state.length)
        state.advance(length - state.length)
        held[length] = state.num_bytes
    grown = kv_bytes(config, 36864) - kv_bytes(config, 4096)
    assert held[36864] - held[4096] == grown == 32768 * kv_bytes_per_token(config)
    assert state.pool.used_bytes == 36864 * kv_bytes_per_token(config)


@settings(max_examples=100, deadline=None)
@given(rows(128))
def test_rounded_entries_come_back_equal(x: Tensor) -> None:
    entry = EntryFormat("fp8", 128, 32)
    rounded = round_cache_entry(x.to(BF16), 32)
    back = entry.unpack(entry.pack(rounded), BF16)
    assert torch.equal(back, rounded)
    assert torch.equal(back.signbit(), rounded.signbit())
    key = EntryFormat("fp4", 128)
    for dtype in (BF16, torch.float32):
        for vector in (round_e2m1(x.to(dtype), INDEX_GROUP), round_index_vector(x.to(dtype))):
            assert torch.equal(key.unpack(key.pack(vector), dtype), vector)


@settings(max_examples=30, deadline=None)
@given(rows(96))
def test_bytes_are_those_of_another_implementation_of_the_formats(x: Tensor) -> None:
    rounded = round_cache_entry(x.to(BF16), 16)  # 80 codes in a group of 64 and one of 16
    row = EntryFormat("fp8", 96, 16).pack(rounded).numpy()
    assert row.shape == (2, 120)  # 80 + 32 + 2, padded to a multiple of 8
    scale = row[:, 112:114].view(ml_dtypes.float8_e8m0fnu).astype(np.float32).repeat(64, 1)[:, :80]
    codes = row[:, :80].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(codes * scale, rounded[:, :80].float().numpy())
    rope = row[:, 80:112].copy().view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(rope, rounded[:, 80:].float().numpy())
    assert not row[:, 114:].any()
    key = round_e2m1(x, INDEX_GROUP)
    packed = EntryFormat("fp4", 96).pack(key).numpy()
    nibbles = np.stack([packed[:, :48] & 15, packed[:, :48] >> 4], -1).reshape(2, 96)
    e2m1 = nibbles.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    scale = packed[:, 48:].view(ml_dtypes.float8_e8m0fnu).astype(np.float32).repeat(32, 1)
    assert np.array_equal(e2m1 * scale, key.numpy())


@settings(max_examples=30, deadline=None)
@given(rows(128), st.integers(0, 300))
def test_backend_cpu_writes_the_bytes_of_the_reference(x: Tensor, start: int) -> None:
    rounded = round_cache_entry(x.to(BF16), 64)
    ring = Place(EntryFormat("fp8", 128, 64), 0, 5)
    memory = RequestMemory(BlockPool(0), 5 * ring.format.nbytes)
    with torch.inference_mode():
        CPU.remember(rounded, Spans([Span(0, 2, start, memory)]), ring)
    assert torch.equal(memory.ring(ring, start, start + 2), ring.format.pack(rounded))


def test_entries_of_another_width_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[1, 100\], expected \[N, 512\]"):
        ENTRY.pack(noise(1, 100))
