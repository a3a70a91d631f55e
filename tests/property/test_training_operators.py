"""Backend training: values and gradients of every operator against autograd of the reference.

The reference runs in float64, so what differs is float32 rounding alone: a few hundred terms of
about 1 are summed, each off by 2^-24, and a gradient passes a handful of such sums. 2e-5 of the
largest element leaves room for all of them; a wrong term is off by far more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dougong.kernels.cpu.library import set_instruction_path
from dougong.kernels.experts import counted_clamps
from dougong.kernels.paged import Span, Spans
from dougong.kernels.registry import operators
from dougong.kernels.rotary import rotations
from dougong.kernels.training.muon import muon_step

TRAINING, REFERENCE = operators("training"), operators("reference")
CLOSE = 2e-5
LENGTHS = [3, 40, 1, 150, 8, 66]  # shorter than an entry, longer than the window and a block
TOKENS, HEADS, CHANNELS, PAIRS, STREAMS, SIZE = sum(LENGTHS), 3, 40, 8, 4, 24
Case = tuple[Callable[..., Any], dict[str, Tensor]]


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator)


def turns(tokens: int) -> Tensor:
    return rotations(torch.linspace(1.0, 0.01, PAIRS), torch.arange(tokens))


def mixing(rows: int, scales: int) -> dict[str, Tensor]:
    return {
        "streams": noise(TOKENS, STREAMS, SIZE),
        "fn": noise(rows, STREAMS * SIZE) / 10,
        "base": noise(rows),
        "scale": 1 + noise(scales) / 4,
    }


def spans() -> Spans:
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    return Spans([Span(end - n, end, 0) for end, n in zip(ends, LENGTHS, strict=True)])


def selection() -> Tensor:
    """Five entries a query in the longest sample, every visible one elsewhere: [T, 16]."""
    rows = []
    for length in LENGTHS:
        queries = torch.arange(length)[:, None]
        chosen = torch.arange(16).expand(length, -1)
        if length == 150:
            chosen = ((queries * 7 + torch.arange(5) * 11) % 37).sort(-1).values
            chosen = torch.cat([torch.full((length, 11), -1), chosen], 1)
        rows.append(chosen.masked_fill(chosen >= (queries + 1) // 4, -1))
    return torch.cat(rows)


def attention_inputs(ratio: int) -> dict[str, Tensor]:
    inputs = {"q": noise(TOKENS, HEADS, CHANNELS), "kv": noise(TOKENS, CHANNELS)}
    if ratio:
        inputs["entries"] = noise(sum(n // ratio for n in LENGTHS), CHANNELS)
    return inputs | {"sink": noise(HEADS)}


def attend(ratio: int, chosen: Tensor | None = None) -> Callable[..., Any]:
    def call(ops: Any, q: Tensor, kv: Tensor, *rest: Tensor) -> Tensor:
        entries, sink = rest if ratio else (None, rest[0])
        options = {"ring": None, "window": 30, "ratio": ratio}
        result: Tensor = ops.attention(
            q, kv, spans(), entries, chosen, sink, turns(TOKENS), **options
        )
        return result

    return call


def align(top_k: int | None) -> Case:
    def call(ops: Any, index_q: Tensor, weight: Tensor, keys: Tensor) -> Tensor:
        main = [x.to(keys.dtype) for x in attention_inputs(4).values()]
        options = {"lengths": LENGTHS, "window": 30, "ratio": 4, "shortest": 5, "top_k": top_k}
        loss: Tensor = ops.index_alignment(*main, index_q, weight, keys, **options)
        return loss

    entries = sum(n // 4 for n in LENGTHS)
    return call, {
        "index_q": noise(TOKENS, 2, 16),
        "weight": noise(TOKENS, 2),
        "keys": noise(entries, 16) / 4,
    }


def mhc(ops: Any, streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor) -> Any:
    options = {"iterations": 20, "hc_eps": 1e-6, "norm_eps": 1e-6}
    return ops.mhc_pre(streams, fn, base, scale, **options)


def experts(ops: Any, x: Tensor, weights: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Any:
    chosen = torch.stack([torch.arange(TOKENS) % 5, (torch.arange(TOKENS) // 3 % 4 + 1) % 5 + 1], 1)
    return ops.grouped_experts(x, weights, chosen, w1, w3, w2, limit=1.5, rounded=False)


def own_expert(ops: Any, x: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Any:
    return ops.expert_mlp(x, w1, w3, w2, None, limit=0.0, rounded=False)


def entropy(ops: Any, x: Tensor, head: Tensor) -> Any:
    target = (torch.arange(TOKENS) * 31) % 77
    weight = (torch.arange(TOKENS) % 3).to(x.dtype)
    return ops.cross_entropy(x, head, target, weight)


def compress(ops: Any, value: Tensor, score: Tensor, ape: Tensor, weight: Tensor) -> Any:
    entries = sum(n // ape.shape[0] for n in LENGTHS)
    options = {"dtype": value.dtype, "rounded": False, "index": False, "ring": None, "place": None}
    return ops.compress(value, score, ape, weight, turns(entries), spans(), eps=1e-6, **options)


def compressed(ratio: int) -> Case:
    width = SIZE * (2 if ratio == 4 else 1)
    return compress, {
        "value": noise(TOKENS, width),
        "score": noise(TOKENS, width, seed=1),
        "ape": noise(ratio, width),
        "weight": noise(SIZE),
    }


def expert_weights(count: int) -> dict[str, Tensor]:
    """The last of the experts, where there are several, gets no token."""
    shape = (SIZE, 20) if count == 1 else (count, SIZE, 20)
    back = (20, SIZE) if count == 1 else (count, 20, SIZE)
    return {
        "w1": noise(*back) / 4,
        "w3": noise(*back, seed=1) / 4,
        "w2": noise(*shape) / 4,
    }


CASES: dict[str, Case] = {
    "linear": (
        lambda o, x, w: o.linear(x, w),
        {"x": noise(5, TOKENS, SIZE), "w": noise(35, SIZE)},
    ),
    "grouped_projection": (
        lambda o, x, w: o.grouped_projection(x, w, 2),
        {"x": noise(TOKENS, 4, SIZE), "w": noise(14, 2 * SIZE)},
    ),
    "rms_norm": (
        lambda o, x, w: o.rms_norm(x, w, 1e-6),
        {"x": noise(TOKENS, 3, CHANNELS), "w": noise(CHANNELS)},
    ),
    "norm_rope_q": (
        lambda o, x: o.norm_rope_q(x, turns(TOKENS), 1e-6),
        {"x": noise(TOKENS, HEADS, CHANNELS)},
    ),
    "norm_rope_kv": (
        lambda o, x, w: o.norm_rope_kv(x, w, turns(TOKENS), 1e-6, rounded=False),
        {"x": noise(TOKENS, CHANNELS), "w": noise(CHANNELS)},
    ),
    "mhc_pre": (mhc, mixing(STREAMS * (2 + STREAMS), 3)),
    "mhc_pre, 3 streams of 24": (
        mhc,
        {"s": noise(TOKENS, 3, SIZE), "f": noise(15, 72) / 9, "b": noise(15), "c": noise(3)},
    ),
    "mhc_head": (
        lambda o, *x: o.mhc_head(*x, hc_eps=1e-6, norm_eps=1e-6),
        mixing(STREAMS, 1),
    ),
    "mhc_post": (
        lambda o, *x: o.mhc_post(*x),
        {
            "y": noise(TOKENS, 32),
            "streams": noise(TOKENS, STREAMS, 32),
            "post": noise(STREAMS, TOKENS),
            "comb": noise(STREAMS, STREAMS, TOKENS),
        },
    ),
    "mhc_post, 2 streams of 24": (
        lambda o, *x: o.mhc_post(*x),
        {
            "y": noise(TOKENS, SIZE),
            "streams": noise(TOKENS, 2, SIZE),
            "post": noise(2, TOKENS),
            "comb": noise(2, 2, TOKENS),
        },
    ),
    "compress, overlapping": compressed(4),
    "compress": compressed(32),
    "grouped_experts": (
        experts,
        {"x": noise(TOKENS, SIZE), "weights": noise(TOKENS, 2), **expert_weights(7)},
    ),
    "expert_mlp": (own_expert, {"x": noise(TOKENS, SIZE), **expert_weights(1)}),
    "attention, window": (attend(0), attention_inputs(0)),
    "attention, all entries": (attend(4), attention_inputs(4)),
    "attention, long blocks": (attend(128), attention_inputs(128)),
    "attention, selected": (attend(4, selection()), attention_inputs(4)),
    "index_alignment, dense": align(None),
    "index_alignment, selected": align(5),
    "cross_entropy": (entropy, {"x": noise(TOKENS, SIZE), "head": noise(77, SIZE)}),
}


def results(ops: Any, case: Case, dtype: torch.dtype) -> list[Tensor]:
    """The operator's results and all gradients of a weighted sum of them."""
    call, drawn = case
    inputs = [x.to(dtype).requires_grad_() for x in drawn.values()]
    out = call(ops, *inputs)
    out = list(out) if isinstance(out, tuple) else [out]
    weights = [noise(*x.shape, seed=9).to(dtype) for x in out]
    total = torch.stack([(x * w).sum() for x, w in zip(out, weights, strict=True)]).sum()
    return [*out, *torch.autograd.grad(total, inputs)]


@pytest.fixture
def settings() -> Iterator[None]:
    """Threads and instruction set, put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    set_instruction_path("auto")


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_references(name: str) -> None:
    got = results(TRAINING, CASES[name], torch.float32)
    want = results(REFERENCE, CASES[name], torch.float64)
    for x, y in zip(got, want, strict=True):
        assert x.shape == y.shape
        assert (x.double() - y).abs().max() <= CLOSE * y.abs().max().clamp_min(1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("settings")
def test_bits_do_not_depend_on_threads_or_instruction_set(name: str) -> None:
    torch.set_num_threads(1)
    one = results(TRAINING, CASES[name], torch.float32)
    torch.set_num_threads(3)
    set_instruction_path("portable")
    assert all(
        torch.equal(x, y)
        for x, y in zip(one, results(TRAINING, CASES[name], torch.float32), strict=True)
    )


def test_every_differentiable_operator_has_a_case() -> None:
    from dougong.kernels.training import OPERATORS

    named = {name.split(",")[0] for name in CASES} | {"wide_linear", "logits"}  # the same as linear
    assert named | {"index_select", "remember"} == set(OPERATORS)


def test_clamped_elements_are_counted() -> None:
    with counted_clamps() as ours:
        results(TRAINING, CASES["grouped_experts"], torch.float32)
    with counted_clamps() as theirs:
        results(REFERENCE, CASES["grouped_experts"], torch.float64)
    assert torch.equal(torch.stack(ours).sum(0), torch.stack(theirs).sum(0))
    assert int(ours[0].sum()) > 0


@pytest.mark.parametrize("operator", ["grouped_experts", "expert_mlp", "linear"])
def test_rounded_inputs_are_the_references(operator: str) -> None:
    """FP8 values in front of the products; the gradient passes the rounding unchanged."""

    def call(ops: Any, x: Tensor, *weights: Tensor) -> Tensor:
        if operator == "linear":
            return ops.linear(x, *weights, rounded=True)
        options = {"limit": 1.5, "rounded": True}
        if operator == "expert_mlp":
            return ops.expert_mlp(x, *weights, None, **options)
        chosen = torch.arange(TOKENS)[:, None] % 2
        return ops.grouped_experts(x, torch.ones(TOKENS, 1), chosen, *weights, **options)

    drawn = {"x": noise(TOKENS, SIZE)}
    count = 2 if operator == "grouped_experts" else 1
    drawn |= {"w": noise(9, SIZE)} if operator == "linear" else expert_weights(count)
    got = results(TRAINING, (call, drawn), torch.float32)
    want = results(REFERENCE, (call, drawn), torch.float32)
    for x, y in zip(got, want, strict=True):
        # a hidden value next to a rounding boundary may fall to the other side, 1/16 away: rare
        assert (x - y).norm() <= 2e-3 * y.norm()


@pytest.mark.parametrize("shape", [(2, 48, 20), (3, 20, 48), (1, 32, 32)])
def test_muon_step_is_the_published_iteration(shape: tuple[int, int, int]) -> None:
    coefficients = [(3.4445, -4.7750, 2.0315)] * 8 + [(2.0, -1.5, 0.5)] * 2
    weight, grad, momentum = noise(*shape), noise(*shape, seed=1), noise(*shape, seed=2)
    moved = weight.clone(), momentum.clone()
    muon_step(moved[0], grad, moved[1], coefficients, decay=0.95, kept=0.99, step=0.1)
    want = 0.95 * momentum.double() + grad
    x = 0.95 * want + grad
    x = x / x.norm(dim=(1, 2), keepdim=True)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    # small singular values grow by up to 3.4^8, and float32's rounding errors with them
    assert (moved[0] - (0.99 * weight - 0.1 * x)).abs().max() < 1e-4
    assert (moved[1] - want).abs().max() < 1e-6
