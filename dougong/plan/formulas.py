"""The figures of one model: what `dougong model inspect` prints and the report quotes.

Each is one function elsewhere in `plan/`, gathered here with its formula and source.
"""

from __future__ import annotations

from dougong.plan.flops import CONVENTION, decode_flops, decode_flops_fp8_equivalent
from dougong.plan.kv import (
    IndexFormat,
    KVFormat,
    compressor_state_bytes,
    gqa_bytes_per_token,
    index_key_bytes,
    kv_bytes,
    kv_bytes_per_token,
    kv_entry_bytes,
    kv_state_bytes,
    v41_flash_bytes_per_token,
)
from dougong.plan.parameters import (
    bf16_bytes,
    checkpoint_bytes,
    parameter_summary,
    parameters_active,
    parameters_mtp,
    parameters_total,
)
from dougong.plan.quantity import Quantity
from dougong.plan.weights import ModelConfig, layer_kinds

__all__ = [
    "IndexFormat",
    "KVFormat",
    "bf16_bytes",
    "checkpoint_bytes",
    "compressor_state_bytes",
    "decode_flops",
    "decode_flops_fp8_equivalent",
    "gqa_bytes_per_token",
    "index_key_bytes",
    "kv_bytes",
    "kv_bytes_per_token",
    "kv_entry_bytes",
    "kv_state_bytes",
    "layer_kinds",
    "model_figures",
    "parameter_summary",
    "parameters_active",
    "parameters_mtp",
    "parameters_total",
    "v41_flash_bytes_per_token",
]

MILLION_TOKENS = 1 << 20
_PARAMETERS = "sum of rows x columns of the published tensors (arXiv 2606.19348: 284B and 1.6T)"
_FILES = "model.safetensors.index.json of deepseek-ai/DeepSeek-V4-Flash and -Pro"
_CACHE = "entries as in FlashMLA and vLLM (arXiv 2606.19348: 7 % and 10 % of V3.2); docs/planner.md"
_FLOPS = "weighting of arXiv 2606.19348 (10 % and 27 % of V3.2 at 1M tokens); docs/planner.md"


def _figure(value: float, unit: str, formula: str, source: str) -> Quantity:
    return Quantity(value=float(value), unit=unit, formula=formula, source=source)


def model_figures(config: ModelConfig, context_len: int = MILLION_TOKENS) -> dict[str, Quantity]:
    """Size, cache and FLOPs of a model at `context_len`, each with formula, unit and source."""
    flops = decode_flops_fp8_equivalent(config, context_len)
    states = compressor_state_bytes(config)
    cache = kv_bytes(config, context_len) - states
    per_token = "n_csa (E + K)/4 + n_hca E/128; V3: layers (E + K)"
    return {
        "parameters_total": _figure(
            parameters_total(config), "parameters", "all but MTP", _PARAMETERS
        ),
        "parameters_mtp": _figure(parameters_mtp(config), "parameters", "MTP blocks", _PARAMETERS),
        "parameters_active": _figure(
            parameters_active(config),
            "parameters",
            "top-k routed + shared + dense, without the input embedding",
            _PARAMETERS,
        ),
        "checkpoint_bytes": _figure(
            checkpoint_bytes(config), "B", "stored formats with scales", _FILES
        ),
        "kv_bytes_per_token": _figure(kv_bytes_per_token(config), "B/token", per_token, _CACHE),
        "kv_bytes": _figure(cache, "B", "entries + windows", _CACHE),
        "compressor_state_bytes": _figure(
            states, "B", "pending compressor tokens, fp32, at any context", _CACHE
        ),
        "decode_flops_fp8_equivalent": _figure(flops.total, "FLOP/token", CONVENTION, _FLOPS),
        "decode_flops": _figure(
            decode_flops(config, context_len).total, "FLOP/token", "2 per multiply-add", _FLOPS
        ),
    }
