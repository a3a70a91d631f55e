"""`dougong plan chips`: what is published about chips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options, plan_options, plan_text

if TYPE_CHECKING:
    from dougong.plan.chips import Chip


@click.command("chips")
@click.argument("name", required=False)
@plan_options.chip_file_option
@options.json_option
def command(name: str | None, chip_file: Path | None, as_json: bool) -> None:
    """List the known chips, or show NAME in full with its sources, gaps and conflicts.

    `this-machine` is listed once `dougong bench ... --record` has measured its memory bandwidth.

    \b
    Example:
      dougong plan chips 950dt

    \b
    JSON: chips (id, name, vendor, status, values in base units, missing, conflicts, source,
    confidence, notes)
    """  # fmt: skip
    from dougong.plan.chips import find_chip

    known = plan_options.all_chips(chip_file)
    chosen = [find_chip(known, name)] if name else list(known.values())
    report = {"chips": [as_report(chip) for chip in chosen]}
    options.emit(report, as_json, describe(report) if name is None else details(report["chips"][0]))


def as_report(chip: Chip) -> dict[str, Any]:
    """One chip under the keys of `--json`."""
    from dougong.plan.chips import SETTABLE, conflicts

    return {
        "id": chip.id,
        "name": chip.name,
        "vendor": chip.vendor,
        "status": chip.status,
        "values": {key: chip.get(key) for key in SETTABLE if chip.get(key) is not None},
        "missing": [key for key in SETTABLE if chip.get(key) is None],
        "conflicts": conflicts(chip.id),
        "source": chip.source,
        "confidence": chip.confidence,
        "notes": chip.notes,
    }


def _cell(values: dict[str, float], key: str, scale: float) -> str:
    return f"{values[key] / scale:,.0f}" if key in values else "-"


def describe(report: dict[str, Any]) -> str:
    """All chips as a table; a dash is a figure that nobody published."""
    rows = [["id", "BF16", "FP8", "INT8", "FP4", "GB", "GB/s", "link GB/s", "W", "confidence"]]
    scales = {"bf16": 1e12, "fp8": 1e12, "int8": 1e12, "fp4": 1e12, "mem": 1e9, "mem_bw": 1e9}
    scales |= {"link": 1e9, "tdp": 1.0}
    for chip in report["chips"]:
        cells = [_cell(chip["values"], key, scale) for key, scale in scales.items()]
        rows.append([chip["id"], *cells, chip["confidence"]])
    return "dense TFLOPS, one-way link; - is not published\n" + plan_text.table(rows)


def details(chip: dict[str, Any]) -> str:
    """One chip in full."""
    from dougong.plan.chips import SETTABLE

    lines = [
        f"{chip['id']}: {chip['name']} ({chip['vendor']}), {chip['status'] or 'status unknown'}"
    ]
    for key, value in chip["values"].items():
        unit, scale, what = SETTABLE[key]
        lines.append(f"  {key:<9} {value / scale:>12,.6g} {unit:<6}  {what}")
    for key in chip["missing"]:
        lines.append(f"  {key:<9} {'not published':>12}         {SETTABLE[key][2]}")
    lines += [
        f"  conflict: {row['field']} {row['value'] or 'nothing'} is used, "
        f"{row['other_source']} says {row['other_value']}; {row['notes']}"
        for row in chip["conflicts"]
    ]
    lines += [f"  source: {chip['source']}", f"  confidence: {chip['confidence']}"]
    return "\n".join(lines + ([f"  notes: {chip['notes']}"] if chip["notes"] else []))
