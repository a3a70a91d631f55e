"""Expert parallelism: what crosses the link, when it hides behind compute, and what waves buy.

h is the model's hidden size and d the expert's intermediate size, as in arXiv 2606.19348.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dougong.errors import InputError

OverlapPolicy = Literal["none", "two_stage", "waves"]
OVERLAP_POLICIES: tuple[OverlapPolicy, ...] = ("none", "two_stage", "waves")

# Bytes per element on the wire; fp4 carries one UE8M0 scale per 32 values.
WIRE_BYTES = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5 + 1 / 32}


def pair_flops(h: int, d: int) -> int:
    """FLOPs of one token at one expert: three matrices of h x d, 2 per multiply-add."""
    return 6 * h * d


def pair_bytes(h: int, dispatch: str = "fp8", combine: str = "bf16") -> float:
    """Bytes on the link for one token at one expert: its row there, the result back."""
    return h * (WIRE_BYTES[dispatch] + WIRE_BYTES[combine])


def hiding_threshold(
    d: int, dispatch: str = "fp8", combine: str = "bf16", ranks: int | None = None
) -> float:
    """Largest C/B (FLOP per byte) at which expert traffic hides fully: 6d / (b_disp + b_comb).

    2d for FP8 dispatch and BF16 combine. Only remote pairs use the link, so with `ranks` ranks and
    uniform routing the bound grows by R / (R - 1).  Source: arXiv 2606.19348 (C/B <= 2d).
    """
    if ranks is not None and ranks < 2:
        return math.inf  # one rank sends nothing
    remote = 1.0 if ranks is None else (ranks - 1) / ranks
    return 6 * d / (WIRE_BYTES[dispatch] + WIRE_BYTES[combine]) / remote


def compute_to_link(flops_per_s: float, link_bytes_per_s: float) -> float:
    """C/B of a machine, in FLOP per byte; infinite without a link."""
    return flops_per_s / link_bytes_per_s if link_bytes_per_s > 0 else math.inf


def hides(flops_per_s: float, link_bytes_per_s: float, d: int) -> bool:
    """True where C/B <= 2d: with enough waves the link costs nothing."""
    return compute_to_link(flops_per_s, link_bytes_per_s) <= hiding_threshold(d)


def moe_time(x: float, policy: OverlapPolicy, waves: int = 8) -> float:
    """Time of one MoE layer in units of its compute, for x = communication / compute.

        none       1 + x
        two_stage  max(x/3, 2/3) + max(1/3, 2x/3)
        waves      max(1, x) + x/(3W) + 2x/(3W)

    Linear-1 is 2/3 of the compute, dispatch 1/3 of the bytes. Ideal chunking, equal waves, full
    duplex, no launch cost.  Source: derived here.
    """
    if x < 0:
        raise InputError(f"communication / compute is {x}; it cannot be negative")
    if policy == "none":
        return 1 + x
    if policy == "two_stage":
        return max(x / 3, 2 / 3) + max(1 / 3, 2 * x / 3)
    if waves < 1:
        raise InputError(f"waves is {waves}; at least one wave of experts is needed")
    return max(1.0, x) + x / (3 * waves) + 2 * x / (3 * waves)


def speedup(x: float, policy: OverlapPolicy, waves: int = 8) -> float:
    """How much faster than no overlap at x = communication / compute."""
    return moe_time(x, "none") / moe_time(x, policy, waves)


def wave_crossover(waves: int) -> float:
    """The x above which W waves beat the two-stage overlap: (1/3) / (2/3 - 1/W).

    Infinite for W = 1, where the waves do not overlap at all.  Source: derived here.
    """
    gap = 2 / 3 - 1 / waves
    return 1 / 3 / gap if gap > 0 else math.inf


def exposed_seconds(
    compute_s: float, link_s: float, policy: OverlapPolicy, waves: int = 8
) -> float:
    """Seconds of expert traffic left on the critical path under a policy; >= 0, <= link_s."""
    if link_s <= 0:
        return 0.0
    if compute_s <= 0 or math.isinf(link_s):
        return link_s
    exposed = compute_s * moe_time(link_s / compute_s, policy, waves) - compute_s
    return min(link_s, exposed)  # an engine may always fall back to no overlap


# --- the fused kernel on Blackwell, against DeepGEMM pull request 316 --------------------------

BLOCK_M = ((8.5, 16), (16.5, 32), (32.5, 64), (64.5, 96), (96.5, 128))  # DeepGEMM's heuristic
REDUCTION_BYTES_PER_S = 6.5e12  # upstream benchmark's rate for the serial combine
DEEPEP_BYTES_PER_S = 735e9  # DeepEP V2, SM100, EP8: 726 dispatch, 740 combine


@dataclass(frozen=True, kw_only=True)
class FusedMachine:
    """A scale-up node for the fused MoE kernel; defaults are 8 x B200.

    The efficiencies and latencies were fitted on DeepGEMM pull request 316's eight rows: the
    fused kernel sustains 56 % of FP8 peak and 65 % of HBM; 45 us of barriers and count exchange
    remain fused (6.5 + 4 + 3 us are quoted in the source, the rest is pipeline depth), and 55 us
    of kernel launches and waits more are paid unfused.
    """

    flops_per_s: float = 4.5e15
    mem_bytes_per_s: float = 8e12
    ranks: int = 8
    compute_efficiency: float = 0.56
    memory_efficiency: float = 0.65
    fixed_s: float = 45e-6
    unfused_fixed_s: float = 55e-6


@dataclass(frozen=True, kw_only=True)
class FusedMoE:
    """Predicted times of one MoE layer in seconds."""

    fused_s: float
    unfused_s: float

    @property
    def speedup(self) -> float:
        """Unfused over fused."""
        return self.unfused_s / self.fused_s


def block_rows(tokens_per_expert: float) -> int:
    """Rows of the fused kernel's tiles by tokens per expert (DeepGEMM, SM100)."""
    return next((rows for limit, rows in BLOCK_M if tokens_per_expert <= limit), 192)


def fused_moe(
    h: int, d: int, experts: int, top_k: int, tokens_per_rank: int, machine: FusedMachine
) -> FusedMoE:
    """One MoE layer with and without compute-while-transmitting, uniform random routing.

        fused   = fixed + max(padded FLOPs / C, bytes / M) + combine reduction
        unfused = fused + launches + remote bytes at DeepEP's rate + SwiGLU as its own pass

    Bytes and FLOPs as the upstream benchmark counts them.  Source: DeepGEMM, pull request 316.
    """
    pairs, local = tokens_per_rank * top_k, experts / machine.ranks
    touched = local * (1 - (1 - 1 / experts) ** (pairs * machine.ranks))
    rows = block_rows(pairs / local)
    padded_pairs = touched * rows * math.ceil(pairs / touched / rows)
    hbm = touched * 3 * h * d * WIRE_BYTES["fp4"] + pairs * (h + 2 * d + 2 * h)
    compute_s = padded_pairs * pair_flops(h, d) / machine.flops_per_s / machine.compute_efficiency
    memory_s = hbm / machine.mem_bytes_per_s / machine.memory_efficiency
    reduction_s = tokens_per_rank * h * 2 * (1 + top_k) / REDUCTION_BYTES_PER_S
    fused = machine.fixed_s + max(compute_s, memory_s) + reduction_s
    remote = pairs * pair_bytes(h) * (machine.ranks - 1) / machine.ranks
    activation_s = pairs * (4 * d + 2 * d + d) / REDUCTION_BYTES_PER_S
    unfused = fused + machine.unfused_fixed_s + remote / DEEPEP_BYTES_PER_S + activation_s
    return FusedMoE(fused_s=fused, unfused_s=unfused)
