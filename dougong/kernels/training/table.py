"""Backend `training`'s table: operator name to implementation.

What answers one request at a time (`attention`, `index_select`, with a memory) is backend cpu's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dougong.kernels.cpu import attention as forward_only
from dougong.kernels.training import attention, experts, products, streams

OPERATORS: dict[str, Callable[..., Any]] = {
    "linear": products.linear,
    "wide_linear": products.linear,
    "grouped_experts": experts.grouped_experts,
    "expert_mlp": experts.expert_mlp,
    "mhc_pre": streams.mhc_pre,
    "mhc_post": streams.mhc_post,
    "mhc_head": streams.mhc_head,
    "rms_norm": streams.rms_norm,
    "norm_rope_q": streams.norm_rope_q,
    "norm_rope_kv": streams.norm_rope_kv,
    "finish_entry": streams.finish_entry,
    "packed_pool": streams.packed_pool,
    "index_alignment": attention.index_alignment,
    "index_select": forward_only.index_select,
    "attention": forward_only.attention,
    "packed_attention": attention.packed_attention,
    "grouped_projection": products.grouped_projection,
    "logits": products.linear,
    "cross_entropy": products.cross_entropy,
}
