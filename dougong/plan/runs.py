"""`plan run`: everything about one model on one kind of chip, in one answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from dougong.errors import InputError
from dougong.plan.calibration import Calibration, chip_class
from dougong.plan.chips import SETTABLE, Chip, conflicts
from dougong.plan.cost import energy, price
from dougong.plan.launch import Launch, launches
from dougong.plan.layout import Layout, largest_batch, smallest_count
from dougong.plan.predict import (
    Decode,
    Prefill,
    Scenario,
    batch_within,
    decode,
    prefill,
    require_joined,
)
from dougong.plan.search import Wanted, split_prefill
from dougong.plan.tables import Row
from dougong.plan.training import HidingMargin, hiding_margin
from dougong.plan.whatif import Change, changes


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests per second and their mean prompt and output; `hit_rate` of the prompt is cached."""

    requests_per_s: float
    prompt_len: int
    output_len: int
    hit_rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """The answer: memory, decode, prefill, cost, what to change, how to start it."""

    model: str
    decode: Decode
    prefill: Prefill
    fastest_prefill: Prefill
    largest_batch: int
    smallest_count: int | None
    hiding: HidingMargin | None
    changes: tuple[Change, ...]
    launches: tuple[Launch, ...]
    factors: dict[str, tuple[float, float, float]]
    calibrated: bool
    conflicts: tuple[Row, ...]
    replicas: float | None
    prefill_share: float | None

    def as_dict(self) -> dict[str, object]:
        """The keys of `dougong plan run --json`."""
        scenario, point = self.decode.scenario, self.decode
        rate = point.tokens_per_s_per_chip
        return {
            "model": self.model,
            "chip": _chip(scenario.chip),
            "count": scenario.layout.chips,
            "layout": scenario.layout.label(),
            "precision": scenario.precision.name,
            "context_tokens": scenario.context_len,
            "batch": scenario.batch,
            "drafts": scenario.drafts,
            "overlap": scenario.overlap,
            "fits": point.memory.fits,
            "memory_bytes": asdict(point.memory) | {"total": point.memory.total},
            "largest_batch": self.largest_batch,
            "smallest_count": self.smallest_count,
            "figures": {name: one.as_dict() for name, one in point.quantities().items()},
            "price": price(scenario.chip, rate).as_dict(),
            "energy": energy(scenario.chip, rate).as_dict(),
            "prefill": self._prefill(),
            "bound": point.step.bound,
            "parts_s": point.step.parts(),
            "operators": [asdict(one) | {"bound": one.bound} for one in point.step.operators],
            "hiding": self._hiding(),
            "changes": [asdict(one) for one in self.changes],
            "launch": [asdict(one) for one in self.launches],
            "calibration": self._calibration(),
            "conflicts": list(self.conflicts),
            "replicas": self.replicas,
            "prefill_share": self.prefill_share,
        }

    def _prefill(self) -> dict[str, float | str]:
        return {
            "prompt_tokens": self.prefill.prompt_len,
            "time_to_first_token_s": self.prefill.ttft_s,
            "low_s": self.prefill.ttft_low_s,
            "high_s": self.prefill.ttft_high_s,
            "tokens_per_s_per_chip": self.prefill.tokens_per_s_per_chip,
            "fastest_s": self.fastest_prefill.ttft_s,
            "fastest_layout": self.fastest_prefill.scenario.layout.label(),
        }

    def _hiding(self) -> dict[str, float | bool] | None:
        margin = self.hiding
        if margin is None:
            return None
        return {
            "compute_to_link": margin.peak_ratio,
            "achieved": margin.achieved_ratio,
            "threshold": margin.threshold,
            "hides_at_peak": margin.hides_at_peak,
        }

    def _calibration(self) -> dict[str, object]:
        factors = {
            name: {"value": value, "low": low, "high": high}
            for name, (value, low, high) in self.factors.items()
        }
        name = chip_class(self.decode.scenario.chip)
        return {"class": name, "has_rows": self.calibrated, "factors": factors}


def _chip(chip: Chip) -> dict[str, object]:
    return {
        "id": chip.id,
        "name": chip.name,
        "source": chip.source,
        "confidence": chip.confidence,
        "overrides": list(chip.overrides),
        "missing": [key for key in SETTABLE if chip.get(key) is None],
    }


def run(
    model: str,
    scenario: Scenario,
    calibration: Calibration,
    tpot_s: float | None = None,
    traffic: Traffic | None = None,
) -> Run:
    """One scenario in full; with `tpot_s` the batch is the largest that meets it.

    With `traffic` also how many replicas carry it and which share of chips must prefill. Raises
    InputError when no batch meets the limit.
    """
    config, chip = scenario.config, scenario.chip
    point = (
        decode(scenario, calibration) if tpot_s is None else _within(scenario, calibration, tpot_s)
    )
    require_joined(point)
    scenario = point.scenario
    prompt = traffic.prompt_len if traffic else scenario.context_len
    cached = int(prompt * traffic.hit_rate) if traffic else 0
    read = replace(scenario, context_len=prompt)
    reading = prefill(read, calibration, cached)
    alone = prefill(replace(read, layout=_widest(scenario.layout)), calibration, cached)
    replicas, share = _carried(traffic, point, reading) if traffic else (None, None)
    return Run(
        model=model,
        decode=point,
        prefill=reading,
        fastest_prefill=min(reading, alone, key=lambda one: one.ttft_s),
        largest_batch=largest_batch(
            config, scenario.layout, chip, scenario.precision, scenario.context_len
        ),
        smallest_count=smallest_count(config, chip, scenario.precision, scenario.context_len, 1),
        hiding=_hiding_of(scenario),
        changes=tuple(changes(scenario, calibration)),
        launches=tuple(launches(model, scenario)),
        factors=calibration.factor_table(chip),
        calibrated=point.calibrated,
        conflicts=tuple(conflicts(chip.id)),
        replicas=replicas,
        prefill_share=share,
    )


def _carried(traffic: Traffic, point: Decode, reading: Prefill) -> tuple[float, float]:
    """(replicas that carry the traffic, share of their chips that must prefill)."""
    wanted = Wanted(
        context_len=point.scenario.context_len,
        prompt_len=traffic.prompt_len,
        output_len=traffic.output_len,
        hit_rate=traffic.hit_rate,
    )
    share = split_prefill(point.tokens_per_s_per_chip, reading, wanted)
    output = traffic.requests_per_s * traffic.output_len
    chips = point.scenario.layout.chips
    return output / (point.tokens_per_s_per_chip * (1 - share) * chips), share


def _widest(layout: Layout) -> Layout:
    """The layout with as many chips as it can, up to 16, reading one prompt together."""
    cp = 1
    while layout.chips % (layout.tp * cp * 2) == 0 and layout.tp * cp * 2 <= 16:
        cp *= 2
    return Layout(chips=layout.chips, tp=layout.tp, cp=cp)


def _hiding_of(scenario: Scenario) -> HidingMargin | None:
    """The margin of expert traffic, or None on one chip and where nothing joins the chips."""
    chips = scenario.layout.chips
    if chips < 2 or not scenario.chip.get("link"):
        return None
    return hiding_margin(scenario.config, scenario.chip, chips)


def _within(scenario: Scenario, calibration: Calibration, tpot_s: float) -> Decode:
    """The largest batch that fits and meets `tpot_s`; InputError says what one request takes."""
    within = batch_within(scenario, calibration, tpot_s)
    if within is not None:
        return within
    one = decode(replace(scenario, batch=1), calibration)
    raise InputError(
        f"{tpot_s * 1e3:.4g} ms per token cannot be met: one request alone takes "
        f"{one.tpot_s * 1e3:.4g} ms on {scenario.layout.label()}"
        f"{'' if one.memory.fits else ', and even that does not fit in memory'}; "
        "use more chips or drafts, or a looser limit"
    )
