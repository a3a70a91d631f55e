"""Every sensible deployment of a model on given chips, and the Pareto front among them.

Varied: precision, chips, tensor parallelism, requests in flight, drafts, overlap policy and the
split of chips between prefill and decode. A point is kept when it fits and meets the limits; the
front holds those that no other beats in both time per token and throughput per chip (or price).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dougong.errors import DougongError, InputError
from dougong.plan.calibration import Calibration
from dougong.plan.chips import Chip
from dougong.plan.cost import usd_per_mtoken
from dougong.plan.layout import Layout, largest_batch
from dougong.plan.overlap import OverlapPolicy
from dougong.plan.precision import Precision, precisions_for
from dougong.plan.predict import Prefill, Scenario, central_tpot, decode, prefill
from dougong.plan.weights import ModelConfig

TENSOR_DEGREES = (1, 2, 4, 8)
BATCHES_PER_GROUP = (1, 4, 16, 48, 96)
MAX_SECONDS = 86400.0  # slower than a day is as good as never


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a deployment must do. Times in seconds; None sets no limit.

    `prompt_len` and `output_len` are tokens of the mean request; `hit_rate` is the share of its
    prompt that a prefix cache already holds.
    """

    context_len: int
    prompt_len: int
    output_len: int
    tpot_s: float | None = None
    ttft_s: float | None = None
    hit_rate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hit_rate < 1:
            raise InputError(f"hit rate is {self.hit_rate}; a share from 0 up to 1 is wanted")
        if min(self.prompt_len, self.output_len) < 1:
            raise InputError("prompt and output need at least one token each")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One point: a decode scenario, the prefill that feeds it, and how chips are split.

    `prefill_share` of all chips read prompts; throughput and price count both kinds.
    """

    scenario: Scenario
    tpot_s: float
    prefill: Prefill
    prefill_share: float

    @property
    def tokens_per_s_per_chip(self) -> float:
        """Output tokens per second over all chips, prefill's included."""
        decoding = self.scenario.batch / self.tpot_s / self.scenario.layout.chips
        return decoding * (1 - self.prefill_share)

    @property
    def usd_per_mtoken(self) -> float | None:
        """Price per million output tokens, prompts included; None without a rental price."""
        rental = self.scenario.chip.rental
        return None if rental is None else usd_per_mtoken(self.tokens_per_s_per_chip, rental)

    def as_dict(self, calibration: Calibration) -> dict[str, object]:
        """The keys that `--json` prints for a point, with the time's 90 % interval."""
        scenario, point = self.scenario, decode(self.scenario, calibration)
        return {
            "chip": scenario.chip.id,
            "chips": scenario.layout.chips,
            "layout": scenario.layout.label(),
            "precision": scenario.precision.name,
            "batch": scenario.batch,
            "drafts": scenario.drafts,
            "overlap": scenario.overlap,
            "time_per_token_s": point.tpot_s,
            "time_per_token_low_s": point.tpot_low_s,
            "time_per_token_high_s": point.tpot_high_s,
            "tokens_per_s_per_user": point.tokens_per_s_per_user,
            "tokens_per_s_per_chip": self.tokens_per_s_per_chip,
            "time_to_first_token_s": self.prefill.ttft_s,
            "prefill_share": self.prefill_share,
            "usd_per_mtoken": self.usd_per_mtoken,
            "bound": point.step.bound,
        }


def split_prefill(decoding: float, reading: Prefill, wanted: Wanted) -> float:
    """Share of chips that must prefill so that decode chips are always fed.

    p T_p = (1 - p) T_d (1 - hit) prompt / output, with T in tokens per second and chip; T_d is
    `decoding`.
    """
    fresh = wanted.prompt_len * (1 - wanted.hit_rate) / wanted.output_len
    need = decoding * fresh / reading.tokens_per_s_per_chip
    return need / (1 + need)


def deployments(
    config: ModelConfig,
    chips: Sequence[Chip],
    counts: Sequence[int],
    wanted: Wanted,
    calibration: Calibration,
) -> tuple[list[Deployment], dict[str, str]]:
    """All points that fit and meet the limits, and for chips without any, the reason.

    Chips that lack a needed figure are named with it, not dropped.
    """
    found: list[Deployment] = []
    refused: dict[str, str] = {}
    for chip in chips:
        try:
            points = list(_on_chip(config, chip, counts, wanted, calibration))
        except DougongError as error:
            refused[chip.id] = str(error)
            continue
        if not points:
            refused[chip.id] = "nothing fits and meets the limits"
        found += points
    return found, refused


def _on_chip(
    config: ModelConfig,
    chip: Chip,
    counts: Sequence[int],
    wanted: Wanted,
    calibration: Calibration,
) -> Iterator[Deployment]:
    for count in counts:
        for precision in precisions_for(chip, config):
            for tp in TENSOR_DEGREES:
                if count % tp == 0:
                    layout = Layout(chips=count, tp=tp)
                    yield from _on_layout(config, chip, layout, precision, wanted, calibration)


def _on_layout(
    config: ModelConfig,
    chip: Chip,
    layout: Layout,
    precision: Precision,
    wanted: Wanted,
    calibration: Calibration,
) -> Iterator[Deployment]:
    most = largest_batch(config, layout, chip, precision, wanted.context_len)
    if most < 1:
        return
    factors = calibration.factors(chip)
    batches = sorted({min(most, layout.dp * b) for b in BATCHES_PER_GROUP} | {min(most, 1)})
    reading = _fastest_prefill(config, chip, layout, precision, wanted, calibration)
    if reading.ttft_s > (wanted.ttft_s or MAX_SECONDS):
        return
    for batch in batches:
        for drafts in (0, 1, 3) if config.num_nextn_predict_layers else (0,):
            for overlap in _policies(layout):
                scenario = Scenario(
                    config=config,
                    chip=chip,
                    layout=layout,
                    precision=precision,
                    context_len=wanted.context_len,
                    batch=batch,
                    drafts=drafts,
                    overlap=overlap,
                )
                tpot_s = central_tpot(scenario, factors)
                if tpot_s <= (wanted.tpot_s or MAX_SECONDS):
                    share = split_prefill(batch / tpot_s / layout.chips, reading, wanted)
                    yield Deployment(
                        scenario=scenario, tpot_s=tpot_s, prefill=reading, prefill_share=share
                    )


def _policies(layout: Layout) -> tuple[OverlapPolicy, ...]:
    return ("waves",) if layout.ep == 1 else ("two_stage", "waves")


def _fastest_prefill(
    config: ModelConfig,
    chip: Chip,
    layout: Layout,
    precision: Precision,
    wanted: Wanted,
    calibration: Calibration,
) -> Prefill:
    """The least context-parallel prefill that meets the first-token limit, else the fastest."""
    cached = int(wanted.prompt_len * wanted.hit_rate)
    best: Prefill | None = None
    cp = 1
    while layout.chips % (layout.tp * cp) == 0 and cp <= 16:
        scenario = Scenario(
            config=config,
            chip=chip,
            layout=Layout(chips=layout.chips, tp=layout.tp, cp=cp),
            precision=precision,
            context_len=wanted.prompt_len,
            batch=1,
        )
        reading = prefill(scenario, calibration, cached)
        if wanted.ttft_s is None or reading.ttft_s <= wanted.ttft_s:
            return reading
        if best is None or reading.ttft_s < best.ttft_s:
            best = reading
        cp *= 2
    assert best is not None  # cp = 1 always divides
    return best


def pareto(points: Sequence[Deployment], by_price: bool = False) -> list[Deployment]:
    """The points that no other beats in time per token and in throughput per chip (or price).

    By time per token, fastest first. Points without a price are left out of a price front.
    """

    def worth(point: Deployment) -> float:
        price = point.usd_per_mtoken
        return point.tokens_per_s_per_chip if not by_price else -(price or 0.0)

    usable = [p for p in points if not by_price or p.usd_per_mtoken is not None]
    front: list[Deployment] = []
    for point in sorted(usable, key=lambda p: (p.tpot_s, -worth(p))):
        if not front or worth(point) > worth(front[-1]):
            front.append(point)
    return front
