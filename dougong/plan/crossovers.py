"""Where one policy starts to beat another: waves, checkpointing, and the links that decide.

Compute-while-transmitting pays when compute per link byte (C/B) is small, recomputation when it is
large: both are questions to the same ratio.
"""

from __future__ import annotations

import math

from dougong.plan.chips import Chip
from dougong.plan.overlap import hiding_threshold
from dougong.plan.training import TRAINING_EFFICIENCY, activation_bytes, forward_flops
from dougong.plan.weights import ModelConfig


def waves_to_win(x: float) -> float:
    """Fewest waves (not rounded) that equal the two-stage overlap at x = communication / compute.

        1/2 < x <= 1:  3x / (2x - 1)        1 < x < 2:  3x / (2 - x)

    Infinite elsewhere: up to 1/2 the two-stage scheme already hides everything, from 2 on it is
    bound by the link alone.  Source: overlap.py, both times set equal and solved for W.
    """
    if 0.5 < x <= 1:
        return 3 * x / (2 * x - 1)
    if 1 < x < 2:
        return 3 * x / (2 - x)
    return math.inf


def hiding_share(c_over_b: float, d: int) -> float:
    """Share of peak compute below which the link hides, 1 if it hides even at peak: 2d / (C/B)."""
    return min(1.0, hiding_threshold(d) / c_over_b)


def link_to_hide(flops_per_s: float, d: int) -> float:
    """One-way link B/s at which expert traffic hides at this compute rate: C / 2d."""
    return flops_per_s / hiding_threshold(d)


def recompute_flops_per_byte(config: ModelConfig, sequence_len: int = 4096) -> float:
    """FLOPs that module checkpointing repeats for each activation byte it frees.

        one forward pass / (layers x (bytes kept without - bytes kept with checkpointing))

    Source: training.py; tensor-level checkpointing repeats no GEMM.
    """
    freed = activation_bytes(config, "none") - activation_bytes(config, "module")
    return forward_flops(config, sequence_len) / (config.num_hidden_layers * freed)


def recompute_s_per_byte(config: ModelConfig, flops_per_s: float) -> float:
    """Seconds that module checkpointing pays for one byte, at training efficiency."""
    return recompute_flops_per_byte(config) / (flops_per_s * TRAINING_EFFICIENCY)


def offload_s_per_byte(host_bytes_per_s: float) -> float:
    """Seconds to move one byte to the host and back, one after the other."""
    return 2 / host_bytes_per_s


def tokens_that_fit(chip: Chip, state_bytes: float, bytes_per_token: float) -> int:
    """Tokens whose activations fit beside `state_bytes` in 90 % of a chip's memory; 0 if none."""
    return max(0, int((0.9 * chip.need("mem") - state_bytes) / bytes_per_token))
