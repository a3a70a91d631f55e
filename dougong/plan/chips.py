"""Accelerators: what is published about each, what is not, and how a user fills the gaps.

A value that a vendor never published is None. Whatever needs it raises InputError, which names the
value and the `--set` that gives it; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dougong.errors import InputError
from dougong.plan.records import Record
from dougong.plan.tables import Row, load_table, number, read_table

THIS_MACHINE = "this-machine"
FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4")

# key: (unit of a bare number in --set and of the CSV, factor to base units, what it is)
SETTABLE: dict[str, tuple[str, float, str]] = {
    "mem": ("GB", 1e9, "memory capacity"),
    "mem_bw": ("GB/s", 1e9, "memory bandwidth"),
    "link": ("GB/s", 1e9, "scale-up bandwidth in one direction"),
    "scaleout": ("GB/s", 1e9, "scale-out bandwidth in one direction"),
    "domain": ("chips", 1.0, "number of chips in one scale-up domain"),
    "tdp": ("W", 1.0, "power"),
    "rental": ("USD/h", 1.0, "rental price"),
    "price": ("USD", 1.0, "unit price"),
    **{name: ("TFLOPS", 1e12, f"dense {name.upper()} rate") for name in FORMATS},
}
_FORMAT_WORD = r"\b(?:mx|nv|hi)?(?:fp|tf|bf|int|f)\d+(?:_[a-z0-9]+)?"
_PREFIX = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator in base units: FLOP/s, B, B/s (one direction), W, USD.

    `flops` holds the dense rate of each format with a published figure; `overrides` names what the
    user set, so that reports can mark it.
    """

    id: str
    vendor: str
    name: str
    kind: str
    country: str = ""
    status: str = ""
    flops: Mapping[str, float] = field(default_factory=dict)
    mem: float | None = None
    mem_bw: float | None = None
    link: float | None = None
    scaleout: float | None = None
    domain: float | None = None
    tdp: float | None = None
    rental: float | None = None
    price: float | None = None
    native_formats: frozenset[str] = frozenset()
    source: str
    confidence: str
    notes: str = ""
    overrides: tuple[str, ...] = ()

    def get(self, key: str) -> float | None:
        """The value of a `SETTABLE` key in base units, or None when nobody published it."""
        if key not in SETTABLE:
            raise InputError(f"chip value {key!r} is unknown; use one of {', '.join(SETTABLE)}")
        value = self.flops.get(key) if key in FORMATS else getattr(self, key)
        return None if value is None else float(value)

    def need(self, key: str) -> float:
        """The value of a `SETTABLE` key; InputError says how to give it when it is missing."""
        value = self.get(key)
        if value is None:
            unit, _, what = SETTABLE[key]
            fp8 = self.flops.get("fp8")
            cautious = f" (half its FP8 rate, {fp8 / 2e12:g}, is cautious)" if fp8 else ""
            raise InputError(
                f"{self.name}: its {what} is not published; "
                f"give it with --set chip.{key}=<number>{'' if unit == 'chips' else unit}"
                f"{cautious if key == 'bf16' else ''}"
            )
        return value

    def missing(self) -> list[str]:
        """The `SETTABLE` keys a decode plan needs and nobody published."""
        needed = ["mem", "mem_bw", "link"]
        absent = [key for key in needed if self.get(key) is None]
        return absent if self.flops else ["bf16", *absent]


def chip_from_row(row: Row, where: str) -> Chip:
    """A chip from a row in the layout of accelerators.csv (TFLOPS, GB, GB/s both ways, Gbit/s)."""

    def scaled(column: str, factor: float) -> float | None:
        value = number(row, column, where)
        if value is not None and value < 0:
            raise InputError(f"{where}: {column} is {value}; it cannot be negative")
        return None if value is None else value * factor

    columns = {f: f"{f}_{'tops' if f.startswith('int') else 'tflops'}" for f in FORMATS}
    rates = {name: scaled(column, 1e12) for name, column in columns.items()}
    return Chip(
        id=row["id"],
        vendor=row["vendor"],
        name=row["name"],
        kind=row["kind"],
        country=row["country"],
        status=row["status"],
        flops={name: rate for name, rate in rates.items() if rate},
        mem=scaled("mem_gb", 1e9),
        mem_bw=scaled("mem_bw_gbs", 1e9),
        link=scaled("scaleup_bw_gbs_bidir", 1e9 / 2),
        scaleout=scaled("scaleout_gbps", 1e9 / 8),
        domain=scaled("scaleup_domain", 1.0),
        tdp=scaled("tdp_w", 1.0),
        rental=scaled("rental_usd_hr", 1.0),
        price=scaled("unit_price_usd", 1.0),
        native_formats=frozenset(re.findall(_FORMAT_WORD, row["native_formats"].lower())),
        source=row["source"],
        confidence=row["confidence"],
        notes=row["notes"],
    )


def _die_of(chip: Chip) -> Chip:
    """One die of a two-die package: half of everything but its scale-up domain in packages."""

    def half(value: float | None) -> float | None:
        return None if value is None else value / 2

    return replace(
        chip,
        id=f"{chip.id}_die",
        name=f"{chip.name}, one die",
        flops={name: rate / 2 for name, rate in chip.flops.items()},
        mem=half(chip.mem),
        mem_bw=half(chip.mem_bw),
        link=half(chip.link),
        scaleout=half(chip.scaleout),
        domain=None if chip.domain is None else chip.domain * 2,
        tdp=half(chip.tdp),
        rental=half(chip.rental),
        price=half(chip.price),
        notes="CANN's A3 tables count dies: two to a package",
    )


def load_chips(user_file: Path | None = None, records: Iterable[Record] = ()) -> dict[str, Chip]:
    """All chips by id: the package's table, then the user's file, then this machine if measured."""
    rows = [(row, "accelerators.csv") for row in load_table("accelerators")]
    if user_file is not None:
        rows += [(row, user_file.name) for row in read_table(user_file, "accelerators")]
    chips = {row["id"]: chip_from_row(row, f"{where}, {row['id']}") for row, where in rows}
    chips["huawei_910c_die"] = _die_of(chips["huawei_910c"])
    measured = this_machine(records)
    if measured is not None:
        chips[measured.id] = measured
    return chips


def this_machine(records: Iterable[Record]) -> Chip | None:
    """The chip that `dougong bench ... --record` measured, or None without a bandwidth record.

    Reads records named `machine.mem`, `machine.mem_bw`, `machine.bf16` ... (the `SETTABLE` keys)
    in base units.
    """
    values: dict[str, float] = {}
    last: Record | None = None
    for record in records:
        prefix, _, key = record.name.partition(".")
        if prefix == "machine" and key in SETTABLE:
            values[key], last = record.value, record
    if last is None or "mem_bw" not in values:
        return None
    return Chip(
        id=THIS_MACHINE,
        vendor="measured",
        name=str(last.machine.get("name", THIS_MACHINE)),
        kind="cpu" if last.machine.get("accelerator", "none") == "none" else "gpu",
        flops={key: value for key, value in values.items() if key in FORMATS},
        native_formats=frozenset(key for key in values if key in FORMATS),
        domain=values.get("domain", 1.0),
        link=values.get("link", 0.0),
        mem=values.get("mem"),
        mem_bw=values["mem_bw"],
        tdp=values.get("tdp"),
        rental=values.get("rental"),
        source=last.command,
        confidence="measured",
        notes=f"measured {last.date} at commit {last.commit}",
    )


def find_chip(chips: Mapping[str, Chip], text: str) -> Chip:
    """The chip whose id, or the only one whose id or name contains `text`, in any case."""
    wanted = re.sub(r"[^a-z0-9]+", "", text.lower())
    squeezed = {key: re.sub(r"[^a-z0-9]+", "", key.lower()) for key in chips}
    exact = [key for key, name in squeezed.items() if wanted in (name, name.partition("_")[2])]
    part = [
        key
        for key, name in squeezed.items()
        if wanted
        and (wanted in name or wanted in re.sub(r"[^a-z0-9]+", "", chips[key].name.lower()))
    ]
    tails = [key for key in part if squeezed[key].removesuffix("sxm").endswith(wanted)]
    for candidates in (exact, tails, part):
        if len(candidates) == 1:
            return chips[candidates[0]]
    if wanted == THIS_MACHINE.replace("-", ""):
        raise InputError(
            f"--chip {THIS_MACHINE}: nothing is recorded here; measure it first with "
            "`dougong bench stream --record` in this folder"
        )
    close = ", ".join(part) if part else ", ".join(chips)
    problem = "fits several chips" if part else "is not a chip we know"
    raise InputError(f"--chip {text!r} {problem}: use one of {close}, or add your own with --chips")


def parse_quantity(text: str, unit: str, factor: float, what: str) -> float:
    """A number with an optional unit such as 1.6TB/s, in base units; bare numbers are in `unit`."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([A-Za-z/]*)\s*", text)
    try:
        value = float(found.group(1)) if found else None
    except ValueError:
        value = None
    if found is None or value is None:
        raise InputError(
            f"{what} is {text!r}; a number, with or without a unit like {unit}, is wanted"
        )
    given = found.group(2).upper().replace("FLOP/S", "FLOPS").replace("TOPS", "TFLOPS")
    if not given:
        return value * factor
    base = unit.upper().lstrip("GT") if factor > 1 else unit.upper()
    if given.endswith(base) and (given[: -len(base)] or "") in _PREFIX:
        return value * _PREFIX[given[: -len(base)]]
    raise InputError(f"{what} is {text!r}; its unit must be {unit} or a multiple of it")


def override(chip: Chip, settings: Mapping[str, str]) -> Chip:
    """`chip` with `--set chip.KEY=VALUE` applied; unknown keys raise InputError."""
    for name, text in settings.items():
        key = name.removeprefix("chip.")
        if not name.startswith("chip.") or key not in SETTABLE:
            allowed = ", ".join(f"chip.{known}" for known in SETTABLE)
            raise InputError(f"--set {name} is unknown; use one of {allowed}")
        unit, factor, what = SETTABLE[key]
        chip = set_value(chip, key, parse_quantity(text, unit, factor, f"--set {name} ({what})"))
    return chip


def set_value(chip: Chip, key: str, value: float | None) -> Chip:
    """`chip` with one `SETTABLE` value in base units replaced, and noted in `overrides`."""
    noted = (*chip.overrides, key)
    if key in FORMATS:
        rates = {name: rate for name, rate in chip.flops.items() if name != key}
        if value:
            rates[key] = value
        return replace(chip, flops=rates, overrides=noted)
    changed: dict[str, float | None] = {key: value}
    return replace(chip, overrides=noted, **changed)  # type: ignore[arg-type]  # keys are checked


def conflicts(chip_id: str) -> list[Row]:
    """Published values that contradict the ones used, for the report and `plan run` to show."""
    return [row for row in load_table("conflicts") if row["accelerator_id"] == chip_id]
