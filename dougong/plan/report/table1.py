"""Table 1: low-precision models, their sizes computed and held against the published ones."""

from __future__ import annotations

import math
from functools import cache

from dougong.config import load_config
from dougong.plan.chips import load_chips
from dougong.plan.layout import weight_bytes
from dougong.plan.parameters import bf16_bytes, checkpoint_bytes, parameters_total
from dougong.plan.precision import PRECISIONS
from dougong.plan.tables import Row as DataRow
from dougong.plan.weights import main_weights

from .cells import Cell, computed
from .exhibit import Exhibit, Prose, Row, Table
from .measured import Results
from .plots import Point, Scatter
from .sources import figure, gap, rows
from .sources import words as stated
from .text import Text, content, joined, phrase, same

MODELS, FORMATS = "low_precision_models", "low_precision_formats"
PRESETS = {
    "DeepSeek-V3 / R1": "v3",
    "DeepSeek-V3.2": "v3.2",
    "DeepSeek-V4-Pro": "v4-pro",
    "DeepSeek-V4-Flash": "v4-flash",
}
HABITS = ("fp8", "4bit", "nvfp4", "ptq", "unknown")
SHOWN_FORMATS = (
    "fp8_block128_fp32",
    "fp8_block128_ue8m0",
    "mxfp8_e4m3",
    "mxfp4",
    "nvfp4",
    "hif8",
    "hif4",
    "int8_pc",
    "int4_g32",
)
CHIPS = ("nvidia_h20", "huawei_910b", "huawei_910c", "huawei_950dt", "nvidia_b200_sxm")
USABLE_SHARE = 0.9
ERROR_SAMPLES = ("gaussian", "heavy_tailed")  # of `dougong bench formats --record`


def exhibit(results: Results) -> Exhibit:
    """The exhibit: the models, their chart, the formats and what a format costs in chips."""
    words, table = content("table1"), rows(MODELS)
    pro = load_config("v4-pro")
    answer = Prose(
        words["answer"],
        {
            "models": computed(len(table), words["models_how"], "low_precision_models.csv"),
            "bits": computed(4 + 8 / 32, words["mxfp4_how"], "OCP Microscaling Formats v1.0"),
            "parameters": computed(
                parameters_total(pro, with_mtp=True) / 1e12,
                words["parameters_how"],
                "plan/parameters.py; config.json",
                unit="T",
            ),
            "size": _gigabytes(checkpoint_bytes(pro), "exact_how"),
            "bf16": _gigabytes(bf16_bytes(pro), "bf16_how"),
        },
    )
    ratio = computed(
        2**11, words["ratio_how"], "DeepSeek-V4 technical report; E2M1 and E4M3 codes", unit="×"
    )
    return Exhibit(
        key="table1",
        label=Text("Table 1", "表 1"),
        title=words["title"],
        answer=answer,
        blocks=(
            _size_chart(table),
            _chips_table(),
            Prose(words["lossless"], {"ratio": ratio}),
            _formats_table(results),
            _models_table(table),
        ),
    )


def habit(row: DataRow) -> str:
    """Which of the four habits a release follows (docs/formats.md), by its stated method."""
    method = row["method"]
    if not method:
        return "unknown"
    if "NVFP4 pre-training" in method:
        return "nvfp4"
    if "QAT" in method or "FP4 experts" in row["weight_format"] and method == "native":
        return "4bit"
    if "native FP8" in method or "FP8 mixed training" in method:
        return "fp8"
    return "ptq"


def _gigabytes(size: float, how: str) -> Cell:
    return computed(
        size / 1e9,
        content("table1")[how],
        "plan/parameters.py; tensor index of the release",
        unit="GB",
    )


@cache
def exact_bytes(model: str) -> int | None:
    """Bytes of a checkpoint that we can sum tensor by tensor, else None."""
    return checkpoint_bytes(load_config(PRESETS[model])) if model in PRESETS else None


def size_cell(row: DataRow) -> Cell:
    """The computed size of a release: to the byte where its tensors are known, else nominal."""
    exact = exact_bytes(row["model"])
    if exact is not None:
        return _gigabytes(exact, "exact_how")
    if not row["total_b"] or not row["eff_weight_bits"]:
        return gap("not_published")
    size = float(row["total_b"]) * float(row["eff_weight_bits"]) / 8
    return computed(
        size,
        content("table1")["nominal_how"],
        "low_precision_models.csv",
        unit="GB",
        confidence=row["confidence"],
    )


def _model_row(row: DataRow) -> Row:
    words, size = content("table1"), size_cell(row)
    difference, bf16 = gap("not_published"), gap("not_published")
    if size.value and row["checkpoint_gb"]:
        percent = 100 * (size.value / float(row["checkpoint_gb"]) - 1)
        difference = computed(
            percent,
            words["difference_how"],
            "low_precision_models.csv",
            unit="%",
            digits=2,
            confidence=row["confidence"],
        )
    if row["total_b"]:
        bf16 = computed(
            2 * float(row["total_b"]),
            words["bf16_how"],
            "low_precision_models.csv",
            unit="GB",
            confidence=row["confidence"],
        )
    cells = (
        figure(row, "total_b"),
        figure(row, "active_b"),
        stated(row, "weight_format"),
        stated(row, "method"),
        figure(row, "eff_weight_bits"),
        size,
        figure(row, "checkpoint_gb", unit="GB"),
        difference,
        bf16,
    )
    return Row(joined(same(row["model"]), same(row["release"]), by=", "), cells)


def _models_table(table: list[DataRow]) -> Table:
    words, lines = content("table1"), []
    for name in HABITS:
        members = [row for row in table if habit(row) == name]
        if members:
            lines.append(Row(words[f"habit_{name}"]))
            lines += [_model_row(row) for row in members]
    keys = (
        "model",
        "total",
        "active",
        "format",
        "method",
        "bits",
        "computed_size",
        "published_size",
        "difference",
        "bf16_size",
    )
    return Table(
        key="table1_models",
        title=words["table_title"],
        wide=True,
        columns=tuple(words[key] for key in keys),
        rows=tuple(lines),
    )


def _size_chart(table: list[DataRow]) -> Scatter:
    words, points = content("table1"), []
    for row in table:
        size = figure(row, "checkpoint_gb", unit="GB")
        if size.value is not None and row["total_b"]:
            total = figure(row, "total_b", unit="B")
            points.append(
                Point(
                    same(row["model"]),
                    total,
                    size,
                    HABITS.index(habit(row)),
                    first="V4" in row["model"],
                )
            )
    guides = ((2.0, words["guide_16"]), (1.0, words["guide_8"]), (4.25 / 8, words["guide_4"]))
    return Scatter(
        key="table1_sizes",
        title=words["chart_title"],
        x_title=words["chart_x"],
        y_title=words["chart_y"],
        groups=tuple(words[f"habit_{name}"] for name in HABITS[:4]),
        points=tuple(points),
        log_y=True,
        guides=guides,
        height=520,
    )


def stored_gigabytes(preset: str, precision: str) -> float:
    """GB of a model's main weights when a deployment stores them in the named precision."""
    chosen = PRECISIONS[precision]
    return sum(weight_bytes(w, chosen) for w in main_weights(load_config(preset))) / 1e9


def _chips_table() -> Table:
    words, lines, chips = content("table1"), [], load_chips()
    for preset, name in (("v4-flash", "V4-Flash"), ("v4-pro", "V4-Pro")):
        for precision in ("release", "w4a8", "int8", "bf16"):
            size = stored_gigabytes(preset, precision)
            weights = computed(
                size, words["stored_how"], "plan/precision.py; config.json", unit="GB"
            )
            counts = tuple(
                computed(
                    math.ceil(size * 1e9 / (USABLE_SHARE * chips[chip].need("mem"))),
                    words["chips_how"],
                    f"accelerators.csv: {chips[chip].name}",
                    confidence=chips[chip].confidence,
                )
                for chip in CHIPS
            )
            label = joined(same(name), words[f"p_{precision}"], by=", ")
            lines.append(Row(label, (weights, *counts)))
    columns = (
        words["chips_column"],
        words["weights"],
        *(same(SHORT_NAMES[chip]) for chip in CHIPS),
    )
    return Table(key="table1_chips", title=words["chips_title"], columns=columns, rows=tuple(lines))


SHORT_NAMES = {
    "nvidia_h20": "H20",
    "nvidia_h100_sxm": "H100",
    "nvidia_h800_sxm": "H800",
    "nvidia_h200_sxm": "H200",
    "nvidia_b200_sxm": "B200",
    "nvidia_gb300_nvl72": "GB300 NVL72",
    "amd_mi355x": "MI355X",
    "huawei_910b": "910B",
    "huawei_910c": "910C",
    "huawei_950pr": "950PR",
    "huawei_950dt": "950DT",
}


def _formats_table(results: Results) -> Table:
    words, lines = content("table1"), []
    known = {row["id"]: row for row in rows(FORMATS)}
    for name in SHOWN_FORMATS:
        row = known[name]
        per_scale = {"128x128 weights; 1x128 activations": 128 * 128, "channel or token": None}
        values = per_scale.get(
            row["block_size"], int(row["block_size"] or 0) if row["block_size"].isdigit() else None
        )
        second = 24 if name == "hif4" else 0  # 8 + 16 one-bit exponents of a HiF4 block
        if values:
            bits = float(row["element_bits"]) + (float(row["scale_bits"]) + second) / values
            block = computed(values, words["effective_how"], row["source"])
        else:  # one scale per channel, row or tensor: nothing to count per value
            bits, block = float(row["element_bits"]), gap("per_channel")
        effective = computed(
            bits, words["effective_how"], row["source"], digits=5, confidence=row["confidence"]
        )
        cells = (
            figure(row, "element_bits"),
            block,
            figure(row, "scale_bits"),
            effective,
            figure(row, "max_abs"),
            *(
                results.cell(
                    f"formats.{name}.relative_rms_{sample}", "format_error", scale=0.01, unit="%"
                )
                for sample in ERROR_SAMPLES
            ),
            stated(row, "hardware_native"),
        )
        lines.append(Row(phrase(row["name"]), cells))
    errors = tuple(f"error_{sample}" for sample in ERROR_SAMPLES)
    keys = ("format_name", "element", "block", "scale", "effective", "largest", *errors, "native")
    return Table(
        key="table1_formats",
        title=words["formats_title"],
        columns=tuple(words[key] for key in keys),
        rows=tuple(lines),
    )
