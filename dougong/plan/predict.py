"""From a scenario to figures: does it fit, seconds per token, throughput, and what binds.

A scenario is a model on a layout of chips in a precision, with a context and requests in flight.
Every figure is returned with formula and source, and with the calibration's 90 % interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dougong.errors import InputError
from dougong.plan.calibration import ROW_SIGMA, Calibration, chip_class
from dougong.plan.chips import Chip
from dougong.plan.layout import Layout, MemoryNeed, default_layout, largest_batch, memory_need
from dougong.plan.operators import Step
from dougong.plan.overlap import OverlapPolicy
from dougong.plan.precision import Precision, default_precision, find_precision
from dougong.plan.quantity import Quantity
from dougong.plan.roofline import Factors, IdealStep, StepTime, ideal_step
from dougong.plan.speculation import FIRST_ACCEPTED, tokens_per_step
from dougong.plan.weights import ModelConfig

PREFILL_CHUNK = 8192  # tokens a group prefills at once: vLLM's and SGLang's usual order
# Prefill was not in the fit: its interval carries this much more scatter.
PREFILL_SIGMA = 0.30
STEP_FORMULA = (
    "sum of max(FLOPs / (peak e_c), bytes / (bandwidth e_m)) + launches + scans + drafts + "
    "exposed link, over tokens gained per step"
)
STEP_SOURCE = "plan/operators, plan/roofline; factors fitted on v4_inference_benchmarks.csv"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything a prediction depends on. `batch` is requests in flight on the whole replica."""

    config: ModelConfig
    chip: Chip
    layout: Layout
    precision: Precision
    context_len: int
    batch: int
    drafts: int = 0
    acceptance: float = FIRST_ACCEPTED
    overlap: OverlapPolicy = "waves"

    def __post_init__(self) -> None:
        if self.context_len < 1 or self.batch < 1:
            raise InputError(
                f"context {self.context_len} and batch {self.batch} must be at least 1"
            )
        limit = self.config.max_position_embeddings
        if self.context_len > limit:
            raise InputError(
                f"context {self.context_len} is longer than the model's {limit} tokens"
            )
        if self.drafts and not self.config.num_nextn_predict_layers:
            raise InputError("this model has no MTP block, so nothing can be drafted; use --mtp 0")


@dataclass(frozen=True, kw_only=True)
class Decode:
    """One decode operating point; times in seconds with their 90 % interval."""

    scenario: Scenario
    memory: MemoryNeed
    step: StepTime
    tpot_s: float
    tpot_low_s: float
    tpot_high_s: float
    calibrated: bool

    @property
    def tokens_per_s_per_chip(self) -> float:
        """Output tokens per second and chip."""
        return self.scenario.batch / self.tpot_s / self.scenario.layout.chips

    @property
    def tokens_per_s_per_user(self) -> float:
        """Output tokens per second that one request sees."""
        return 1 / self.tpot_s

    def quantities(self) -> dict[str, Quantity]:
        """The figures that reports quote, each with its parent."""
        chips, batch = self.scenario.layout.chips, self.scenario.batch

        def figure(value: float, unit: str, formula: str, *bounds: float) -> Quantity:
            low, high = bounds or (None, None)
            return Quantity(
                value=value, unit=unit, formula=formula, source=STEP_SOURCE, low=low, high=high
            )

        return {
            "time_per_token_s": figure(
                self.tpot_s, "s", STEP_FORMULA, self.tpot_low_s, self.tpot_high_s
            ),
            "tokens_per_s_per_user": figure(
                1 / self.tpot_s, "token/s/user", "1 / time per token",
                1 / self.tpot_high_s, 1 / self.tpot_low_s,
            ),
            "tokens_per_s_per_chip": figure(
                self.tokens_per_s_per_chip, "token/s/chip", "requests / (time per token x chips)",
                batch / self.tpot_high_s / chips, batch / self.tpot_low_s / chips,
            ),
            "memory_per_chip": figure(
                self.memory.total, "B", "dense / TP + experts / EP + KV + 10 % reserved"
            ),
        }  # fmt: skip


def scenario_for(
    config: ModelConfig,
    chip: Chip,
    chips: int,
    context_len: int,
    batch: int,
    *,
    precision: Precision | None = None,
    drafts: int | None = None,
    layout: Layout | None = None,
    overlap: OverlapPolicy = "waves",
) -> Scenario:
    """A scenario with the usual choices: the chip's best precision, data-parallel attention, one
    draft where the model has an MTP block, and the memory's layout when the usual does not fit."""
    if precision is None:
        precision = fitting_precision(config, chip, chips, context_len, batch, layout)
    layout = layout or fitting_layout(config, chip, chips, context_len, batch, precision)
    if drafts is None:
        drafts = 1 if config.num_nextn_predict_layers else 0
    return Scenario(
        config=config,
        chip=chip,
        layout=layout,
        precision=precision,
        context_len=context_len,
        batch=batch,
        drafts=drafts,
        overlap=overlap,
    )


def fitting_precision(
    config: ModelConfig, chip: Chip, chips: int, context_len: int, batch: int, layout: Layout | None
) -> Precision:
    """The chip's best precision that fits: converted to INT8, then INT4 experts, then the stored
    formats dequantized in registers; the best one where none fits."""
    best = default_precision(chip, config)
    others = [find_precision(name) for name in ("w4a8", "release") if best.name == "int8"]
    for precision in (best, *others):
        at = layout or fitting_layout(config, chip, chips, context_len, batch, precision)
        if memory_need(config, at, chip, precision, context_len, batch).fits:
            return precision
    return best


def fitting_layout(
    config: ModelConfig, chip: Chip, chips: int, context_len: int, batch: int, precision: Precision
) -> Layout:
    """The default layout, or the least tensor-parallel one whose fullest chip fits."""
    usual = default_layout(chips, batch)
    tp = usual.tp
    while tp <= min(chips, 16):
        layout = Layout(chips=chips, tp=tp) if chips % tp == 0 else usual
        if memory_need(config, layout, chip, precision, context_len, batch).fits:
            return layout
        tp *= 2
    return usual


def central_tpot(scenario: Scenario, factors: Factors) -> float:
    """Seconds per output token at given factors, without interval: what a search needs."""
    return _ideal(scenario).at(factors).total_s / _gained(scenario)


def _ideal(scenario: Scenario) -> IdealStep:
    step = Step(context_len=scenario.context_len, requests=scenario.batch, drafts=scenario.drafts)
    return ideal_step(
        scenario.config, step, scenario.layout, scenario.chip, scenario.precision, scenario.overlap
    )


def _gained(scenario: Scenario) -> float:
    return tokens_per_step(scenario.drafts, scenario.acceptance)


def decode(scenario: Scenario, calibration: Calibration) -> Decode:
    """Seconds per output token of a scenario, whether or not it fits (see `memory.fits`)."""
    step = Step(context_len=scenario.context_len, requests=scenario.batch, drafts=scenario.drafts)
    ideal = ideal_step(
        scenario.config, step, scenario.layout, scenario.chip, scenario.precision, scenario.overlap
    )
    predicted = calibration.predict(ideal, scenario.chip)
    gained = tokens_per_step(scenario.drafts, scenario.acceptance)
    memory = memory_need(
        scenario.config,
        scenario.layout,
        scenario.chip,
        scenario.precision,
        scenario.context_len,
        scenario.batch,
        with_mtp=scenario.drafts > 0,
    )
    return Decode(
        scenario=scenario,
        memory=memory,
        step=predicted.step,
        tpot_s=predicted.seconds / gained,
        tpot_low_s=predicted.low / gained,
        tpot_high_s=predicted.high / gained,
        calibrated=chip_class(scenario.chip) in calibration.deviations,
    )


def require_joined(point: Decode) -> None:
    """Raises InputError where the chips of a replica have neither a link nor a network."""
    if math.isinf(point.tpot_s):
        raise InputError(
            f"{point.scenario.chip.name}: nothing joins its chips; give a link with "
            "--set chip.link=<number>GB/s, or use one chip"
        )


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Reading one prompt per group: seconds until its first token, tokens per second and chip."""

    scenario: Scenario
    step: StepTime
    prompt_len: int
    ttft_s: float
    ttft_low_s: float
    ttft_high_s: float

    @property
    def tokens_per_s_per_chip(self) -> float:
        """Prompt tokens per second and chip when every group reads prompts all the time."""
        layout = self.scenario.layout
        return self.prompt_len * layout.dp / self.ttft_s / layout.chips


def prefill(scenario: Scenario, calibration: Calibration, cached_tokens: int = 0) -> Prefill:
    """Time to read a prompt of `scenario.context_len` tokens of which `cached_tokens` are a hit.

    Each data-parallel group reads one prompt, in chunks of up to 8,192 tokens; a chunk's cost is
    taken at the middle of what is left, where attention is at its mean.
    """
    prompt = scenario.context_len
    if not 0 <= cached_tokens < prompt:
        raise InputError(f"cached tokens {cached_tokens} must be from 0 to {prompt - 1}")
    fresh = prompt - cached_tokens
    chunks = math.ceil(fresh / PREFILL_CHUNK)
    chunk = math.ceil(fresh / chunks)
    middle = min(prompt, cached_tokens + fresh // 2 + chunk // 2)
    step = Step(context_len=middle, requests=scenario.layout.dp, chunk=chunk)
    ideal = ideal_step(
        scenario.config, step, scenario.layout, scenario.chip, scenario.precision, scenario.overlap
    )
    sigma = math.hypot(ROW_SIGMA["high"], PREFILL_SIGMA)
    predicted = calibration.predict(ideal, scenario.chip, sigma)
    return Prefill(
        scenario=scenario,
        step=predicted.step,
        prompt_len=fresh,
        ttft_s=chunks * predicted.seconds,
        ttft_low_s=chunks * predicted.low,
        ttft_high_s=chunks * predicted.high,
    )


def batch_within(scenario: Scenario, calibration: Calibration, tpot_s: float) -> Decode | None:
    """The largest batch that fits in memory and meets `tpot_s`, or None if even one does not."""
    most = largest_batch(
        scenario.config, scenario.layout, scenario.chip, scenario.precision, scenario.context_len
    )
    best: Decode | None = None
    low, high = 1, most
    while low <= high:
        middle = (low + high) // 2
        point = decode(replace(scenario, batch=middle), calibration)
        if point.tpot_s <= tpot_s:
            best, low = point, middle + 1
        else:
            high = middle - 1
    return best
