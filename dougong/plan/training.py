"""Training memory and time under recomputation and overlap policies.

Recomputation buys memory with work, compute-while-transmitting buys link time with buffers: two
independent knobs. h is the hidden size, d the expert's intermediate size, n the residual streams.
Source: arXiv 2606.19348 (tensor-level checkpointing); the counts are derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dougong.config import V4Config
from dougong.errors import InputError
from dougong.plan.chips import Chip
from dougong.plan.flops import attention_macs, index_scores
from dougong.plan.operators import moe_layers
from dougong.plan.overlap import OverlapPolicy, exposed_seconds, hiding_threshold, pair_flops
from dougong.plan.parameters import parameters_active, parameters_total
from dougong.plan.precision import compute_rate
from dougong.plan.roofline import LINK_EFFICIENCY, link_seconds
from dougong.plan.weights import ModelConfig

RecomputePolicy = Literal["none", "tensor", "module"]
RECOMPUTE_POLICIES: tuple[RecomputePolicy, ...] = ("none", "tensor", "module")

# Bytes per parameter, sharded over all ranks: BF16 weight and gradient, FP32 master and momentum.
STATE_BYTES = 2 + 2 + 4 + 4
MHC_OVERHEAD = 0.067  # of the overlapped stage, recomputation included (V4 report)
TRAINING_EFFICIENCY = 0.35  # of the dense peak end to end: a usual model FLOPs utilisation
FORWARD_WIRE, BACKWARD_WIRE = 3, 4  # bytes per value: FP8 there and BF16 back; BF16 both ways


def mhc_block(sublayers: int, streams: int) -> int:
    """Sublayers per mHC recompute block: argmin of n ceil(L / L_r) + (n + 2) L_r.

    About sqrt(n L / (n + 2)): 8 for Flash, 9 for Pro.  Source: mHC paper, arXiv 2512.24880.
    """
    if sublayers < 1:
        raise InputError(f"sublayers is {sublayers}; at least 1 is wanted")

    def kept(block: int) -> int:
        return streams * math.ceil(sublayers / block) + (streams + 2) * block

    best = min(kept(block) for block in range(1, sublayers + 1))
    ideal = math.sqrt(streams * sublayers / (streams + 2))
    ties = [block for block in range(1, sublayers + 1) if kept(block) == best]
    return min(ties, key=lambda block: abs(block - ideal))


def activation_bytes(config: ModelConfig, policy: RecomputePolicy) -> float:
    """Bytes that one token leaves per layer for the backward pass (393 / 158 / 57 kB for Pro).

        none    k (h + 4d + d + 2h) + n-stream states, mixed and normalized inputs of 2 sublayers
        tensor  k (h + 4d) + 2 sublayer outputs + one mHC block input per block
        module  the layer's input streams

    Source: derived from the layer's tensors; attention's inner tensors not counted.
    """
    h, d, k = config.hidden_size, config.moe_intermediate_size, config.num_experts_per_tok
    streams = config.hc_mult if isinstance(config, V4Config) else 1
    state = streams * h * 2
    if policy == "module":
        return float(state)
    if policy == "none":
        return k * (h + 4 * d + d + 2 * h) + 2 * state + 2 * 2 * h + 2 * 2 * h
    if policy != "tensor":
        raise InputError(
            f"recompute policy {policy!r} is unknown; use one of {', '.join(RECOMPUTE_POLICIES)}"
        )
    block = mhc_block(2 * config.num_hidden_layers, streams)
    return k * (h + 4 * d) + 2 * 2 * h + state * 2 / block


def forward_flops(config: ModelConfig, sequence_len: int) -> float:
    """FLOPs of one token's forward pass at the mean context of a sequence (half its length)."""
    middle = max(1, sequence_len // 2)
    sparse = attention_macs(config, middle) + index_scores(config, middle)
    return 2 * parameters_active(config) + 2 * sparse


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """One chip's share of a step: bytes held and seconds spent, `tokens` of them on this chip."""

    recompute: RecomputePolicy
    overlap: OverlapPolicy
    tokens: int
    state_bytes: float
    activation_bytes: float
    recompute_flops: float
    link_bytes: float
    compute_s: float
    link_s: float
    exposed_link_s: float
    x: float

    @property
    def memory_bytes(self) -> float:
        """Weights, gradients, optimizer and activations."""
        return self.state_bytes + self.activation_bytes

    @property
    def seconds(self) -> float:
        """The step: compute and the link time that shows."""
        return self.compute_s + self.exposed_link_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of one chip."""
        return self.tokens / self.seconds


def training_step(
    config: ModelConfig,
    chip: Chip,
    ranks: int,
    tokens: int,
    sequence_len: int = 4096,
    recompute: RecomputePolicy = "tensor",
    overlap: OverlapPolicy = "waves",
    waves: int = 8,
) -> TrainingStep:
    """Forward and backward of `tokens` tokens on each of `ranks` chips, experts over all of them.

    Compute is 3 forward passes, 4 with module recomputation, which also dispatches and combines
    again; tensor recomputation repeats no GEMM and no transfer, only elementwise work, and sits
    inside mHC's 6.7 %. x is communication over compute of the MoE layers.
    """
    rate, _ = compute_rate(chip, "fp8")
    rate *= TRAINING_EFFICIENCY
    forward = tokens * forward_flops(config, sequence_len)
    again = forward if recompute == "module" else 0.0
    compute_s = (3 * forward + again) / rate
    if isinstance(config, V4Config) and recompute != "none":
        compute_s *= 1 + MHC_OVERHEAD
    pairs = tokens * config.num_experts_per_tok * moe_layers(config)
    wire = FORWARD_WIRE + BACKWARD_WIRE + (FORWARD_WIRE if recompute == "module" else 0)
    link_bytes = pairs * wire * config.hidden_size * (ranks - 1) / ranks
    link_s = link_seconds(chip, ranks, link_bytes)
    passes = 4 if recompute == "module" else 3
    expert = pair_flops(config.hidden_size, config.moe_intermediate_size)
    expert_s = pairs * passes * expert / rate
    return TrainingStep(
        recompute=recompute,
        overlap=overlap,
        tokens=tokens,
        state_bytes=parameters_total(config, with_mtp=True) * STATE_BYTES / ranks,
        activation_bytes=tokens * config.num_hidden_layers * activation_bytes(config, recompute),
        recompute_flops=again,
        link_bytes=link_bytes,
        compute_s=compute_s,
        link_s=link_s,
        exposed_link_s=exposed_seconds(expert_s, link_s, overlap, waves),
        x=link_s / expert_s if expert_s else 0.0,
    )


@dataclass(frozen=True, kw_only=True)
class HidingMargin:
    """Where a chip stands on C/B <= 2d, at peak and at the efficiency that training reaches."""

    peak_ratio: float
    achieved_ratio: float
    threshold: float

    @property
    def hides_at_peak(self) -> bool:
        """True if even peak compute leaves the link hidden."""
        return self.peak_ratio <= self.threshold


def hiding_margin(config: ModelConfig, chip: Chip, chips: int = 2) -> HidingMargin:
    """C/B of a chip's 8-bit (or best) peak against the one-way link that `chips` of them share.

    Within the scale-up domain that is its own rate; beyond, the network carries the outer share.
    """
    rate, _ = compute_rate(chip, "int8" if chip.get("fp8") is None else "fp8")
    seconds_per_byte = link_seconds(chip, chips, 1.0) * LINK_EFFICIENCY
    ratio = rate * seconds_per_byte
    return HidingMargin(
        peak_ratio=ratio,
        achieved_ratio=ratio * TRAINING_EFFICIENCY / LINK_EFFICIENCY,
        threshold=hiding_threshold(config.moe_intermediate_size),
    )
