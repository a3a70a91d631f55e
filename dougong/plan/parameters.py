"""Parameter counts and checkpoint bytes, summed over the inventory of `weights`.

Source: the released index files (bytes) and arXiv 2606.19348 (284B and 1.6T); both are met
exactly, which `tests/unit/test_plan_formulas.py` checks.
"""

from __future__ import annotations

from dataclasses import dataclass

from dougong.config import V3Config
from dougong.plan.weights import Group, ModelConfig, main_weights, mtp_weights


def parameters_total(config: ModelConfig, with_mtp: bool = False) -> int:
    """Trained parameters of the model; the hash routers' token tables are not counted.

    Formula: sum of rows x columns over every tensor.  Source: arXiv 2606.19348: 284B, 1.6T.
    """
    weights = main_weights(config) + (mtp_weights(config) if with_mtp else [])
    return sum(weight.parameters for weight in weights)


def parameters_mtp(config: ModelConfig) -> int:
    """Parameters of the MTP blocks, which share embedding and head with the main model."""
    return sum(weight.parameters for weight in mtp_weights(config))


def parameters_active(config: ModelConfig, with_embedding: bool = False) -> int:
    """Parameters that one token uses: top-k routed experts, shared experts and all the rest.

    Without the input embedding by default (one row of it is read).  Source: as above: 13B, 49B.
    """
    active = sum(weight.active_parameters for weight in main_weights(config))
    return active + (config.vocab_size * config.hidden_size if with_embedding else 0)


def parameters_of(config: ModelConfig, group: Group, layer: int | None = None) -> int:
    """Parameters of one group of weights, of the whole main model or of one layer."""
    return sum(
        weight.parameters
        for weight in main_weights(config)
        if weight.group == group and layer in (None, weight.layer)
    )


def checkpoint_bytes(config: ModelConfig, with_mtp: bool = True) -> int:
    """Bytes of the checkpoint as released: `metadata.total_size` of its index file.

    FP4 experts cost 1/2 + 1/32 byte a value, FP8 matrices 1 + 1/128^2; gates, norms,
    compressors, embedding and head are BF16, mixing and bias tensors F32, token tables I64.
    V3's file repeats embedding and head in its MTP block; V4's does not.
    Source: released index files: 159,609,485,896 (Flash) and 864,704,792,696 (Pro).
    """
    weights = main_weights(config) + (mtp_weights(config) if with_mtp else [])
    total = sum(weight.stored_bytes for weight in weights)
    if with_mtp and isinstance(config, V3Config) and config.num_nextn_predict_layers:
        total += 2 * 2 * config.vocab_size * config.hidden_size
    return total


def bf16_bytes(config: ModelConfig) -> int:
    """Bytes of the main model when every value is converted to BF16 (no MTP)."""
    return 2 * parameters_total(config)


@dataclass(frozen=True, kw_only=True)
class ParameterSummary:
    """What `model inspect` prints about size. All counts are parameters, not bytes."""

    total: int
    total_with_mtp: int
    active: int
    active_with_embedding: int
    routed_per_expert: int


def parameter_summary(config: ModelConfig) -> ParameterSummary:
    """The five counts of any configuration: all, MTP, active, and what makes them up."""
    return ParameterSummary(
        total=parameters_total(config),
        total_with_mtp=parameters_total(config, with_mtp=True),
        active=parameters_active(config),
        active_with_embedding=parameters_active(config, with_embedding=True),
        routed_per_expert=3 * config.hidden_size * config.moe_intermediate_size,
    )
