"""The planner's data: CSV files inside the package, each row with its source and its confidence.

A file that lacks a column, has one more, or holds a row without source or confidence is refused by
name and line. Cells are strings; a cell that nobody published is "" and stays so.
"""

from __future__ import annotations

import csv
import math
from functools import cache
from importlib import resources
from io import StringIO
from pathlib import Path

from dougong.errors import InputError

Row = dict[str, str]

COLUMNS: dict[str, str] = {
    "accelerators": (
        "id vendor name kind country year status fp32_tflops tf32_tflops bf16_tflops fp16_tflops "
        "fp8_tflops int8_tops fp6_tflops fp4_tflops int4_tops mem_gb mem_type mem_bw_gbs "
        "scaleup_fabric scaleup_bw_gbs_bidir scaleup_domain scaleout_gbps tdp_w native_formats "
        "unit_price_usd rental_usd_hr source confidence notes"
    ),
    "api_prices": (
        "model vendor country effective_from input_usd_per_m cache_hit_usd_per_m "
        "output_usd_per_m native_currency context open_weights source confidence notes"
    ),
    "capabilities": "model mode benchmark unit score source confidence notes",
    "checkpointing_vs_overlap": (
        "dimension checkpointing compute_while_transmitting source confidence"
    ),
    "conflicts": "accelerator_id field value other_value other_source source confidence notes",
    "countermeasures": (
        "id category constraint_addressed measure mechanism quantified_evidence who "
        "planner_hook source confidence"
    ),
    "cuda_vs_cann": (
        "layer cuda cann cuda_openness cann_openness programming_difference gap_or_note "
        "source confidence"
    ),
    "ecosystem": (
        "player type chip scale_up system_or_cluster cloud_or_platform software_stack framework "
        "own_model third_party_models v4_support integration_level source confidence"
    ),
    "interconnects": (
        "id kind name vendor per_device_bidir_gbs per_device_oneway_gbs domain_size medium "
        "topology latency_us openness used_by aggregate source confidence notes"
    ),
    "low_precision_formats": (
        "id name family element_bits sign_bits exp_bits man_bits bias max_abs min_normal "
        "min_subnormal binades block_size scale_format scale_bits second_scale effective_bits "
        "hardware_native typical_use source confidence notes"
    ),
    "low_precision_models": (
        "model vendor country release total_b active_b weight_format component_map "
        "activation_format kv_format scale method eff_weight_bits checkpoint_gb native_hw "
        "open_weights source confidence notes"
    ),
    "mla_vs_mqa": (
        "attribute unit deepseek_v3_mla deepseek_v3.2_mla_dsa deepseek_v4_flash_mqa "
        "deepseek_v4_pro_mqa source confidence notes"
    ),
    "model_usage_april_2026": (
        "period_type period scope rank name vendor country open_weights tokens_t share_pct "
        "wow_pct source confidence notes"
    ),
    "rental_prices": "accelerator_id basis usd_per_hour date source confidence notes",
    "v4_inference_benchmarks": (
        "model hardware chips phase seq_len global_batch mtp precision tpot_ms tok_s_per_chip "
        "stage source confidence notes"
    ),
}


def parse_table(text: str, table: str, where: str, needs_source: bool = True) -> list[Row]:
    """The rows of `text`, which must have exactly the columns of `table`.

    Raises InputError naming `where` and the line. `needs_source` is off only for measurements
    that a user brings to `plan evaluate`.
    """
    wanted = COLUMNS[table].split()
    reader = csv.DictReader(StringIO(text))
    found = list(reader.fieldnames or [])
    unknown = [name for name in found if name not in wanted]
    missing = [name for name in wanted if name not in found]
    if unknown or missing:
        problem = "; ".join(
            f"{what} {', '.join(names)}"
            for what, names in (("unknown columns", unknown), ("missing columns", missing))
            if names
        )
        raise InputError(f"{where}: {problem}; the columns are {','.join(wanted)}")
    rows = []
    for row in reader:
        line = reader.line_num
        if None in row or None in row.values():
            raise InputError(f"{where}, line {line}: {len(wanted)} cells are wanted")
        for key in ("source", "confidence"):
            if needs_source and not row[key].strip():
                raise InputError(f"{where}, line {line}: {key} is empty; every row needs one")
        rows.append({key: value.strip() for key, value in row.items()})
    return rows


@cache
def _packaged(table: str) -> tuple[Row, ...]:
    if table not in COLUMNS:
        raise InputError(f"table {table!r} is unknown; there are {', '.join(COLUMNS)}")
    name = f"{table}.csv"
    text = (resources.files("dougong") / "data" / "plan" / name).read_text(encoding="utf-8")
    return tuple(parse_table(text, table, name))


def load_table(table: str) -> list[Row]:
    """The rows of one of the package's tables (see `COLUMNS`); fresh copies, free to change."""
    return [dict(row) for row in _packaged(table)]


def read_table(path: Path, table: str, needs_source: bool = True) -> list[Row]:
    """The rows of a user's CSV file in the layout of `table`."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    return parse_table(text, table, path.name, needs_source)


def number(row: Row, column: str, where: str) -> float | None:
    """The cell as a finite number, None when empty; InputError names `where` when it is neither."""
    cell = row[column]
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {column} is {cell!r}; a number or nothing is wanted")
    return value
