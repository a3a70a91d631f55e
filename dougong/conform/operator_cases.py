"""For every operator, cases of random shapes, formats and number types.

Shapes: N rows (tokens, queries or blocks), D in, F out, S streams, H heads, C channels, P rope
pairs, K picks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from dougong.conform.case import CLOSE, EXACT, Call, Case, Results
from dougong.conform.draw import DTYPES, FORMATS, Draw
from dougong.conform.memory_cases import MEMORY_MAKERS
from dougong.kernels.compressor import round_index_vector
from dougong.kernels.registry import Operators, operators
from dougong.kernels.rounding import round_cache_entry

_Maker = Callable[[Draw, int], Case]
EPS = 1e-6
SHORT = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# Hidden values that differ in the last bit may be rounded to neighbouring FP8 values, 1/8 apart;
# two such may meet in a sum.
CLOSE_BEHIND_FP8 = 0.25


def _size(draw: Draw, format_: str, most: int = 200) -> int:
    """Columns of a matrix; FP4 has them in blocks of 32."""
    return 32 * draw.integer(1, most // 32) if format_ == "I8" else draw.integer(1, most)


def _product(operator: str, call: Call, *, wide: bool = False, rounded: bool = False) -> _Maker:
    def make(draw: Draw, rows: int) -> Case:
        format_ = draw.choice(("F8_E4M3", "I8") if rounded else FORMATS)
        dtype = draw.choice(DTYPES)
        size_in, size_out = _size(draw, format_), draw.integer(1, 150)
        inputs = {
            "x": draw.noise(rows, size_in, dtype=dtype),
            "w": draw.stored(format_, size_out, size_in),
        }
        about = f"{format_} {size_out}x{size_in}, {SHORT[dtype]}{', rounded' * rounded}"
        close = CLOSE[torch.float32 if wide else dtype]
        return Case(operator, about, rows, inputs, call, close)

    return make


def _grouped_projection(draw: Draw, rows: int) -> Case:
    groups, heads, format_, dtype = draw.integer(1, 4), 2, draw.choice(FORMATS), draw.choice(DTYPES)
    size = 16 * draw.integer(1, 5)
    # groups of 128 rows: a scale of FP8 belongs to one group
    inputs = {
        "o": draw.noise(rows, groups * heads, size, dtype=dtype),
        "w": draw.stored(format_, 128 * groups, heads * size),
    }
    return Case(
        "grouped_projection", f"{format_}, {groups} groups of {heads}x{size}, {SHORT[dtype]}", rows,
        inputs, lambda o, i, r: (o.grouped_projection(i.o[r], i.w, groups),), CLOSE[dtype],
    )  # fmt: skip


def _router(draw: Draw, rows: int) -> Case:
    experts, how = draw.integer(2, 40), draw.choice(("scores", "bias", "hash"))
    top_k = draw.integer(1, min(6, experts))
    # whole numbers: no two scores differ by a rounding only, and ties are common
    inputs = {
        "x": draw.integers(-2, 2, rows, 24).to(draw.choice(DTYPES)),
        "w": draw.integers(-1, 1, experts, 24) / 4,
        "bias": 8 * draw.integers(0, 1, experts) if how == "bias" else None,
        "hashed": draw.picks(rows, experts, top_k) if how == "hash" else None,
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        hashed = None if i.hashed is None else i.hashed[r]
        weights, chosen = o.router(i.x[r], i.w, i.bias, hashed, top_k=top_k, route_scale=1.5)
        return weights, chosen

    def want(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        # torch's vectors and what is left of them round the scores of equal logits apart, so the
        # choice is made by the logits, which are exact: a score rises with its logit, and stays
        # below a bias of 8
        hashed = i.hashed
        if hashed is None:
            order = i.x.double() @ i.w.double().T + (0 if i.bias is None else 100 * i.bias)
            hashed = order.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        x, w = i.x.double(), i.w.double()
        weights, chosen = operators("reference").router(
            x, w, None, hashed, top_k=top_k, route_scale=1.5
        )
        return weights, chosen

    about = f"{top_k} of {experts} by {how}"
    return Case("router", about, rows, inputs, call, CLOSE[torch.float32], want)


def _experts(draw: Draw, rows: int, *, grouped: bool) -> Case:
    format_, dtype = draw.choice(FORMATS), draw.choice(DTYPES)
    size, inner = 32 * draw.integer(1, 4), 32 * draw.integer(1, 4)
    num = draw.integer(1, 6) if grouped else 0
    top_k = draw.integer(1, num) if grouped else 1
    rounded = format_ in ("F8_E4M3", "I8") and draw.choice((True, False))
    options = {"limit": draw.choice((0.0, 1.0)), "rounded": rounded}
    weights = draw.noise(rows, top_k).abs() + 0.01
    inputs = {
        "x": draw.noise(rows, size, dtype=dtype),
        "w1": draw.stored(format_, inner, size, num),
        "w3": draw.stored(format_, inner, size, num),
        "w2": draw.stored(format_, size, inner, num),
        "weights": weights / weights.sum(1, keepdim=True),  # as the router's: 1 in all
        "chosen": draw.picks(rows, max(num, 1), top_k),
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        matrices = (i.w1, i.w3, i.w2)
        if grouped:
            return (o.grouped_experts(i.x[r], i.weights[r], i.chosen[r], *matrices, **options),)
        return (o.expert_mlp(i.x[r], *matrices, i.weights[r, 0], **options),)

    about = f"{format_} {inner}x{size}, {top_k} of {max(num, 1)}, {SHORT[dtype]}"
    name = "grouped_experts" if grouped else "expert_mlp"
    # five times a product's: two products and an activation in a row, summed over the experts
    close = CLOSE_BEHIND_FP8 if rounded else 5 * CLOSE[dtype]
    return Case(name, f"{about}{', rounded' * rounded}", rows, inputs, call, close)


def _mhc(draw: Draw, rows: int, *, head: bool) -> Case:
    streams, size, dtype = draw.integer(1, 4), draw.integer(1, 130), draw.choice(DTYPES)
    mixes = streams if head else streams * (2 + streams)
    inputs = {
        "h": draw.noise(rows, streams, size, dtype=dtype),
        "fn": draw.noise(mixes, streams * size) / size**0.5,
        "base": draw.noise(mixes),
        "scale": draw.noise(1 if head else 3),
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        options = {"hc_eps": EPS, "norm_eps": EPS}
        if head:
            return (o.mhc_head(i.h[r], i.fn, i.base, i.scale, **options),)
        x, post, comb = o.mhc_pre(i.h[r], i.fn, i.base, i.scale, iterations=20, **options)
        return x, post.movedim(-1, 0), comb.movedim(-1, 0)

    about = f"{streams} streams of {size}, {SHORT[dtype]}"
    return Case("mhc_head" if head else "mhc_pre", about, rows, inputs, call, 2 * CLOSE[dtype])


def _mhc_post(draw: Draw, rows: int) -> Case:
    streams, size, dtype = draw.integer(1, 4), draw.integer(1, 130), draw.choice(DTYPES)
    inputs = {
        "y": draw.noise(rows, size, dtype=dtype),
        "h": draw.noise(rows, streams, size, dtype=dtype),
        "post": draw.noise(streams, rows),
        "comb": draw.noise(streams, streams, rows),
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        post, comb = i.post[:, r].contiguous(), i.comb[..., r].contiguous()
        return (o.mhc_post(i.y[r], i.h[r], post, comb),)

    about = f"{streams} streams of {size}, {SHORT[dtype]}"
    return Case("mhc_post", about, rows, inputs, call, 2 * CLOSE[dtype])


def _normed(
    operator: str, call: Callable[[bool], Call], rounds: Callable[[Tensor, int], Tensor] | None
) -> _Maker:
    """A norm or a rotation; where it rounds, as the reference rounds what it gives unrounded."""

    def make(draw: Draw, rows: int) -> Case:
        dtype, pairs = draw.choice(DTYPES), draw.integer(1, 8)
        size = draw.choice((16, 32, 64, 128)) if rounds else 2 * pairs + draw.integer(0, 90)
        pairs = min(pairs, size // 2)
        inputs = {
            "x": draw.noise(rows, size, dtype=dtype),
            "q": draw.noise(rows, 3, size, dtype=dtype),
            "pooled": draw.noise(rows, size),
            "weight": draw.noise(size),
            "turn": draw.turns(rows, pairs, draw.integer(0, 1000)),
        }
        about = f"{size} channels, {pairs} pairs, {SHORT[dtype]}"
        if rounds is None or draw.choice((True, False)):
            return Case(operator, about, rows, inputs, call(False), CLOSE[dtype])

        def want(o: Operators, i: SimpleNamespace, r: slice) -> Results:
            return tuple(rounds(x, 2 * pairs) for x in call(False)(o, i, r))

        return Case(operator, f"{about}, rounded", rows, inputs, call(True), EXACT, want)

    return make


def _add(draw: Draw, rows: int) -> Case:
    size, dtype = draw.integer(1, 90), draw.choice(DTYPES)
    inputs = {"a": draw.noise(rows, size), "b": draw.noise(rows, size)}
    return Case(
        "add", f"{size} wide, {SHORT[dtype]}", rows, inputs,
        lambda o, i, r: (o.add(i.a[r], i.b[r], dtype),), EXACT,
    )  # fmt: skip


def _lookup(draw: Draw, rows: int) -> Case:
    ids, top_k = draw.integer(1, 50), draw.integer(1, 6)
    inputs = {
        "table": draw.integers(0, 99, ids, top_k).long(),
        "ids": draw.integers(0, ids - 1, rows).long(),
    }
    return Case(
        "lookup", f"{top_k} of each of {ids} ids", rows, inputs,
        lambda o, i, r: (o.lookup(i.table, i.ids[r]),), EXACT,
    )  # fmt: skip


def _index_alignment(draw: Draw, rows: int) -> Case:
    heads, size, length = draw.integer(1, 3), 16 * draw.integer(1, 3), 4 * draw.integer(2, 9)
    index_heads, rows = draw.integer(1, 4), min(rows, 5)  # one call for each sample
    inputs = {
        "q": draw.noise(rows, length, heads, size),
        "kv": draw.noise(rows, length, size),
        "entries": draw.noise(rows, length // 4, size),
        "sink": draw.noise(heads),
        "index_q": draw.noise(rows, length, index_heads, 16),
        "weight": draw.noise(rows, length, index_heads),
        "keys": draw.noise(rows, length // 4, 16) / 4,
    }
    top_k = draw.choice((None, 3))

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        options = {"lengths": [length], "window": 7, "ratio": 4, "top_k": top_k, "shortest": 1}
        samples = zip(
            i.q[r], i.kv[r], i.entries[r], i.index_q[r], i.weight[r], i.keys[r], strict=True
        )
        losses = [
            o.index_alignment(q, kv, entries, i.sink, index_q, weight, keys, **options)
            for q, kv, entries, index_q, weight, keys in samples
        ]
        return (torch.stack(losses),)

    about = f"samples of {length} tokens, {index_heads} index heads, {top_k or 'all'} entries"
    return Case("index_alignment", about, rows, inputs, call, CLOSE[torch.float32])


def _cross_entropy(draw: Draw, rows: int) -> Case:
    size, vocab, dtype = draw.integer(1, 90), draw.integer(2, 200), draw.choice(DTYPES)
    rows = min(rows, 5)  # one call for each row
    inputs = {
        "x": draw.noise(rows, size, dtype=dtype),
        "w": draw.stored(draw.choice(("F32", "BF16")), vocab, size),
        "target": torch.stack([draw.picks(1, vocab, 1)[0, 0] for _ in range(rows)]),
    }

    def call(o: Operators, i: SimpleNamespace, r: slice) -> Results:
        """Each row's own loss: all weight on it."""
        weights = torch.eye(r.stop - r.start)
        losses = [o.cross_entropy(i.x[r], i.w, i.target[r], weight) for weight in weights]
        return (torch.stack(losses),)

    about = f"{vocab} ids, {size} wide, {SHORT[dtype]}"
    return Case("cross_entropy", about, rows, inputs, call, CLOSE[torch.float32])


def _cache_entry(x: Tensor, rope_dim: int) -> Tensor:
    return round_cache_entry(x, rope_dim)


def _index_vector(x: Tensor, rope_dim: int) -> Tensor:
    return round_index_vector(x)


# What makes a case of an operator, for a number of rows; several where it has several modes.
MAKERS: dict[str, tuple[_Maker, ...]] = {
    "linear": (
        _product("linear", lambda o, i, r: (o.linear(i.x[r], i.w),)),
        _product("linear", lambda o, i, r: (o.linear(i.x[r], i.w, rounded=True),), rounded=True),
    ),
    "wide_linear": (
        _product("wide_linear", lambda o, i, r: (o.wide_linear(i.x[r], i.w),), wide=True),
    ),
    "router": (_router,),
    "grouped_experts": (partial(_experts, grouped=True),),
    "expert_mlp": (partial(_experts, grouped=False),),
    "mhc_pre": (partial(_mhc, head=False),),
    "mhc_post": (_mhc_post,),
    "mhc_head": (partial(_mhc, head=True),),
    "rms_norm": (
        _normed("rms_norm", lambda _: lambda o, i, r: (o.rms_norm(i.x[r], i.weight, EPS),), None),
    ),
    "norm_rope_q": (
        _normed(
            "norm_rope_q", lambda _: lambda o, i, r: (o.norm_rope_q(i.q[r], i.turn[r], EPS),), None
        ),
    ),
    "norm_rope_kv": (
        _normed(
            "norm_rope_kv",
            lambda rounded: (
                lambda o, i, r: (o.norm_rope_kv(i.x[r], i.weight, i.turn[r], EPS, rounded=rounded),)
            ),
            _cache_entry,
        ),
    ),
    "rope_index_q": (
        _normed(
            "rope_index_q",
            lambda rounded: lambda o, i, r: (o.rope_index_q(i.q[r], i.turn[r], rounded=rounded),),
            _index_vector,
        ),
    ),
    **MEMORY_MAKERS,
    "index_alignment": (_index_alignment,),
    "add": (_add,),
    "lookup": (_lookup,),
    "grouped_projection": (_grouped_projection,),
    "logits": (_product("logits", lambda o, i, r: (o.logits(i.x[r], i.w),), wide=True),),
    "cross_entropy": (_cross_entropy,),
}
