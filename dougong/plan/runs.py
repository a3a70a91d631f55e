"""`plan run`: everything about one model on one kind of chip, in one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dougong.errors import InputError
from dougong.plan.calibration import Calibration, chip_class
from dougong.plan.chips import SETTABLE, conflicts
from dougong.plan.cost import energy, price
from dougong.plan.launch import Launch, launches
from dougong.plan.layout import largest_batch, smallest_count
from dougong.plan.predict import Decode, Prefill, Scenario, batch_within, decode, prefill
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
        chip, memory = scenario.chip, point.memory
        return {
            "model": self.model,
            "chip": {
                "id": chip.id,
                "name": chip.name,
                "source": chip.source,
                "confidence": chip.confidence,
                "overrides": list(chip.overrides),
                "missing": [key for key in SETTABLE if chip.get(key) is None],
            },
            "count": scenario.layout.chips,
            "layout": scenario.layout.label(),
            "precision": scenario.precision.name,
            "context_tokens": scenario.context_len,
            "batch": scenario.batch,
            "drafts": scenario.drafts,
            "overlap": scenario.overlap,
            "fits": memory.fits,
            "memory_bytes": {
                "dense": memory.dense,
                "experts": memory.experts,
                "kv": memory.kv,
                "reserved": memory.reserved,
                "total": memory.total,
                "capacity": memory.capacity,
            },
            "largest_batch": self.largest_batch,
            "smallest_count": self.smallest_count,
            "figures": {name: one.as_dict() for name, one in point.quantities().items()},
            "price": price(chip, point.tokens_per_s_per_chip).as_dict(),
            "energy": energy(chip, point.tokens_per_s_per_chip).as_dict(),
            "prefill": {
                "prompt_tokens": self.prefill.prompt_len,
                "time_to_first_token_s": self.prefill.ttft_s,
                "low_s": self.prefill.ttft_low_s,
                "high_s": self.prefill.ttft_high_s,
                "tokens_per_s_per_chip": self.prefill.tokens_per_s_per_chip,
            },
            "bound": point.step.bound,
            "parts_s": point.step.parts(),
            "operators": [
                {
                    "name": one.name,
                    "format": one.format,
                    "flops": one.flops,
                    "memory_bytes": one.memory_bytes,
                    "compute_s": one.compute_s,
                    "memory_s": one.memory_s,
                    "bound": one.bound,
                }
                for one in point.step.operators
            ],
            "hiding": None
            if self.hiding is None
            else {
                "compute_to_link": self.hiding.peak_ratio,
                "achieved": self.hiding.achieved_ratio,
                "threshold": self.hiding.threshold,
                "hides_at_peak": self.hiding.hides_at_peak,
            },
            "changes": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "speedup": one.speedup,
                    "time_per_token_s": one.tpot_s,
                    "fits": one.fits,
                }
                for one in self.changes
            ],
            "launch": [
                {"engine": one.engine, "commands": list(one.commands), "note": one.note}
                for one in self.launches
            ],
            "calibration": {
                "class": chip_class(chip),
                "has_rows": self.calibrated,
                "factors": {
                    name: {"value": value, "low": low, "high": high}
                    for name, (value, low, high) in self.factors.items()
                },
            },
            "conflicts": list(self.conflicts),
            "replicas": self.replicas,
            "prefill_share": self.prefill_share,
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
    point = decode(scenario, calibration)
    if tpot_s is not None:
        within = batch_within(scenario, calibration, tpot_s)
        if within is None:
            one = decode(replace(scenario, batch=1), calibration)
            raise InputError(
                f"{tpot_s * 1e3:.4g} ms per token cannot be met: one request alone takes "
                f"{one.tpot_s * 1e3:.4g} ms on {scenario.layout.label()}"
                f"{'' if one.memory.fits else ', and even that does not fit in memory'}; "
                "use more chips or drafts, or a looser limit"
            )
        point, scenario = within, within.scenario
    prompt = traffic.prompt_len if traffic else scenario.context_len
    cached = int(prompt * traffic.hit_rate) if traffic else 0
    reading = prefill(replace(scenario, context_len=prompt), calibration, cached)
    replicas = share = None
    if traffic is not None:
        wanted = Wanted(
            context_len=scenario.context_len,
            prompt_len=traffic.prompt_len,
            output_len=traffic.output_len,
            hit_rate=traffic.hit_rate,
        )
        share = split_prefill(point.tokens_per_s_per_chip, reading, wanted)
        chips = scenario.layout.chips
        output = traffic.requests_per_s * traffic.output_len
        replicas = output / (point.tokens_per_s_per_chip * (1 - share) * chips)
    return Run(
        model=model,
        decode=point,
        prefill=reading,
        largest_batch=largest_batch(
            config, scenario.layout, chip, scenario.precision, scenario.context_len
        ),
        smallest_count=smallest_count(config, chip, scenario.precision, scenario.context_len, 1),
        hiding=hiding_margin(config, chip) if chip.get("link") else None,
        changes=tuple(changes(scenario, calibration)),
        launches=tuple(launches(model, scenario)),
        factors=calibration.factor_table(chip),
        calibrated=point.calibrated,
        conflicts=tuple(conflicts(chip.id)),
        replicas=replicas,
        prefill_share=share,
    )
