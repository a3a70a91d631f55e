"""Bytes of KV cache: per token of long context, and what one request holds at a context.

Source: DeepSeek-V4 report (arXiv 2606.19348), FlashMLA. The byte counts per entry are the
layouts of FlashMLA ("MODEL1", 584 B) and DeepGEMM (68 B FP4 index keys).
"""

from __future__ import annotations

from typing import Literal

from dougong.config import V3Config, V4Config
from dougong.errors import InputError
from dougong.plan.weights import ModelConfig, layer_kinds

KVFormat = Literal["fp8", "bf16", "fp32", "hif8", "fp4"]
IndexFormat = Literal["fp4", "fp8", "bf16", "fp32"]
V41_FLASH_ENTRIES_PER_TOKEN = 2.5  # V4.1-Flash report: 1.5 (encoder) + 1 (decoder)


def kv_entry_bytes(config: ModelConfig, kv_format: KVFormat = "fp8") -> int:
    """Bytes of one cached vector (window or compressed): 584 for V4, 656 for V3.2.

    V4 fp8: (c - r) E4M3 + one UE8M0 per 64 of them + r BF16 rope values, padded to 8 bytes.
    V3 fp8: latent E4M3 + one FP32 per 128 of it + BF16 rope.  hif8: one byte a value, no scales
    (the CANN recipe).  fp4: V4.1's E2M1 with one E4M3 scale per 16.
    """
    rope = config.qk_rope_head_dim
    if isinstance(config, V3Config):
        latent, values = config.kv_lora_rank, config.kv_lora_rank + rope
        fp8 = latent + 4 * -(-latent // 128) + 2 * rope
    else:
        values = config.head_dim
        plain = values - rope
        fp8 = -(-(plain + -(-plain // 64) + 2 * rope) // 8) * 8
    sizes = {
        "fp8": fp8, "bf16": 2 * values, "fp32": 4 * values, "hif8": values,
        "fp4": values // 2 + values // 16,
    }  # fmt: skip
    return _pick(sizes, kv_format, "KV format")


def index_key_bytes(config: ModelConfig, index_format: IndexFormat | None = None) -> int:
    """Bytes of one indexer key: 68 (fp4 + UE8M0 per 32), 132 (fp8 + FP32), 256 (bf16), 512 (fp32).

    Default: the release's format, fp4 for V4 and fp8 for V3.2; 0 without an indexer.
    """
    dim = config.index_head_dim or 0
    if not dim:
        return 0
    chosen = index_format or ("fp8" if isinstance(config, V3Config) else "fp4")
    sizes = {"fp4": dim // 2 + dim // 32, "fp8": dim + 4, "bf16": 2 * dim, "fp32": 4 * dim}
    return _pick(sizes, chosen, "index format")


def _pick(sizes: dict[str, int], name: str, what: str) -> int:
    if name not in sizes:
        raise InputError(f"{what} {name!r} is unknown; use one of {', '.join(sizes)}")
    return sizes[name]


def kv_bytes_per_token(
    config: ModelConfig, kv_format: KVFormat = "fp8", index_format: IndexFormat | None = None
) -> float:
    """Bytes that each further token of a long context adds to the cache.

        V4:   n_csa (E + K) / 4 + n_hca E / 128          V3, V3.2:   layers (E + K)

    with E the entry and K the index key.  Source: arXiv 2606.19348: 7 % and 10 % of V3.2's.
    """
    entry, key = kv_entry_bytes(config, kv_format), index_key_bytes(config, index_format)
    if isinstance(config, V3Config):
        return float(config.num_hidden_layers * (entry + key))
    ratios = config.compress_ratios[: config.num_hidden_layers]
    return sum((entry + (key if ratio == 4 else 0)) / ratio for ratio in ratios if ratio)


def compressor_state_bytes(config: ModelConfig) -> int:
    """Bytes of a V4 request's pending compressor tokens, fp32, at any context; 0 for V3.

        HCA 2*128*c*4, CSA 2*8*2c*4, indexer 2*8*2k*4 a layer

    Source: DeepSeek's inference code (published cache totals leave these out).
    """
    if isinstance(config, V3Config):
        return 0
    total = 0
    for ratio in config.compress_ratios[: config.num_hidden_layers]:
        if ratio == 4:
            total += 2 * 8 * 2 * (config.head_dim + config.index_head_dim) * 4
        elif ratio:
            total += 2 * ratio * config.head_dim * 4
    return total


def kv_state_bytes(config: ModelConfig, kv_format: KVFormat = "fp8") -> int:
    """Bytes that a V4 request holds at any context: windows and compressor states; 0 for V3.

        layers * window * E + compressor states

    Source: arXiv 2606.19348 (state cache).
    """
    if isinstance(config, V3Config):
        return 0
    windows = config.num_hidden_layers * config.sliding_window * kv_entry_bytes(config, kv_format)
    return windows + compressor_state_bytes(config)


def kv_bytes(
    config: ModelConfig,
    context_len: int,
    kv_format: KVFormat = "fp8",
    index_format: IndexFormat | None = None,
) -> int:
    """Bytes that one request of `context_len` tokens holds, summed over layers.

    Whole compressed blocks only (floor), windows and states in full, no block padding.
    """
    entry, key = kv_entry_bytes(config, kv_format), index_key_bytes(config, index_format)
    if isinstance(config, V3Config):
        return config.num_hidden_layers * context_len * (entry + key)
    total = kv_state_bytes(config, kv_format)
    for ratio in config.compress_ratios[: config.num_hidden_layers]:
        if ratio:
            total += context_len // ratio * (entry + (key if ratio == 4 else 0))
    return total


def window_bytes_per_token(config: V4Config, kv_format: KVFormat = "fp8") -> int:
    """Bytes of uncompressed window entries that one token leaves in all layers (35.6 kB, Pro)."""
    return config.num_hidden_layers * kv_entry_bytes(config, kv_format)


def gqa_bytes_per_token(
    layers: int, kv_heads: int = 8, head_dim: int = 128, value_bytes: int = 2
) -> int:
    """Bytes per token of a grouped-query cache, keys and values: the yardstick of section 9.1."""
    return layers * 2 * kv_heads * head_dim * value_bytes


def v41_flash_bytes_per_token() -> float:
    """V4.1-Flash's 890 B: 2.5 entries a token of 512 FP4 values (288 B) plus a 68 B index key.

    Source: V4.1-Flash report: 890 B.
    """
    return V41_FLASH_ENTRIES_PER_TOKEN * (512 // 2 + 512 // 16 + 68)


def attended_keys(config: ModelConfig, context_len: int) -> list[int]:
    """Keys that one decoded token attends to in each main layer at `context_len`."""
    topk = config.index_topk or 0
    if isinstance(config, V3Config):
        keys = min(topk, context_len) if topk else context_len
        return [keys] * config.num_hidden_layers
    window = min(config.sliding_window, context_len)
    extra = {"swa": 0, "csa": min(topk, context_len // 4)}
    ratios = config.compress_ratios
    return [
        window + (context_len // ratios[layer] if kind == "hca" else extra[kind])
        for layer, kind in enumerate(layer_kinds(config))
    ]
