"""V3.2 turned into V4-Pro one part at a time: what each upgrade is worth alone and together.

Both models have 61 layers, hidden size 7,168, 128 heads and one vocabulary, so their parts can be
exchanged. `Hybrid()` is V3.2 and `Hybrid.all()` is V4-Pro, to the byte and to the FLOP; everything
between is arithmetic about models that nobody trained.
Source: DeepSeek-V4 report (arXiv 2606.19348) and DeepSeek-V3's (arXiv 2412.19437).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

from dougong.config import V3Config, V4Config, load_config
from dougong.plan.chips import Chip
from dougong.plan.flops import linear_rate
from dougong.plan.kv import attended_keys, index_key_bytes, kv_entry_bytes
from dougong.plan.overlap import OverlapPolicy, exposed_seconds, pair_bytes
from dougong.plan.precision import STORED_BYTES, compute_rate
from dougong.plan.roofline import LINK_EFFICIENCY
from dougong.plan.weights import ModelConfig, Weight, layer_kinds, main_weights

MEMORY_SHARE = 0.9  # of a chip's memory for weights and caches
WAVES = 8


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """Which of V4-Pro's parts replace V3.2's.

    shared_kv    one 512-vector as key and value for all heads, grouped output projection (MQA)
    compression  CSA and HCA in turn, window 128, top-1024 entries; else every token, top-2048
    fp4_index    index keys cached and multiplied in FP4; else FP8
    wide_experts 384 experts of 3,072, six active, in all layers; else 256 of 2,048, eight active
    fp4_experts  routed experts stored in FP4; else FP8
    streams      four residual streams (mHC); else one
    """

    shared_kv: bool = False
    compression: bool = False
    fp4_index: bool = False
    wide_experts: bool = False
    fp4_experts: bool = False
    streams: bool = False

    @classmethod
    def all(cls) -> Hybrid:
        """V4-Pro."""
        return cls(**dict.fromkeys(PARTS, True))


PARTS = tuple(field.name for field in fields(Hybrid))


@cache
def _old() -> V3Config:
    config = load_config("v3.2")
    assert isinstance(config, V3Config)
    return config


@cache
def _new() -> V4Config:
    config = load_config("v4-pro")
    assert isinstance(config, V4Config)
    return config


def _owner(group: str, hybrid: Hybrid) -> ModelConfig | None:
    """The model that a group of weights is taken from; None if the hybrid has no such part."""
    from_new = {
        "attention": hybrid.shared_kv,
        "compressor": hybrid.compression,
        "indexer": hybrid.compression,
        "hyper_connection": hybrid.streams,
    }.get(group, hybrid.wide_experts)  # router, experts, dense layers
    if group in ("compressor", "hyper_connection"):
        return _new() if from_new else None
    return _new() if from_new else _old()


@cache
def _inventory(hybrid: Hybrid) -> tuple[tuple[ModelConfig, Weight], ...]:
    """Every weight of the hybrid with the model it comes from; embedding, head, norms are V4's."""
    common = ("embedding", "head", "norm")
    chosen: list[tuple[ModelConfig, Weight]] = []
    for config in (_old(), _new()):
        for weight in main_weights(config):
            owner = _new() if weight.group in common else _owner(weight.group, hybrid)
            if owner is config:
                chosen.append((config, weight))
    return tuple(chosen)


@cache
def linear_flops(hybrid: Hybrid) -> float:
    """FP8-equivalent FLOPs of one token's matrix products with weights."""
    return sum(
        2.0 * weight.active_parameters * linear_rate(config, weight)
        for config, weight in _inventory(hybrid)
        if weight.is_matmul
    )


@cache
def weight_bytes(hybrid: Hybrid) -> float:
    """Bytes of the main model's weights; routed experts in FP4 or FP8, the rest as released."""
    wanted = "fp4" if hybrid.fp4_experts else "fp8"
    return sum(
        weight.parameters * STORED_BYTES[wanted]
        if weight.group == "routed_expert" and not weight.stored.startswith(wanted)
        else weight.stored_bytes
        for _, weight in _inventory(hybrid)
    )


def _keys(hybrid: Hybrid, context_len: int) -> int:
    """Entries that one decoded token attends to, summed over layers."""
    return sum(attended_keys(_new() if hybrid.compression else _old(), context_len))


def attention_flops(hybrid: Hybrid, context_len: int) -> float:
    """FP8-equivalent FLOPs of one token's attention and index scores."""
    old, new = _old(), _new()
    width = 2 * new.head_dim if hybrid.shared_kv else 2 * old.kv_lora_rank + old.qk_rope_head_dim
    scores = 2 * 2 * new.num_attention_heads * width * _keys(hybrid, context_len)
    rate = 0.5 if hybrid.fp4_index else 1.0
    per_key = new.index_n_heads * new.index_head_dim
    return scores + 2 * per_key * _indexed(hybrid, context_len) * rate


def _indexed(hybrid: Hybrid, context_len: int) -> int:
    """Index keys of one request, summed over layers: all are scanned for each token."""
    if hybrid.compression:
        return layer_kinds(_new()).count("csa") * (context_len // 4)
    return _old().num_hidden_layers * context_len


def decode_flops(hybrid: Hybrid, context_len: int) -> float:
    """FP8-equivalent FLOPs of one decoded token (see `flops.CONVENTION`)."""
    return linear_flops(hybrid) + attention_flops(hybrid, context_len)


def entry_bytes(hybrid: Hybrid) -> int:
    """Bytes of one cached vector: 584 shared, 656 latent."""
    return kv_entry_bytes(_new() if hybrid.shared_kv else _old())


def key_bytes(hybrid: Hybrid) -> int:
    """Bytes of one index key: 68 in FP4, 132 in FP8."""
    return index_key_bytes(_new(), "fp4" if hybrid.fp4_index else "fp8")


def cache_bytes(hybrid: Hybrid, context_len: int) -> int:
    """Bytes that one request holds, windows and compressor states included."""
    entry, key, new = entry_bytes(hybrid), key_bytes(hybrid), _new()
    if not hybrid.compression:
        return _old().num_hidden_layers * context_len * (entry + key)
    width = new.head_dim if hybrid.shared_kv else _old().kv_lora_rank + _old().qk_rope_head_dim
    total = new.num_hidden_layers * new.sliding_window * entry
    for ratio in new.compress_ratios[: new.num_hidden_layers]:
        total += context_len // ratio * (entry + (key if ratio == 4 else 0))
        overlapped = 2 * 8 * 2 * (width + new.index_head_dim) * 4
        total += overlapped if ratio == 4 else 2 * ratio * width * 4
    return total


def read_bytes(hybrid: Hybrid, context_len: int) -> int:
    """Cache bytes that one decoded token reads: attended entries and scanned index keys."""
    entries = _keys(hybrid, context_len) * entry_bytes(hybrid)
    return entries + _indexed(hybrid, context_len) * key_bytes(hybrid)


def largest_batch(hybrid: Hybrid, chip: Chip, chips: int, context_len: int) -> int:
    """Requests of `context_len` tokens that fit beside the weights; 0 if not even these do."""
    free = MEMORY_SHARE * chips * chip.need("mem") - weight_bytes(hybrid)
    return max(0, int(free // cache_bytes(hybrid, context_len)))


def throughput_bound(
    hybrid: Hybrid, chip: Chip, chips: int, context_len: int, overlap: OverlapPolicy = "none"
) -> float:
    """Upper bound of decoded tokens per second and chip at the largest batch that fits.

        step = max(linear FLOPs, weight bytes) + max(attention FLOPs, cache bytes) + exposed link

    each over `chips` times peak; the link carries dispatch and combine at the efficiency that
    expert libraries reach. A roofline bound, uncalibrated: use it for ratios.
    """
    batch = largest_batch(hybrid, chip, chips, context_len)
    if batch == 0:
        return 0.0
    rate, _ = compute_rate(chip, "fp8")
    bandwidth, peak = chips * chip.need("mem_bw"), chips * rate
    linear_s = max(batch * linear_flops(hybrid) / peak, weight_bytes(hybrid) / bandwidth)
    attention_s = max(
        batch * attention_flops(hybrid, context_len) / peak,
        batch * read_bytes(hybrid, context_len) / bandwidth,
    )
    config = _new() if hybrid.wide_experts else _old()
    layers = config.num_hidden_layers - (0 if hybrid.wide_experts else _old().first_k_dense_replace)
    sent = batch * config.num_experts_per_tok * layers * pair_bytes(config.hidden_size)
    link_s = sent * (chips - 1) / chips / (chips * chip.need("link") * LINK_EFFICIENCY)
    step_s = linear_s + attention_s + exposed_seconds(linear_s, link_s, overlap, WAVES)
    return batch / step_s / chips
