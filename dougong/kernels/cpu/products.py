"""Operators made of matrix products: linear, grouped projection, logits, experts, router.

Shapes: T tokens, D in, F out, E experts, I expert width, K experts per token, G groups.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dougong.errors import ShapeError
from dougong.kernels.cpu.library import Experts, Linear, Router
from dougong.kernels.cpu.program import call
from dougong.kernels.cpu.tensors import (
    DTYPES,
    Weight,
    contiguous,
    dtype_code,
    floats,
    indices,
    inference_only,
    matrices,
)


def _product(
    x: Tensor, weight: Weight, dtype: torch.dtype, *, rounded: bool = False, groups: int = 1
) -> Tensor:
    inference_only(x, weight)
    rows, columns = weight.shape
    if x.dim() < 1 or x.shape[-1] != columns * groups or rows % groups:
        raise ShapeError(
            f"linear: x {list(x.shape)} does not fit a weight {list(weight.shape)}"
            + (f" in {groups} groups" if groups > 1 else "")
        )
    x_code = dtype_code(x, "linear: x")
    if not x.is_contiguous():
        x = x.contiguous()
    y = torch.empty(*x.shape[:-1], rows, dtype=dtype)
    described = matrices(weight, "linear: weight")
    tokens = x.numel() // (columns * groups)
    arguments = Linear(
        ctypes.addressof(described), x.data_ptr(), y.data_ptr(),
        tokens, groups, x_code, DTYPES[dtype], rounded,
    )  # fmt: skip
    call("dg_linear", arguments, described, weight, x, y)
    return y


def linear(x: Tensor, weight: Weight, *, rounded: bool = False) -> Tensor:
    """x @ weight^T over the last dim, in x's dtype, accumulated in float32."""
    return _product(x, weight, x.dtype, rounded=rounded)


def wide_linear(x: Tensor, weight: Weight) -> Tensor:
    """x @ weight^T in float32. Where x and weight are bf16 their products are exact either way."""
    return _product(x, weight, torch.float32)


def grouped_projection(o_THC: Tensor, weight: Weight, groups: int) -> Tensor:
    """Heads in `groups` contiguous runs, each times its own rows of `weight`: [T, F]."""
    return _product(o_THC.flatten(1), weight, o_THC.dtype, groups=groups)


def _experts(
    x_TD: Tensor,
    weights_TK: Tensor | None,
    experts_TK: Tensor | None,
    matrix: tuple[Weight, Weight, Weight],
    *,
    limit: float,
    rounded: bool,
) -> Tensor:
    inference_only(x_TD, *matrix)
    w1, w3, w2 = (matrices(w, f"experts: w{i}") for w, i in zip(matrix, (1, 3, 2), strict=True))
    (inner, size), count = matrix[0].shape[-2:], len(w1)
    shapes = [tuple(w.shape[-2:]) for w in matrix]
    if shapes != [(inner, size), (inner, size), (size, inner)] or {len(w3), len(w2)} != {count}:
        raise ShapeError(f"experts: matrices w1, w3, w2 of shapes {shapes} do not fit together")
    if w1[0].format != w3[0].format:
        raise ShapeError("experts: w1 and w3 are stored in two formats; expected one for both")
    x_TD = contiguous(x_TD, "experts: x", -1, size)
    tokens, top_k = x_TD.shape[0], 1
    if experts_TK is not None:
        top_k = experts_TK.shape[-1]
        experts_TK = indices(experts_TK, "experts: experts", count, tokens, top_k)
    if weights_TK is not None:
        weights_TK = floats(weights_TK, "experts: weights", tokens, top_k)
    y_TD = torch.empty(tokens, size, dtype=torch.float32)
    arguments = Experts(
        ctypes.addressof(w1), ctypes.addressof(w3), ctypes.addressof(w2), x_TD.data_ptr(),
        None if experts_TK is None else experts_TK.data_ptr(),
        None if weights_TK is None else weights_TK.data_ptr(), y_TD.data_ptr(),
        tokens, top_k, count, dtype_code(x_TD, "experts: x"), rounded, limit,
    )  # fmt: skip
    call("dg_experts", arguments, w1, w3, w2, matrix, x_TD, experts_TK, weights_TK, y_TD)
    return y_TD


def expert_mlp(
    x_TD: Tensor,
    w1_ID: Weight,
    w3_ID: Weight,
    w2_DI: Weight,
    weight_T: Tensor | None,
    *,
    limit: float,
    rounded: bool,
) -> Tensor:
    """One expert: w2 @ (weight * swiglu(w1 @ x, w3 @ x)), [T, D] float32."""
    weights_TK = None if weight_T is None else weight_T[:, None]
    matrix = (w1_ID, w3_ID, w2_DI)
    return _experts(x_TD, weights_TK, None, matrix, limit=limit, rounded=rounded)


def grouped_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w1_EID: Weight,
    w3_EID: Weight,
    w2_EDI: Weight,
    *,
    limit: float,
    rounded: bool,
) -> Tensor:
    """Sum over each token's K experts, added in slot order: [T, D] float32."""
    matrix = (w1_EID, w3_EID, w2_EDI)
    return _experts(x_TD, weights_TK, experts_TK, matrix, limit=limit, rounded=rounded)


def router(
    x_TD: Tensor,
    weight_ED: Weight,
    bias_E: Tensor | None,
    hashed_TK: Tensor | None,
    *,
    top_k: int,
    route_scale: float,
) -> tuple[Tensor, Tensor]:
    """(weights_TK float32, experts_TK int64); of equal scores the lowest index wins."""
    inference_only(x_TD, weight_ED)
    num_experts, size = weight_ED.shape
    x_TD = contiguous(x_TD, "router: x", -1, size)
    tokens = x_TD.shape[0]
    if not 1 <= top_k <= num_experts:
        raise ShapeError(f"router: top_k {top_k} of {num_experts} experts")
    if hashed_TK is not None:
        hashed_TK = indices(hashed_TK, "router: hashed", num_experts, tokens, top_k)
    if bias_E is not None:
        bias_E = floats(bias_E, "router: bias", num_experts)
    weights_TK = torch.empty(tokens, top_k, dtype=torch.float32)
    experts_TK = torch.zeros(tokens, top_k, dtype=torch.int64)  # a recorded one is checked unrun
    described = matrices(weight_ED, "router: weight")
    arguments = Router(
        ctypes.addressof(described), x_TD.data_ptr(),
        None if bias_E is None else bias_E.data_ptr(),
        None if hashed_TK is None else hashed_TK.data_ptr(),
        weights_TK.data_ptr(), experts_TK.data_ptr(),
        tokens, top_k, dtype_code(x_TD, "router: x"), route_scale,
    )  # fmt: skip
    kept = (described, weight_ED, x_TD, bias_E, hashed_TK, weights_TK, experts_TK)
    call("dg_router", arguments, *kept)
    return weights_TK, experts_TK
