"""Backend `cpu`'s table: operator name to implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dougong.kernels.cpu import attention, products, streams

OPERATORS: dict[str, Callable[..., Any]] = {
    "linear": products.linear,
    "wide_linear": products.wide_linear,
    "router": products.router,
    "grouped_experts": products.grouped_experts,
    "expert_mlp": products.expert_mlp,
    "mhc_pre": streams.mhc_pre,
    "mhc_post": streams.mhc_post,
    "mhc_head": streams.mhc_head,
    "rms_norm": streams.rms_norm,
    "norm_rope_q": streams.norm_rope_q,
    "norm_rope_kv": streams.norm_rope_kv,
    "rope_index_q": streams.rope_index_q,
    "grouped_projection": products.grouped_projection,
    "logits": products.wide_linear,
}
