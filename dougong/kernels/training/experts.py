"""Clamped SwiGLU experts with gradients: routed and shared ones in one kernel.

Shapes: T tokens, D hidden size, E experts, I expert width, K experts per token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dougong.kernels.experts import count_clamped
from dougong.kernels.training.library import MoE, address, apply, checked, run


class _Experts(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor | None, w1: Tensor, w3: Tensor, w2: Tensor,
        order: Tensor, counts: Tensor, limit: float, rounded: bool,
    ) -> Tensor:  # fmt: skip
        tokens, size = x.shape
        slots, width = order.shape[0], w1.shape[1]
        gate, up = x.new_empty(slots, width), x.new_empty(slots, width)
        y = torch.empty_like(x)
        shape = tokens, slots // max(tokens, 1), w1.shape[0], size, width, rounded
        pointers = map(address, (x, weights, w1, w3, w2, order, counts, gate, up, y))
        run("dg_moe_forward", MoE(*pointers, *[None] * 6, *shape, limit))
        if limit > 0:
            count_clamped(gate, up, limit)
        ctx.save_for_backward(x, weights, w1, w3, w2, order, counts, gate, up)
        ctx.shape, ctx.limit = shape, limit
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> Any:
        saved = ctx.saved_tensors
        x, weights, w1, w3, w2, _, counts, *_ = saved
        d_y = d_y.contiguous()
        d_x, d_w1, d_w3, d_w2 = (torch.empty_like(value) for value in (x, w1, w3, w2))
        d_weights = None if weights is None else torch.empty_like(weights)
        if bool((counts == 0).any()):
            for d_w in (d_w1, d_w3, d_w2):
                d_w[counts == 0] = 0
        pointers = map(address, (*saved, None, d_y, d_x, d_weights, d_w1, d_w3, d_w2))
        run("dg_moe_backward", MoE(*pointers, *ctx.shape, ctx.limit))
        return d_x, d_weights, d_w1, d_w3, d_w2, None, None, None, None


def grouped_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w1_EID: Tensor,
    w3_EID: Tensor,
    w2_EDI: Tensor,
    *,
    limit: float,
    rounded: bool,
) -> Tensor:
    """Sum over each token's K experts, added in slot order: [T, D]."""
    slots = experts_TK.flatten()
    order = slots.argsort(stable=True)
    counts = torch.bincount(slots, minlength=w1_EID.shape[0])
    return _experts(x_TD, weights_TK, w1_EID, w3_EID, w2_EDI, order, counts, limit, rounded)


def expert_mlp(
    x_TD: Tensor,
    w1_ID: Tensor,
    w3_ID: Tensor,
    w2_DI: Tensor,
    weight_T: Tensor | None,
    *,
    limit: float,
    rounded: bool,
) -> Tensor:
    """One expert for every token: w2 @ (weight * swiglu(w1 @ x, w3 @ x)), [T, D]."""
    tokens = x_TD.shape[0]
    order, counts = torch.arange(tokens), torch.tensor([tokens])
    weights = None if weight_T is None else weight_T[:, None]
    return _experts(
        x_TD, weights, w1_ID[None], w3_ID[None], w2_DI[None], order, counts, limit, rounded
    )


def _experts(
    x_TD: Tensor,
    weights_TK: Tensor | None,
    w1_EID: Tensor,
    w3_EID: Tensor,
    w2_EDI: Tensor,
    order: Tensor,
    counts_E: Tensor,
    limit: float,
    rounded: bool,
) -> Tensor:
    x_TD = checked(x_TD, "experts: x", -1, -1)
    num_experts, width, size = w1_EID.shape
    y: Tensor = apply(
        _Experts,
        x_TD,
        None if weights_TK is None else checked(weights_TK, "experts: weights", x_TD.shape[0], -1),
        checked(w1_EID, "experts: w1", num_experts, width, x_TD.shape[1]),
        checked(w3_EID, "experts: w3", num_experts, width, size),
        checked(w2_EDI, "experts: w2", num_experts, size, width),
        order,
        counts_E,
        limit,
        rounded,
    )
    return y
