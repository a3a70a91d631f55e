"""Seconds of a step on a chip: per operator the slower of compute and memory, plus what is exposed.

    step = sum over operators of max(FLOPs / (peak x e_c), bytes / (bandwidth x e_m))
         + launches x call_s + top-k scans + drafts x draft_s + link time that overlap leaves over

The factors of a chip class are fitted in `calibration`; everything else is arithmetic. A step is
first computed at ideal factors, then rescaled, so that fitting and intervals cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dougong.plan.chips import Chip
from dougong.plan.layout import Layout
from dougong.plan.operators import Operator, Step, Work, draft_work, main_work
from dougong.plan.overlap import OverlapPolicy, exposed_seconds
from dougong.plan.precision import Precision, compute_rate
from dougong.plan.weights import ModelConfig

# Share of one-way link peak that expert traffic reaches: DeepEP V2 726-740 of 900 (0.81), H800
# 160 of 200 (0.80), CM384 167 of 196 (0.85), sgl-kernel-npu 102-152 of 196 (0.52-0.78).
LINK_EFFICIENCY = 0.7
SELECTING_AT_ONCE = 32  # queries whose top-k scans run side by side, one per core group: our guess
WAVES = 8
# 128x128 scales on Ascend 950's MX units: CANN's tables are 19 % behind MXFP8 linears at the same
# software date (Huawei's recipes). Where in the step is not said, so all of it is slowed alike.
BLOCK_SCALE_PENALTY = 1.19


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What a chip class makes of its peaks, all positive.

    memory_efficiency  share of peak bandwidth that a step's reads reach
    compute_efficiency share of the dense peak that padded GEMMs reach
    call_s             seconds that each kernel launch, barrier or small collective leaves exposed
    select_per_s       entries per second that one query's top-k scans
    draft_s            seconds that a draft pass costs beyond its arithmetic: graph switch, sampling
    """

    memory_efficiency: float = 1.0
    compute_efficiency: float = 1.0
    call_s: float = 0.0
    select_per_s: float = math.inf
    draft_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One operator's roofline: `seconds` is the larger of the two, `bound` says which."""

    name: str
    format: str
    flops: float
    memory_bytes: float
    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The slower of compute and memory."""
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> str:
        """ "compute" or "memory"."""
        return "compute" if self.compute_s > self.memory_s else "memory"

    def at(self, factors: Factors) -> OperatorTime:
        """This operator, timed at peak rates, under a chip class's factors."""
        return OperatorTime(
            name=self.name,
            format=self.format,
            flops=self.flops,
            memory_bytes=self.memory_bytes,
            compute_s=self.compute_s / factors.compute_efficiency,
            memory_s=self.memory_s / factors.memory_efficiency,
        )

    @property
    def intensity(self) -> float:
        """FLOP per byte of memory traffic."""
        return self.flops / self.memory_bytes if self.memory_bytes else math.inf


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step, drafts included. `link_s` is what overlap leaves exposed."""

    operators: tuple[OperatorTime, ...]
    launch_s: float
    select_s: float
    draft_s: float
    link_s: float
    link_busy_s: float
    expert_compute_s: float
    expert_link_s: float

    @property
    def total_s(self) -> float:
        """The whole step."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Seconds by what binds; they add up to the step."""
        parts = {"compute": 0.0, "memory": 0.0}
        for operator in self.operators:
            parts[operator.bound] += operator.seconds
        return parts | {
            "link": self.link_s,
            "launches": self.launch_s,
            "selection": self.select_s,
            "drafting": self.draft_s,
        }

    @property
    def bound(self) -> str:
        """What takes the largest part of the step."""
        parts = self.parts()
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True, kw_only=True)
class IdealPass:
    """One pass at peak rates: operators, launches, scans of one query after another, link."""

    operators: tuple[OperatorTime, ...]
    calls: float
    scans: float
    expert_link_s: float
    group_link_s: float
    overlap: OverlapPolicy

    def at(self, factors: Factors) -> StepTime:
        """The pass under a chip class's factors."""
        timed = tuple(one.at(factors) for one in self.operators)
        experts = sum(o.seconds for o in timed if o.name in ("routed experts", "shared experts"))
        exposed = exposed_seconds(experts, self.expert_link_s, self.overlap, WAVES)
        return StepTime(
            operators=timed,
            launch_s=self.calls * factors.call_s,
            select_s=self.scans / factors.select_per_s,
            draft_s=0.0,
            link_s=exposed + self.group_link_s,
            link_busy_s=self.expert_link_s + self.group_link_s,
            expert_compute_s=experts,
            expert_link_s=self.expert_link_s,
        )


@dataclass(frozen=True, kw_only=True)
class IdealStep:
    """One step at peak rates: the main pass and `drafts` equal draft passes."""

    main: IdealPass
    draft: IdealPass | None
    drafts: int

    def at(self, factors: Factors) -> StepTime:
        """The step under a chip class's factors."""
        main = self.main.at(factors)
        if self.draft is None:
            return main
        once, passes = self.draft.at(factors), self.drafts
        return StepTime(
            operators=main.operators + tuple(_repeated(one, passes) for one in once.operators),
            launch_s=main.launch_s + passes * once.launch_s,
            select_s=main.select_s,
            draft_s=passes * factors.draft_s,
            link_s=main.link_s + passes * once.link_s,
            link_busy_s=main.link_busy_s + passes * once.link_busy_s,
            expert_compute_s=main.expert_compute_s + passes * once.expert_compute_s,
            expert_link_s=main.expert_link_s + passes * once.expert_link_s,
        )


def _repeated(one: OperatorTime, passes: int) -> OperatorTime:
    """A draft pass's operator, `passes` times, under a name of its own."""
    return replace(
        one,
        name=f"drafts: {one.name}",
        flops=passes * one.flops,
        memory_bytes=passes * one.memory_bytes,
        compute_s=passes * one.compute_s,
        memory_s=passes * one.memory_s,
    )


def link_seconds(chip: Chip, chips: int, size: float) -> float:
    """Seconds to move `size` bytes one way among `chips`; infinite where nothing joins them.

    Over scale-up within the domain and over scale-out for the share of peers outside it, both at
    once. Cards without a network of their own (PCIe workstations) use their one link for all, and
    chips whose link is zero use the network for all.
    """
    if size <= 0 or chips < 2:
        return 0.0
    domain = chip.get("domain") or 1.0
    inside = 1.0 if chips <= domain else max(0.0, domain - 1) / (chips - 1)
    if not chip.get("scaleout"):
        inside = 1.0
    elif chip.get("link") == 0:
        inside = 0.0
    slow = 0.0
    for share, key in ((inside, "link"), (1 - inside, "scaleout")):
        if share > 0:
            rate = chip.need(key) * LINK_EFFICIENCY
            slow = max(slow, size * share / rate if rate > 0 else math.inf)
    return slow


def operator_time(operator: Operator, chip: Chip, slowdown: float = 1.0) -> OperatorTime:
    """The roofline of one operator at the chip's peaks."""
    rate, used = compute_rate(chip, operator.compute)
    return OperatorTime(
        name=operator.name,
        format=used,
        flops=operator.flops,
        memory_bytes=operator.memory_bytes,
        compute_s=slowdown * operator.flops / rate,
        memory_s=slowdown * operator.memory_bytes / chip.need("mem_bw"),
    )


def _ideal_pass(
    work: Work, chip: Chip, layout: Layout, precision: Precision, overlap: OverlapPolicy
) -> IdealPass:
    emulated = precision.block_scaled and chip.vendor == "Huawei"
    slowdown = BLOCK_SCALE_PENALTY if emulated else 1.0
    timed = tuple(
        operator_time(operator, chip, slowdown)
        for operator in work.operators
        if operator.flops or operator.memory_bytes
    )
    rounds = max(1.0, work.selecting / SELECTING_AT_ONCE)
    return IdealPass(
        operators=timed,
        calls=slowdown * sum(operator.calls for operator in work.operators),
        scans=work.selections / work.selecting * rounds,
        expert_link_s=link_seconds(chip, layout.chips, work.expert_link_bytes),
        group_link_s=link_seconds(chip, layout.tp, work.group_link_bytes),
        overlap=overlap,
    )


def ideal_step(
    config: ModelConfig,
    step: Step,
    layout: Layout,
    chip: Chip,
    precision: Precision,
    overlap: OverlapPolicy = "waves",
) -> IdealStep:
    """One step at the chip's peaks: the main pass and one draft pass for each drafted token."""
    draft = draft_work(config, step, layout, precision)
    main = main_work(config, step, layout, precision)
    return IdealStep(
        main=_ideal_pass(main, chip, layout, precision, overlap),
        draft=_ideal_pass(draft, chip, layout, precision, overlap) if draft else None,
        drafts=step.drafts,
    )
