"""Backend `cpu`'s table: operator name to implementation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dougong.kernels.cpu import attention, compressor, products, streams
from dougong.kernels.linear import cross_entropy
from dougong.kernels.training.attention import index_alignment

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
    "compress": compressor.compress,
    "index_select": attention.index_select,
    "index_alignment": index_alignment,
    "attention": attention.attention,
    "remember": attention.remember,
    "add": streams.add,
    "lookup": streams.lookup,
    "grouped_projection": products.grouped_projection,
    "logits": products.wide_linear,
    "cross_entropy": partial(cross_entropy, product=products.wide_linear),
}
