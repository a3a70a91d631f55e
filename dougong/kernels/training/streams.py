"""mHC, and norms with RoPE, with gradients.

Shapes: T tokens, S streams, D hidden size, H heads, C channels, P rope pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dougong.errors import ShapeError
from dougong.kernels.cpu import streams as forward_only
from dougong.kernels.cpu.streams import MAX_STREAMS
from dougong.kernels.training.library import (
    Mix,
    NormBack,
    Spread,
    address,
    apply,
    checked,
    run,
)


class _Mix(Function):
    """`iterations` 0: the head, which has no post and comb (they are empty then)."""

    @staticmethod
    def forward(
        ctx: Any, streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor,
        iterations: int, hc_eps: float, norm_eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        tokens, side, size = streams.shape
        x, mix = streams.new_empty(tokens, size), streams.new_empty(tokens, fn.shape[0])
        post = streams.new_empty(side if iterations else 0, tokens)
        comb = streams.new_empty(side if iterations else 0, side, tokens)
        arguments = Mix(
            address(streams), address(fn), address(base), address(scale), address(x),
            address(post) if iterations else None, address(comb), address(mix),
            tokens=tokens, num_streams=side, size=size, iterations=iterations,
            hc_eps=hc_eps, norm_eps=norm_eps,
        )  # fmt: skip
        run("dg_mix_forward", arguments)
        ctx.save_for_backward(streams, fn, base, scale, mix)
        ctx.constants = iterations, hc_eps, norm_eps
        return x, post, comb

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x: Tensor, d_post: Tensor, d_comb: Tensor) -> Any:
        streams, fn, base, scale, mix = ctx.saved_tensors
        iterations, hc_eps, norm_eps = ctx.constants
        tokens, side, size = streams.shape
        d_x, d_post, d_comb = d_x.contiguous(), d_post.contiguous(), d_comb.contiguous()
        grads = [torch.empty_like(value) for value in (streams, fn, base, scale)]
        arguments = Mix(
            address(streams), address(fn), address(base), address(scale), None,
            address(d_post) if iterations else None,  # says only that this is not the head
            None, address(mix), *map(address, (d_x, d_post, d_comb, *grads)),
            tokens, side, size, iterations, hc_eps, norm_eps,
        )  # fmt: skip
        run("dg_mix_backward", arguments)
        return *grads, None, None, None


def _mix(
    streams_TSD: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    constants: tuple[int, float, float],
) -> tuple[Tensor, Tensor, Tensor]:
    streams_TSD = checked(streams_TSD, "mhc: streams", -1, -1, -1)
    _, side, size = streams_TSD.shape
    if side > MAX_STREAMS:
        raise ShapeError(f"mhc: {side} streams; at most {MAX_STREAMS}")
    rows = side * (2 + side) if constants[0] else side
    fn = checked(fn, "mhc: fn", rows, side * size)
    base = checked(base, "mhc: base", rows)
    scale = checked(scale, "mhc: scale", 3 if constants[0] else 1)
    result: tuple[Tensor, Tensor, Tensor] = apply(_Mix, streams_TSD, fn, base, scale, *constants)
    return result


def mhc_pre(
    streams_TSD: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    *,
    iterations: int,
    hc_eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Collapses the streams into x_TD; post_ST and comb_SST are for `mhc_post`."""
    return _mix(streams_TSD, fn, base, scale, (iterations, hc_eps, norm_eps))


def mhc_head(
    streams_TSD: Tensor, fn: Tensor, base: Tensor, scale: Tensor, *, hc_eps: float, norm_eps: float
) -> Tensor:
    """The final collapse: a sigmoid-weighted sum of the streams: [T, D]."""
    return _mix(streams_TSD, fn, base, scale, (0, hc_eps, norm_eps))[0]


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        ctx.save_for_backward(y, streams, post, comb)
        out = torch.empty_like(streams)
        arguments = Spread(
            *map(address, (y, streams, post, comb, out, None, None, None, None, None)),
            *streams.shape,
        )
        run("dg_spread_forward", arguments)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> Any:
        values = ctx.saved_tensors
        d_out = d_out.contiguous()
        grads = [torch.empty_like(value) for value in values]
        arguments = Spread(*map(address, (*values, None, d_out, *grads)), *values[1].shape)
        run("dg_spread_backward", arguments)
        return tuple(grads)


def mhc_post(y_TD: Tensor, streams_TSD: Tensor, post_ST: Tensor, comb_SST: Tensor) -> Tensor:
    """New streams: h'_k = post_k * y + sum_j comb[j, k] * h_j."""
    streams_TSD = checked(streams_TSD, "mhc_post: streams", -1, -1, -1)
    tokens, side, size = streams_TSD.shape
    out: Tensor = apply(
        _Spread,
        checked(y_TD, "mhc_post: y", tokens, size),
        streams_TSD,
        checked(post_ST, "mhc_post: post", side, tokens),
        checked(comb_SST, "mhc_post: comb", side, side, tokens),
    )
    return out


class _NormRope(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        rotation: Tensor | None,
        eps: float,
        rounding: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, rotation)
        ctx.eps = eps
        return forward_only.norm_rope(x, weight, rotation, eps, rounding=rounding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> Any:
        x, weight, rotation = ctx.saved_tensors
        d_y, d_x = d_y.contiguous(), torch.empty_like(x)
        d_weight = None if weight is None else torch.empty_like(weight)
        pairs, heads = 0, 1
        if rotation is not None:
            pairs, heads = rotation.shape[-1], x.shape[1] if x.dim() == 3 else 1
        arguments = NormBack(
            *map(address, (x, weight, rotation, d_y, d_x, d_weight)),
            x.numel() // x.shape[-1], x.shape[-1], pairs, heads, ctx.eps,
        )  # fmt: skip
        run("dg_norm_backward", arguments)
        return d_x, d_weight, None, None, None


def norm(
    x: Tensor, weight_C: Tensor | None, rotation: Tensor | None, eps: float, rounding: int = 0
) -> Tensor:
    """Norm, RoPE and rounding over the last dim, as `norm_rope` of backend cpu."""
    x = checked(x, "norm: x", *[-1] * x.dim())
    if rotation is not None:
        rotation = rotation.contiguous()
    y: Tensor = apply(_NormRope, x, weight_C, rotation, eps, rounding)
    return y


def rms_norm(x: Tensor, weight_C: Tensor | None, eps: float) -> Tensor:
    """x * rsqrt(mean(x^2) + eps) * weight over the last dim."""
    return norm(x, weight_C, None, eps)


def norm_rope_q(q_THC: Tensor, rotation_TP: Tensor, eps: float) -> Tensor:
    """Weightless RMS norm of each head's query, then RoPE on its last channels."""
    return norm(q_THC, None, rotation_TP, eps)


def norm_rope_kv(
    kv_TC: Tensor, weight_C: Tensor, rotation_TP: Tensor, eps: float, *, rounded: bool
) -> Tensor:
    """Each token's key-value entry: weighted RMS norm, RoPE, FP8 round trip if asked."""
    rounding = forward_only.FP8_CACHE if rounded else forward_only.NO_ROUNDING
    return norm(kv_TC, weight_C, rotation_TP, eps, rounding)
