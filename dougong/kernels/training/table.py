"""Backend `training`'s table: operator name to implementation.

What reads and writes a request's memory is backend cpu's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dougong.kernels.cpu import attention as forward_only
from dougong.kernels.training import attention, compressor, experts, products, streams

OPERATORS: dict[str, Callable[..., Any]] = {
    "linear": products.linear,
    "wide_linear": products.wide_linear,
    "grouped_experts": experts.grouped_experts,
    "expert_mlp": experts.expert_mlp,
    "mhc_pre": streams.mhc_pre,
    "mhc_post": streams.mhc_post,
    "mhc_head": streams.mhc_head,
    "rms_norm": streams.rms_norm,
    "norm_rope_q": streams.norm_rope_q,
    "norm_rope_kv": streams.norm_rope_kv,
    "compress": compressor.compress,
    "index_alignment": attention.index_alignment,
    "index_select": forward_only.index_select,
    "attention": attention.attention,
    "remember": forward_only.remember,
    "grouped_projection": products.grouped_projection,
    "logits": products.linear,
    "cross_entropy": products.cross_entropy,
}
