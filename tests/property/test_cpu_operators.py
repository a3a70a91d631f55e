"""Backend cpu: every operator against its reference; guard bands; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stored import CPU, DTYPES, STORED, noise, stored, turns
from torch import Tensor

from dougong.conform.draw import Draw
from dougong.conform.kernels import error
from dougong.conform.operator_cases import MAKERS
from dougong.errors import BackendError, CheckpointError, ShapeError
from dougong.kernels.cpu.library import set_instruction_path
from dougong.kernels.paged import Span, Spans
from dougong.kernels.registry import operator_names, operators
from dougong.kernels.stored import StoredMatrix

REFERENCE = operators("reference")
GUARD, BAND = 64, 99  # elements before and behind a result; what they hold
# A row of their cases is a sample, a call of its own.
BY_SAMPLE = {"compress", "index_alignment", "cross_entropy"}
# float32 sums in another order: a few units in the last place of the largest term, over up to some
# hundred terms; bfloat16 results are rounded to 8 bits, and one rounding may fall the other way.
CLOSE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}
few = settings(max_examples=15, deadline=None)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def columns_of(dtype: str) -> st.SearchStrategy[int]:
    if dtype == "I8":
        return st.sampled_from([32, 64, 96, 160, 288])
    return st.integers(1, 300)


@few
@given(st.data())
def test_linear_equals_the_reference(data: st.DataObject) -> None:
    format_ = data.draw(st.sampled_from(STORED))
    rows, columns = data.draw(st.integers(1, 150)), data.draw(columns_of(format_))
    tokens = data.draw(st.sampled_from([0, 1, 2, 3, 5, 6, 7, 17, 40]))
    weight = stored(format_, rows, columns)
    for dtype in DTYPES:
        x = noise(tokens, columns, seed=1, dtype=dtype)
        want = REFERENCE.linear(x.float(), weight.dense())
        torch.testing.assert_close(CPU.linear(x, weight).float(), want, **CLOSE[dtype])
        wide = CPU.wide_linear(x, weight)
        assert wide.dtype == torch.float32
        torch.testing.assert_close(wide, want, **CLOSE[torch.float32])


@few
@given(st.data())
def test_rounded_linear_equals_the_reference(data: st.DataObject) -> None:
    format_ = data.draw(st.sampled_from(["F8_E4M3", "I8"]))
    columns = data.draw(columns_of(format_))
    weight, x = stored(format_, 40, columns), noise(5, columns, seed=1) * 10
    want = REFERENCE.linear(x, weight.dense(), rounded=True)
    got = CPU.linear(x, weight, rounded=True)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-4)  # x is ten times larger here


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("format_", STORED)
def test_grouped_projection_equals_the_reference(format_: str, groups: int) -> None:
    weight, o = stored(format_, 128 * groups, 96), noise(5, groups, 96, seed=1)
    want = REFERENCE.grouped_projection(o, weight.dense(), groups)
    torch.testing.assert_close(
        CPU.grouped_projection(o, weight, groups), want, **CLOSE[torch.float32]
    )


def test_dense_weights_need_no_stored_format() -> None:
    for dtype in DTYPES:
        x, w = noise(3, 70, dtype=dtype), noise(20, 70, seed=1, dtype=dtype)
        want = REFERENCE.linear(x.float(), w.float())
        torch.testing.assert_close(CPU.linear(x, w).float(), want, rtol=2e-2, atol=2e-2)


@few
@given(st.data())
def test_experts_equal_the_reference(data: st.DataObject) -> None:
    format_ = data.draw(st.sampled_from(STORED))
    size, inner = data.draw(st.sampled_from([(64, 32), (96, 160), (32, 64)]))
    num, top_k = 5, data.draw(st.integers(1, 3))
    tokens = data.draw(st.sampled_from([0, 1, 2, 9, 40]))
    limit, rounded = data.draw(st.sampled_from([0.0, 1.0])), data.draw(st.booleans())
    w1, w3 = stored(format_, inner, size, 1, num), stored(format_, inner, size, 20, num)
    w2 = stored(format_, size, inner, 40, num)
    x, weights = noise(tokens, size, seed=2) * 2, noise(tokens, top_k, seed=3).abs()
    picks = torch.rand(tokens, num, generator=torch.Generator().manual_seed(4))
    experts = picks.argsort(-1)[:, :top_k].contiguous()
    options = {"limit": limit, "rounded": rounded}
    want = REFERENCE.grouped_experts(
        x, weights, experts, w1.dense(), w3.dense(), w2.dense(), **options
    )
    got = CPU.grouped_experts(x, weights, experts, w1, w3, w2, **options)
    # an activation that differs in the last bit may be rounded to the next FP8 value
    close = {"rtol": 0.1, "atol": 0.1} if rounded else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(got, want.float(), **close)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shared_expert_equals_the_reference(dtype: torch.dtype) -> None:
    w1, w3, w2 = (stored("F8_E4M3", *shape) for shape in ((48, 64), (48, 64), (64, 48)))
    x, weight = noise(4, 64, dtype=dtype), noise(4).abs()
    for given_weight in (None, weight):
        want = REFERENCE.expert_mlp(
            x.float(), w1.dense(), w3.dense(), w2.dense(), given_weight, limit=10, rounded=False
        )
        got = CPU.expert_mlp(x, w1, w3, w2, given_weight, limit=10, rounded=False)
        torch.testing.assert_close(got, want, **CLOSE[dtype])


@few
@given(st.data())
def test_router_equals_the_reference(data: st.DataObject) -> None:
    num, tokens = data.draw(st.integers(2, 40)), data.draw(st.sampled_from([0, 1, 7, 30]))
    top_k = data.draw(st.integers(1, min(6, num)))
    x, weight = noise(tokens, 48), stored("BF16", num, 48)
    bias = noise(num, seed=3) if data.draw(st.booleans()) else None
    hashed = None
    if bias is None and data.draw(st.booleans()):
        hashed = torch.rand(tokens, num).argsort(-1)[:, :top_k].contiguous()
    options = {"top_k": top_k, "route_scale": 1.5}
    want, want_ids = REFERENCE.router(x, weight.dense(), bias, hashed, **options)
    got, got_ids = CPU.router(x, weight, bias, hashed, **options)
    assert torch.equal(got_ids, want_ids)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_router_gives_ties_to_the_lowest_index() -> None:
    weight = torch.ones(9, 4)
    _, experts = CPU.router(torch.ones(1, 4), weight, None, None, top_k=3, route_scale=1.0)
    assert experts.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "streams", "size"), [(0, 4, 16), (1, 4, 37), (9, 2, 64)])
def test_mhc_equals_the_reference(tokens: int, streams: int, size: int, dtype: torch.dtype) -> None:
    rows = streams * (2 + streams)
    h = noise(tokens, streams, size, dtype=dtype)
    fn, base, scale = noise(rows, streams * size, seed=1) * 0.1, noise(rows, seed=2), noise(3)
    options = {"hc_eps": 1e-6, "norm_eps": 1e-6}
    want = REFERENCE.mhc_pre(h, fn, base, scale, iterations=20, **options)
    got = CPU.mhc_pre(h, fn, base, scale, iterations=20, **options)
    torch.testing.assert_close(got[0].float(), want[0].float(), **CLOSE[dtype])
    for ours, theirs in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    y = noise(tokens, size, seed=5, dtype=dtype)
    torch.testing.assert_close(
        CPU.mhc_post(y, h, *got[1:]).float(),
        REFERENCE.mhc_post(y, h, *want[1:]).float(),
        **CLOSE[dtype],
    )
    head = (fn[:streams].contiguous(), base[:streams].contiguous(), scale[:1])
    torch.testing.assert_close(
        CPU.mhc_head(h, *head, **options).float(),
        REFERENCE.mhc_head(h, *head, **options).float(),
        **CLOSE[dtype],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "size", "pairs"), [(0, 32, 8), (1, 38, 4), (5, 128, 32)])
def test_norms_with_rope_equal_the_reference(
    tokens: int, size: int, pairs: int, dtype: torch.dtype
) -> None:
    x, weight, turn = noise(tokens, size, dtype=dtype), noise(size, seed=1), turns(tokens, pairs)
    q = noise(tokens, 3, size, dtype=dtype)
    calls: list[Callable[..., Tensor]] = [
        lambda ops: ops.rms_norm(x, weight, 1e-6),
        lambda ops: ops.norm_rope_q(q, turn, 1e-6),
        lambda ops: ops.norm_rope_kv(x, weight, turn, 1e-6, rounded=False),
        lambda ops: ops.rope_index_q(q, turn, rounded=False),
    ]
    for call in calls:
        got, want = call(CPU), call(REFERENCE)
        assert got.dtype == want.dtype == dtype
        torch.testing.assert_close(got.float(), want.float(), **CLOSE[dtype])


def test_cache_rounding_equals_the_reference_but_for_ties() -> None:
    x, weight, turn = noise(50, 128) * 30, noise(128, seed=1), turns(50, 16)
    for ours, theirs in (
        (
            CPU.norm_rope_kv(x, weight, turn, 1e-6, rounded=True),
            REFERENCE.norm_rope_kv(x, weight, turn, 1e-6, rounded=True),
        ),
        (
            CPU.rope_index_q(x[:, None], turn, rounded=True),
            REFERENCE.rope_index_q(x[:, None], turn, rounded=True),
        ),
    ):
        # rounding hides what differs in the last bits, unless a value is at the very border
        assert ((ours - theirs).abs() < 1e-5).float().mean() > 0.995


class Guarded:
    """Stands for torch.empty, empty_like and zeros: results of NaN (zeros) between guard bands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.buffers: list[Tensor] = []
        self.full = torch.full
        monkeypatch.setattr(torch, "empty", self.empty)
        monkeypatch.setattr(torch, "empty_like", lambda x: self.empty(x.shape, dtype=x.dtype))
        monkeypatch.setattr(torch, "zeros", self.zeros)

    def empty(
        self, *shape: Any, dtype: torch.dtype = torch.float32, device: object = None
    ) -> Tensor:
        return self._inside(shape, float("nan") if dtype.is_floating_point else BAND, dtype)

    def zeros(self, *shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._inside(shape, 0, dtype)

    def _inside(self, shape: tuple[Any, ...], value: float, dtype: torch.dtype) -> Tensor:
        size = shape if not shape or isinstance(shape[0], int) else tuple(shape[0])
        count = int(np.prod(size))
        buffer = self.full((count + 2 * GUARD,), BAND, dtype=dtype)
        buffer[GUARD : GUARD + count] = value
        self.buffers.append(buffer)
        return buffer[GUARD : GUARD + count].view(size)

    def untouched(self) -> bool:
        """Whether all bands are what they were."""
        bands = [band for x in self.buffers for band in (x[:GUARD], x[-GUARD:])]
        return all(bool((band == BAND).all()) for band in bands)


@pytest.mark.parametrize("operator", sorted({*operator_names()} - {"index_alignment"}))
def test_results_fill_their_tensors_and_nothing_else(operator: str) -> None:
    # index_alignment is the trainer's: one number, which is checked there
    cases = [make(Draw(5), rows) for rows in (1, 17) for make in MAKERS[operator]]
    counted = 0
    for case in cases:
        with pytest.MonkeyPatch.context() as monkeypatch:
            guarded = Guarded(monkeypatch)
            results = case.run(CPU)
        assert error(results, case.expected(CPU, REFERENCE), case.close)[1] is None, case.about
        assert guarded.untouched(), case.about
        counted += len(guarded.buffers)
    assert counted >= len(cases)


@pytest.mark.parametrize("operator", [name for name in operator_names() if name not in BY_SAMPLE])
def test_no_rows_give_no_rows(operator: str) -> None:
    for make in MAKERS[operator]:
        case = make(Draw(5), 17)
        whole, none = case.run(CPU), case.run(CPU, 0, 0)
        assert [x.shape for x in none] == [(0, *x.shape[1:]) for x in whole], case.about


def test_no_selection_depends_on_what_an_earlier_one_left_in_scratch_memory() -> None:
    """An odd head size is padded to pairs: 0 times a NaN left behind would be NaN."""
    (make,) = MAKERS["index_select"]
    cases = [make(Draw(seed), 17) for seed in range(80)]
    chosen = [
        case for case in cases if int(case.about.split()[0]) * 3 < case.inputs["keys"].shape[0]
    ]
    poisoned = [case for case in chosen if case.about.endswith("of 64, float32")]
    odd = [case for case in chosen if case.about.endswith("of 33, float32")]
    assert poisoned
    assert odd
    for case in odd:
        for other in poisoned:
            other.inputs["keys"].fill_(torch.nan)
            other.run(CPU)
        assert error(case.run(CPU), case.expected(CPU, REFERENCE), 0)[1] is None, case.about


def test_denormals_do_not_change_the_callers_arithmetic() -> None:
    tiny = torch.full((4,), 1e-40)
    CPU.linear(noise(3, 32), stored("F32", 8, 32))
    assert (tiny * 1.0 != 0).all()


def test_bad_input_is_refused_with_what_was_expected() -> None:
    weight = stored("F8_E4M3", 8, 64)
    with pytest.raises(ShapeError, match=r"x \[3, 63\] does not fit a weight \[8, 64\]"):
        CPU.linear(noise(3, 63), weight)
    with pytest.raises(ShapeError, match="float64"):
        CPU.linear(noise(3, 64).double(), weight)
    experts = torch.tensor([[0, 9]])
    stack = [stored("F32", *s, 0, 2) for s in ((8, 64), (8, 64), (64, 8))]
    with pytest.raises(ShapeError, match="indices 0 to 9"):
        CPU.grouped_experts(
            noise(1, 64), torch.ones(1, 2), experts, *stack, limit=0.0, rounded=False
        )
    with pytest.raises(ShapeError, match="9 rope pairs"):
        CPU.attention(
            noise(1, 2, 16), noise(1, 16), Spans([Span(0, 1, 0)]), None, None, noise(2),
            turns(1, 9), ring=None, window=4, ratio=0,
        )  # fmt: skip
    with torch.inference_mode(False), pytest.raises(BackendError, match="no gradients"):
        CPU.linear(torch.randn(3, 64, requires_grad=True), weight)
    with pytest.raises(BackendError, match="abacus"):
        set_instruction_path("abacus")


def test_weights_that_cannot_be_computed_with_are_refused() -> None:
    codes, scale = np.zeros((4, 64), np.uint8), np.full((1, 1), 127, np.uint8)
    with pytest.raises(CheckpointError, match="scales 3 to 3"):
        StoredMatrix("F8_E4M3", [codes], [scale * 0 + 3])
    codes[2, 5] = 0x7F
    with pytest.raises(CheckpointError, match="NaN"):
        StoredMatrix("F8_E4M3", [codes], [scale])
    with pytest.raises(ShapeError, match="scales"):
        StoredMatrix("I8", [np.zeros((4, 16), np.uint8)], [np.zeros((4, 2), np.uint8)])


@pytest.mark.parametrize(("format_", "low", "high"), [("F8_E4M3", 10, 246), ("I8", 2, 252)])
def test_every_code_at_every_accepted_scale_is_exact(format_: str, low: int, high: int) -> None:
    codes = np.arange(256, dtype=np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    data = np.tile(codes if format_ == "F8_E4M3" else codes[:16], (1, 1))
    columns = 256 if format_ == "F8_E4M3" else 32
    for byte in (low, 127, high):
        shape = (1, 2) if format_ == "F8_E4M3" else (1, 1)
        weight = StoredMatrix(format_, [data], [np.full(shape, byte, np.uint8)])
        # one-hot rows read every value; scaled by a power of two so that no sum overflows
        for dtype in DTYPES:
            got = CPU.wide_linear(torch.eye(columns).to(dtype), weight)[:, 0]
            assert torch.equal(got, weight.dense()[0]), (byte, dtype)
