"""Expert MLPs: clamped SwiGLU, and the grouped form over routed experts.

Shapes: T tokens, D hidden size, E experts, I expert width, K experts per token.
Source: architecture specification 4.2 and traps 11, 12.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.kernels.dtypes import widen
from dougong.kernels.linear import linear

CLAMP_COUNTS = ("gate above", "up above", "up below")
_counting: list[list[Tensor]] = []  # the lists that open `counted_clamps` fill


@contextmanager
def counted_clamps() -> Iterator[list[Tensor]]:
    """Inside, each `swiglu` appends how many elements it clamped: int64 [3], as CLAMP_COUNTS."""
    counts: list[Tensor] = []
    _counting.append(counts)
    try:
        yield counts
    finally:
        _counting.pop()


@torch.no_grad()
def count_clamped(gate: Tensor, up: Tensor, limit: float) -> None:
    """Tells every open `counted_clamps` what a clamp at `limit` does to these branches."""
    if _counting:
        clamped = (gate > limit, up > limit, up < -limit)
        count_3 = torch.stack([torch.count_nonzero(where) for where in clamped])
        for counts in _counting:
            counts.append(count_3)


def swiglu(gate: Tensor, up: Tensor, limit: float) -> Tensor:
    """silu(min(gate, limit)) * clamp(up, -limit, limit) in the wide dtype; limit 0 clamps nothing.

    The gate needs no lower clamp: silu tends to 0 there.
    """
    gate, up = widen(gate), widen(up)
    if limit > 0:
        count_clamped(gate, up, limit)
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return F.silu(gate) * up


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
    """One expert: w2 @ (weight * swiglu(w1 @ x, w3 @ x)), [T, D] in x's dtype.

    The routing weight multiplies before w2, which matters only under rounding. A backend may give
    the result in the wide dtype: it is added to the routed experts' sum there.
    """
    gate_TI = linear(x_TD, w1_ID, rounded=rounded)
    up_TI = linear(x_TD, w3_ID, rounded=rounded)
    hidden_TI = swiglu(gate_TI, up_TI, limit)
    if weight_T is not None:
        hidden_TI = hidden_TI * weight_T[:, None]
    return linear(hidden_TI.to(x_TD.dtype), w2_DI, rounded=rounded)


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
    """Sum over each token's K experts, added in slot order: [T, D] in the wide dtype."""
    num_tokens, top_k = experts_TK.shape
    slots = experts_TK.flatten()
    order = slots.argsort(stable=True)
    counts = torch.bincount(slots, minlength=w1_EID.shape[0]).tolist()
    x_sorted = x_TD[order // top_k]
    rows = x_sorted.split(counts)
    weights = weights_TK.flatten()[order].split(counts)
    # unbind and split, not indexing: their backward joins the gradients once, not once per expert
    matrices = zip(w1_EID.unbind(), w3_EID.unbind(), w2_EDI.unbind(), strict=True)
    outputs = []
    for x, weight, (w1_ID, w3_ID, w2_DI) in zip(rows, weights, matrices, strict=True):
        if x.shape[0]:
            outputs.append(expert_mlp(x, w1_ID, w3_ID, w2_DI, weight, limit=limit, rounded=rounded))
    y_sorted = torch.cat(outputs) if outputs else x_sorted
    y_TKD = widen(y_sorted)[order.argsort()].view(num_tokens, top_k, x_TD.shape[-1])
    total_TD = y_TKD[:, 0]
    for slot in range(1, top_k):
        total_TD = total_TD + y_TKD[:, slot]
    return total_TD


def add(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Routed and shared experts' sum, in `dtype`."""
    return (a + b).to(dtype)
