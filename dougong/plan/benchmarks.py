"""Published measurements as cases that the planner can compute, and why the others are not.

Rows are in the layout of v4_inference_benchmarks.csv. A row is modelled when it names model, chip,
chips, context and one operating point: requests in flight, or time per token with throughput (then
requests = throughput x time, Little's law, and the time is what is predicted).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from dougong.config import PRESETS as PRESET_NAMES
from dougong.config import load_config
from dougong.errors import DougongError, InputError
from dougong.plan.chips import Chip, find_chip
from dougong.plan.layout import Layout, default_layout
from dougong.plan.operators import Step
from dougong.plan.precision import PRECISIONS, Precision, default_precision, parse_precision
from dougong.plan.roofline import IdealStep, ideal_step
from dougong.plan.speculation import MAX_DRAFTS, tokens_per_step
from dougong.plan.tables import Row, number
from dougong.plan.weights import ModelConfig

A3Unit = Literal["auto", "die", "package"]

# Published names, longest first where one begins another.
MODEL_PRESETS = (
    ("deepseek-v4-flash", "v4-flash"),
    ("deepseek-v4-pro", "v4-pro"),
    ("deepseek-v3.2", "v3.2"),
    ("deepseek-v3", "v3"),
    ("deepseek-r1", "v3"),
)
# Names that begin like one of these but are other architectures.
OTHER_MODELS = ("deepseek-v4.1", "deepseek-r1-distill")
# CANN's recipes: offline, forced expert balance, streams side by side but no fused MoE kernel.
BALANCED_SOURCE = "cann-recipes"

# SGLang's recipe for V4 is EAGLE 3/1/4 (its V4 cookbook): its rows do not repeat that.
SGLANG_V4_SOURCE, SGLANG_V4_DRAFTS = "sglang v4", 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """One modelled row: what was run, and the seconds per output token that were measured."""

    row: int
    label: str
    config: ModelConfig
    chip: Chip
    layout: Layout
    precision: Precision
    step: Step
    immature: bool
    confidence: str
    ideal: IdealStep
    tpot_s: float
    tokens_per_s_per_chip: float

    @property
    def tokens_per_step(self) -> float:
        """Output tokens that one request gains per step."""
        return tokens_per_step(self.step.drafts)


@dataclass(frozen=True, kw_only=True)
class Unmodelled:
    """A row the planner does not compute, and the reason."""

    row: int
    label: str
    reason: str


@cache
def preset(name: str) -> ModelConfig:
    """A preset's configuration, read once."""
    return load_config(name)


def model_of(name: str) -> ModelConfig | None:
    """The configuration behind a published name or a preset's, or None for other models."""
    key = re.sub(r"[\s_]+", "-", name.strip().lower()).rpartition("/")[2]
    if key in PRESET_NAMES:
        return preset(key)
    if key.startswith(OTHER_MODELS):
        return None
    return next((preset(known) for word, known in MODEL_PRESETS if key.startswith(word)), None)


def chip_of(row: Row, chips: Mapping[str, Chip], unit: A3Unit) -> Chip | None:
    """The row's chip. On 910C, CANN's tables count dies and everybody else's packages; `unit`
    overrides that."""
    name = row["hardware"].strip()
    try:
        chip = chips.get(name) or find_chip(chips, name)
    except InputError:
        return None
    if chip.id == "huawei_910c":
        per_die = BALANCED_SOURCE in row["source"] if unit == "auto" else unit == "die"
        return chips["huawei_910c_die"] if per_die else chip
    return chip


def read_case(
    index: int,
    row: Row,
    chips: Mapping[str, Chip],
    unit: A3Unit = "auto",
    assume_drafts: int | None = None,
) -> Case | Unmodelled:
    """Row `index` (from 1) as a case, or why it is none.

    `assume_drafts` stands in where a row does not say how many tokens were drafted per step.
    """
    label = " ".join(
        row[key]
        for key in ("model", "hardware", "chips", "phase", "seq_len", "global_batch")
        if row[key]
    )
    try:
        return _case(index, label, row, chip_of(row, chips, unit), assume_drafts)
    except DougongError as error:
        return Unmodelled(row=index, label=label, reason=str(error))


def _case(index: int, label: str, row: Row, chip: Chip | None, assume_drafts: int | None) -> Case:
    config = model_of(row["model"])
    if config is None:
        raise InputError(
            f"model {row['model']!r} is not one we have a configuration for; write a published "
            f"name such as DeepSeek-V4-Flash, or a preset: {', '.join(PRESET_NAMES)}"
        )
    if chip is None:
        raise InputError(f"hardware {row['hardware']!r} is not in accelerators.csv")
    if not row["phase"].strip().lower().startswith("decode"):
        raise InputError(f"phase {row['phase']!r}: only decode rows say what was in flight")
    precision = _precision(row, chip, config)
    count, context_len = _whole(row, "chips"), _whole(row, "seq_len")
    if context_len > config.max_position_embeddings:
        limit = config.max_position_embeddings
        raise InputError(f"seq_len is {context_len}; the model takes at most {limit} tokens")
    requests, tpot_s = _operating_point(row, count)
    balanced = BALANCED_SOURCE in row["source"]
    step = Step(
        context_len=context_len,
        requests=requests,
        drafts=_drafts(row, assume_drafts),
        routing="balanced" if balanced else "uniform",
    )
    layout = default_layout(count, requests)
    overlap: Literal["none", "waves"] = "none" if balanced else "waves"
    return Case(
        row=index,
        label=label,
        config=config,
        chip=chip,
        layout=layout,
        precision=precision,
        step=step,
        immature="day-0" in row["stage"].lower() or "day 0" in row["stage"].lower(),
        confidence=row["confidence"].split(" ")[0],
        ideal=ideal_step(config, step, layout, chip, precision, overlap),
        tpot_s=tpot_s,
        tokens_per_s_per_chip=requests / tpot_s / count,
    )


def _precision(row: Row, chip: Chip, config: ModelConfig) -> Precision:
    """What the row says, or the chip's usual choice where it says nothing."""
    if not row["precision"]:
        return default_precision(chip, config)
    precision = parse_precision(row["precision"])
    if precision is None:
        raise InputError(
            f"precision {row['precision']!r} is not one we model ({', '.join(PRECISIONS)})"
        )
    return precision


def _whole(row: Row, column: str) -> int:
    value = number(row, column, "row")
    if value is None or value < 1 or value != int(value):
        raise InputError(f"{column} is {row[column]!r}; a whole number of at least 1 is needed")
    return int(value)


def _operating_point(row: Row, chips: int) -> tuple[int, float]:
    """(requests in flight, measured seconds per output token)."""
    tpot_ms = number(row, "tpot_ms", "row")
    rate = number(row, "tok_s_per_chip", "row")
    batch = float(_whole(row, "global_batch")) if row["global_batch"] else None
    for column, value in (("tpot_ms", tpot_ms), ("tok_s_per_chip", rate)):
        if value is not None and value <= 0:
            raise InputError(f"{column} is {row[column]!r}; a number above 0 is needed")
    if batch and tpot_ms:
        return int(batch), tpot_ms / 1e3
    if batch and rate:
        return int(batch), batch / (rate * chips)
    if tpot_ms and rate:
        return max(1, round(rate * chips * tpot_ms / 1e3)), tpot_ms / 1e3
    raise InputError(
        "the operating point is missing: give global_batch with tpot_ms or tok_s_per_chip, "
        "or tpot_ms with tok_s_per_chip"
    )


def _drafts(row: Row, assumed: int | None) -> int:
    """Drafts per step. An empty cell is not zero: the published tables write 0 for none."""
    text = row["mtp"].lower().removeprefix("mtp").strip()
    if not text and SGLANG_V4_SOURCE in row["source"].lower():
        return SGLANG_V4_DRAFTS
    if not text and assumed is not None:
        return assumed
    if not text.isdigit() or int(text) > MAX_DRAFTS:
        raise InputError(
            f"mtp is {row['mtp']!r}: how many tokens were drafted per step changes the time per "
            f"token up to 2.4 times; a number from 0 to {MAX_DRAFTS} is needed (--assume-mtp)"
        )
    return int(text)
