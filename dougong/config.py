"""Model configurations as frozen dataclasses with config.json's own field names (no torch).

`V4Config` describes DeepSeek-V4 (Flash, Pro, and our nano and mini); `V3Config` describes V3 and
V3.2. Attribute names are the keys of the Hugging Face `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """YaRN parameters (`rope_scaling` of config.json)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, kw_only=True)
class V4Config:
    """One DeepSeek-V4 model. `compress_ratios` has one entry per main layer, then per MTP layer."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    sliding_window: int
    compress_ratios: tuple[int, ...]
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int = 1
    moe_intermediate_size: int
    num_hash_layers: int
    routed_scaling_factor: float
    swiglu_limit: float
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    num_nextn_predict_layers: int = 0
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: int = 1048576
    bos_token_id: int = 0
    eos_token_id: int = 1
    initializer_range: float = 0.02
    torch_dtype: str = "bfloat16"
    expert_dtype: str | None = None  # "fp4" or "fp8": how routed experts are stored; None: like the rest
    quantized: bool = False  # carries a quantization_config: linears stored as FP8 128x128
