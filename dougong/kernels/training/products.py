"""Products with gradients: linear, grouped projection, and the fused loss of the logits.

Shapes: T tokens, D in, F out, G groups, L output rank of a group, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dougong.errors import ShapeError
from dougong.kernels.rounding import LINEAR_GROUP, round_e4m3
from dougong.kernels.training.library import Entropy, Gemm, address, apply, checked, run


def matmul(a_MK: Tensor, b_KN: Tensor, c_MN: Tensor, *, wide: bool = False) -> None:
    """c = a @ b; any strides of a and b, rows of c anywhere. `wide`: whatever `set_products` says,
    operands are not rounded.
    """
    (m, k), n = a_MK.shape, b_KN.shape[1]
    arguments = Gemm(
        a_MK.data_ptr(), b_KN.data_ptr(), c_MN.data_ptr(), m, n, k,
        *a_MK.stride(), *b_KN.stride(), c_MN.stride(0), False, wide,
    )  # fmt: skip
    run("dg_matmul", arguments)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, wide: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wide = wide
        y = x.new_empty(x.shape[0], weight.shape[0])
        matmul(x, weight.t(), y, wide=wide)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = torch.empty_like(x)
            matmul(d_y, weight, d_x, wide=ctx.wide)
        if ctx.needs_input_grad[1]:
            d_weight = torch.empty_like(weight)
            matmul(d_y.t(), x, d_weight, wide=ctx.wide)
        return d_x, d_weight, None


def linear(x: Tensor, weight_FD: Tensor, *, rounded: bool = False) -> Tensor:
    """x @ weight^T over the last dim; `rounded` quantizes x to FP8 first."""
    return _linear(round_e4m3(x, LINEAR_GROUP) if rounded else x, weight_FD, wide=False)


def wide_linear(x: Tensor, weight_FD: Tensor) -> Tensor:
    """x @ weight^T, never rounded: compressors."""
    return _linear(x, weight_FD, wide=True)


def _linear(x: Tensor, weight_FD: Tensor, *, wide: bool) -> Tensor:
    weight_FD = checked(weight_FD, "linear: weight", -1, x.shape[-1])
    flat = checked(x.flatten(0, -2), "linear: x", -1, -1)
    y: Tensor = apply(_Linear, flat, weight_FD, wide)
    return y.unflatten(0, x.shape[:-1]) if x.dim() != 2 else y


class _GroupedProjection(Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor, weight: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(o, weight)
        ctx.groups = groups
        y = o.new_empty(o.shape[0], weight.shape[0])
        for o_g, w_g, y_g in _parts(o, weight, y, groups):
            matmul(o_g, w_g.t(), y_g)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, None]:
        o, weight = ctx.saved_tensors
        d_o, d_weight = torch.empty_like(o), torch.empty_like(weight)
        values = _parts(o, weight, d_y, ctx.groups)
        grads = _parts(d_o, d_weight, d_y, ctx.groups)
        for (o_g, w_g, d_y_g), (d_o_g, d_w_g, _) in zip(values, grads, strict=True):
            matmul(d_y_g, w_g, d_o_g)
            matmul(d_y_g.t(), o_g, d_w_g)
        return d_o, d_weight, None


def _parts(
    o: Tensor, weight: Tensor, y: Tensor, groups: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each group's columns of o and y and its rows of the weight: views."""
    return list(zip(o.chunk(groups, 1), weight.chunk(groups), y.chunk(groups, 1), strict=True))


def grouped_projection(o_THC: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Block-diagonal product: heads in `groups` contiguous runs, each by its own matrix."""
    o = checked(o_THC.flatten(1), "grouped projection: o", -1, -1)
    if o.shape[1] % groups or weight.shape[0] % groups:
        raise ShapeError(f"grouped projection: {list(o.shape)} does not split into {groups} groups")
    weight = checked(weight, "grouped projection: weight", -1, o.shape[1] // groups)
    y: Tensor = apply(_GroupedProjection, o, weight, groups)
    return y


class _Entropy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, head: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        loss, d_x, d_head = torch.empty(()), torch.empty_like(x), torch.empty_like(head)
        arguments = Entropy(
            address(x), address(head), address(weight), address(target), address(loss),
            address(d_x), address(d_head), *x.shape, head.shape[0],
        )  # fmt: skip
        run("dg_entropy", arguments)
        ctx.save_for_backward(d_x, d_head)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_x, d_head = ctx.saved_tensors
        return d_x * d_loss, d_head * d_loss, None, None


def cross_entropy(x_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor) -> Tensor:
    """Mean cross entropy of the logits x @ head^T, each token counted by its weight.

    Logits exist for a few rows at a time, and both gradients come with the loss.
    """
    x_TD = checked(x_TD, "entropy: x", -1, -1)
    head_VD = checked(head_VD, "entropy: head", -1, x_TD.shape[1])
    weight_T = checked(weight_T / weight_T.sum().clamp_min(1e-9), "entropy: weight", x_TD.shape[0])
    loss: Tensor = apply(_Entropy, x_TD, head_VD, target_T.contiguous(), weight_T)
    return loss
