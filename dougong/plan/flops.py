"""FLOPs of one decoded token: counted plainly, and FP8-equivalent as DeepSeek's report counts.

Two conventions, never to be mixed:
* plain: every multiply-add is 2 FLOP, whatever its format;
* FP8-equivalent: a BF16 or FP32 operation counts 2, FP8 1, FP4 0.5. Routed FP4 weights count at
  the FP8 rate, since hardware gives FP4 x FP8 no gain. This is the weighting that reproduces the
  report's 27 % (Pro) and 10 % (Flash) of V3.2 at 1M context.
Source: arXiv 2606.19348.
"""

from __future__ import annotations

from dataclasses import dataclass

from dougong.config import V3Config
from dougong.plan.kv import attended_keys
from dougong.plan.weights import ModelConfig, Weight, layer_kinds, main_weights

CONVENTION = (
    "FP8-equivalent: BF16/FP32 operations count 2, FP8 1, FP4 0.5 (FP4 weights at the FP8 rate)"
)


@dataclass(frozen=True, kw_only=True)
class TokenFlops:
    """FLOPs of one decoded token by part; `total` is their sum."""

    linear: float
    index: float
    attention: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.linear + self.index + self.attention


def index_scores(config: ModelConfig, context_len: int) -> int:
    """Multiply-adds of the indexers' scores: heads x dim x visible keys, over indexed layers."""
    per_key = (config.index_n_heads or 0) * (config.index_head_dim or 0)
    if isinstance(config, V3Config):
        return config.num_hidden_layers * per_key * context_len if config.index_topk else 0
    return layer_kinds(config).count("csa") * per_key * (context_len // 4)


def attention_macs(config: ModelConfig, context_len: int) -> int:
    """Multiply-adds of scores and values: heads x keys x (score dim + value dim).

    V4: 512 + 512. V3 decodes in the absorbed form: 576 + 512.
    """
    if isinstance(config, V3Config):
        width = 2 * config.kv_lora_rank + config.qk_rope_head_dim
    else:
        width = 2 * config.head_dim
    return config.num_attention_heads * width * sum(attended_keys(config, context_len))


def linear_rate(config: ModelConfig, weight: Weight) -> int:
    """How many FP8-equivalents one operation on this weight counts.

    V3.2's router is counted at 1, as the ratios want; as BF16 it would add 0.2 GF (0.02 %
    of the total at 1M). V4's router counts 2, as stated there.
    """
    if isinstance(config, V3Config):
        return (
            2
            if weight.group == "head" or weight.name in ("indexer.wk", "indexer.weights_proj")
            else 1
        )
    low_precision = weight.group in ("attention", "routed_expert", "shared_expert")
    return 1 if low_precision or weight.name == "indexer.wq_b" else 2


def decode_flops_fp8_equivalent(config: ModelConfig, context_len: int) -> TokenFlops:
    """FLOPs of one decoded token at `context_len`, in DeepSeek's weighting (see `CONVENTION`).

        linear    = 2 * sum(active matmul parameters * weight)
        index     = n_csa * 64*128 * 2 * N/4 * 0.5        (V3.2: 61 * 64*128 * 2 * N * 1)
        attention = sum over layers of H * (512+512) * keys * 2 * 2

    Source: arXiv 2606.19348; the formats are the release's whatever the config is stored in.
    """
    linear = sum(
        2 * weight.active_parameters * linear_rate(config, weight)
        for weight in main_weights(config)
        if weight.is_matmul
    )
    index_rate = 1.0 if isinstance(config, V3Config) else 0.5
    return TokenFlops(
        linear=linear,
        index=2 * index_scores(config, context_len) * index_rate,
        attention=2 * attention_macs(config, context_len) * 2,
    )


def decode_flops(config: ModelConfig, context_len: int) -> TokenFlops:
    """FLOPs of one decoded token at `context_len`, every multiply-add counted as 2."""
    linear = sum(
        2 * weight.active_parameters for weight in main_weights(config) if weight.is_matmul
    )
    return TokenFlops(
        linear=linear,
        index=2 * index_scores(config, context_len),
        attention=2 * attention_macs(config, context_len),
    )
