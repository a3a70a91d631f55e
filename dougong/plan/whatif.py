"""What would change if: edits of a chip written as people say them, and what to change first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from dougong.errors import DougongError, InputError
from dougong.plan.calibration import Calibration
from dougong.plan.chips import FORMATS, SETTABLE, Chip, parse_quantity, set_value
from dougong.plan.layout import Layout
from dougong.plan.overlap import OVERLAP_POLICIES
from dougong.plan.precision import precisions_for
from dougong.plan.predict import Decode, Scenario, decode

_SCALE = re.compile(r"(\w+)\s*([*/])\s*([0-9.]+)")
_SET = re.compile(r"(\w+)\s*=\s*(.+)")
_WITHOUT = re.compile(r"(?:no|without)\s+(\w+)")


def apply(chip: Chip, text: str) -> Chip:
    """`chip` changed by comma-separated edits: "link/4", "mem_bw*2", "mem=64GB", "no fp8".

    "no fp8" also removes FP4, whose rows are FP8; "no link" leaves a link of zero.
    """
    for edit in filter(None, (part.strip() for part in text.lower().split(","))):
        chip = _apply_one(chip, edit)
    return replace(chip, name=f"{chip.name} [{text.strip()}]") if text.strip() else chip


def _apply_one(chip: Chip, edit: str) -> Chip:
    if found := _WITHOUT.fullmatch(edit):
        key = _key(found.group(1), edit)
        if key in FORMATS:
            gone = ("fp8", "fp4") if key == "fp8" else (key,)
            for name in gone:
                chip = set_value(chip, name, None)
            return chip
        return set_value(chip, key, 0.0)
    if found := _SCALE.fullmatch(edit):
        key, factor = _key(found.group(1), edit), float(found.group(3))
        if factor <= 0:
            raise InputError(f"--what-if {edit!r}: the factor must be above 0")
        value = chip.need(key)
        return set_value(chip, key, value * factor if found.group(2) == "*" else value / factor)
    if found := _SET.fullmatch(edit):
        key = _key(found.group(1), edit)
        unit, scale, what = SETTABLE[key]
        value = parse_quantity(found.group(2), unit, scale, f"--what-if {edit!r} ({what})")
        return set_value(chip, key, value)
    raise InputError(
        f"--what-if {edit!r} is not understood; write link/4, mem_bw*2, mem=64GB or no fp8"
    )


def _key(word: str, edit: str) -> str:
    aliases = {"memory": "mem", "bandwidth": "mem_bw", "bw": "mem_bw", "interconnect": "link"}
    key = aliases.get(word, word)
    if key not in SETTABLE:
        raise InputError(
            f"--what-if {edit!r}: {word!r} is unknown; use one of {', '.join(SETTABLE)}"
        )
    return key


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing to change, and what it does to throughput per chip and time per token."""

    name: str
    kind: str
    speedup: float
    tpot_s: float
    fits: bool


def changes(scenario: Scenario, calibration: Calibration) -> list[Change]:
    """Single changes to hardware, format and policy, the most useful first.

    Each is computed, none is a rule of thumb: throughput per chip after over before, at the same
    requests per chip. What needs an unpublished value, or changes nothing, is left out.
    """
    base = decode(scenario, calibration)
    found = []
    for name, kind, make in _candidates(scenario):
        try:
            after = decode(make(), calibration)
        except DougongError:
            continue
        if math.isfinite(after.tpot_s):
            found.append(_change(name, kind, base, after))
    useful = [change for change in found if abs(change.speedup - 1) > 0.005]
    return sorted(useful, key=lambda change: -change.speedup)


def _change(name: str, kind: str, base: Decode, after: Decode) -> Change:
    return Change(
        name=name,
        kind=kind,
        speedup=after.tokens_per_s_per_chip / base.tokens_per_s_per_chip,
        tpot_s=after.tpot_s,
        fits=after.memory.fits,
    )


def _candidates(s: Scenario) -> Iterator[tuple[str, str, Callable[[], Scenario]]]:
    """(name, kind, how to make the scenario)."""
    for key, what in (("mem_bw", "memory bandwidth"), ("link", "link")):
        yield f"twice the {what}", "hardware", partial(_with_chip, s, f"{key}*2")
    yield "twice the compute", "hardware", partial(replace, s, chip=_faster(s.chip))
    yield "twice the requests in flight", "policy", partial(replace, s, batch=2 * s.batch)
    larger = Layout(chips=2 * s.layout.chips, tp=s.layout.tp)
    grown = partial(replace, s, layout=larger, batch=2 * s.batch)
    yield "twice the chips and requests", "hardware", grown
    for drafts in (0, 1, 3):
        if drafts != s.drafts and s.config.num_nextn_predict_layers:
            yield f"{drafts} drafts a step", "policy", partial(replace, s, drafts=drafts)
    for policy in OVERLAP_POLICIES:
        if policy != s.overlap:
            yield f"overlap policy {policy}", "policy", partial(replace, s, overlap=policy)
    for precision in precisions_for(s.chip, s.config):
        if precision.name != s.precision.name:
            make = partial(replace, s, precision=precision)
            yield f"precision {precision.name}", "format", make
    if s.layout.tp < 16 and s.layout.chips % (2 * s.layout.tp) == 0:
        wider = Layout(chips=s.layout.chips, tp=2 * s.layout.tp)
        yield f"tensor parallel {wider.tp}", "layout", partial(replace, s, layout=wider)


def _with_chip(scenario: Scenario, edit: str) -> Scenario:
    return replace(scenario, chip=apply(scenario.chip, edit))


def _faster(chip: Chip) -> Chip:
    return replace(chip, flops={name: 2 * rate for name, rate in chip.flops.items()})
