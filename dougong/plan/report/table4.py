"""Table 4: V3's MLA against V4's MQA, in cache, work and bandwidth from 4k to 1M tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from dougong.config import V3Config, load_config
from dougong.plan.flops import decode_flops_fp8_equivalent
from dougong.plan.kv import attended_keys, index_key_bytes, kv_bytes, kv_entry_bytes
from dougong.plan.weights import ModelConfig, layer_kinds

from .cells import Cell, computed
from .exhibit import Exhibit, Prose, Row, Table
from .measured import Results
from .plots import Line, Lines
from .sources import only, rows
from .sources import words as stated
from .text import Text, content, phrase, same

CONTEXTS = {4096: "4k", 32768: "32k", 131072: "128k", 524288: "512k", 1048576: "1M"}
MODELS = {"v3": "v3", "v3.2": "v32_name", "v4-flash": "flash_name", "v4-pro": "pro_name"}
COLUMNS = (
    "deepseek_v3_mla",
    "deepseek_v3.2_mla_dsa",
    "deepseek_v4_flash_mqa",
    "deepseek_v4_pro_mqa",
)
COMPUTED_ATTRIBUTES = ("KV bytes", "KV GB", "FLOPs per token")  # stand in the grid, computed
KINDS = ("window", "mla", "dsa", "v4")
ABLATIONS = ("v4", "v4-unaligned", "v4-ratio4", "v4-ratio128")
QUALITY = ("loss", "recall", "needle_1_2048", "needle_1_8192", "needle_16_2048", "cache")
DECODE = ("decode_1024", "decode_8192", "decode_32768")
MEASURES = ("parameters", "tokens", *QUALITY, *DECODE)
MILLION = 1 << 20
SOURCE = "plan/kv.py, plan/flops.py; DeepSeek-V4 technical report; config.json"


def exhibit(results: Results) -> Exhibit:
    """The exhibit: designs, the computed grid, its charts, and what remains to be measured."""
    words = content("table4")
    return Exhibit(
        key="table4",
        label=Text("Table 4", "表 4"),
        title=words["title"],
        answer=Prose(
            words["answer"],
            {
                "v32": cache_cell("v3.2", MILLION),
                "pro": share(cache_value, "v4-pro", MILLION, "cache_share_how"),
                "flash": share(cache_value, "v4-flash", MILLION, "cache_share_how"),
                "pro_flops": share(flops_value, "v4-pro", MILLION, "flops_share_how"),
                "flash_flops": share(flops_value, "v4-flash", MILLION, "flops_share_how"),
            },
        ),
        blocks=(
            _chart("table4_cache", "cache_chart", "cache_axis", cache_cell),
            _chart("table4_flops", "flops_chart", "flops_axis", flops_cell),
            Prose(
                words["reading"],
                {"short": share(flops_value, "v4-pro", 4096, "flops_share_how")},
            ),
            _chart("table4_read", "read_chart", "read_axis", read_cell),
            _grid(),
            Prose(words["measured_reading"], {}),
            _measured(results, "measured", KINDS, MEASURES),
            _measured(results, "ablations", ABLATIONS, QUALITY),
            _attributes(),
        ),
    )


@cache
def model(preset: str) -> ModelConfig:
    """A preset's configuration."""
    return load_config(preset)


def cache_value(preset: str, context_len: int) -> float:
    """Bytes that one request holds."""
    return float(kv_bytes(model(preset), context_len))


def flops_value(preset: str, context_len: int) -> float:
    """FP8-equivalent FLOPs of one decoded token."""
    return decode_flops_fp8_equivalent(model(preset), context_len).total


@cache
def read_value(preset: str, context_len: int) -> float:
    """Cache bytes that one decoded token reads: attended entries and scanned index keys."""
    config = model(preset)
    entries = sum(attended_keys(config, context_len)) * kv_entry_bytes(config)
    if isinstance(config, V3Config):
        indexed = config.num_hidden_layers * context_len if config.index_topk else 0
    else:
        indexed = layer_kinds(config).count("csa") * (context_len // 4)
    return float(entries + indexed * index_key_bytes(config))


def cache_cell(preset: str, context_len: int) -> Cell:
    """The cache in GB."""
    how = content("table4")["cache_how"]
    return computed(cache_value(preset, context_len) / 1e9, how, SOURCE, unit="GB")


def flops_cell(preset: str, context_len: int) -> Cell:
    """The work in GFLOP."""
    how = content("table4")["flops_how"]
    return computed(flops_value(preset, context_len) / 1e9, how, SOURCE, unit="GFLOP")


def read_cell(preset: str, context_len: int) -> Cell:
    """The bandwidth in MB."""
    how = content("table4")["read_how"]
    return computed(read_value(preset, context_len) / 1e6, how, SOURCE, unit="MB")


def share(value: Callable[[str, int], float], preset: str, context_len: int, how: str) -> Cell:
    """A model's value in percent of V3.2's at the same context."""
    percent = 100 * value(preset, context_len) / value("v3.2", context_len)
    return computed(percent, content("table4")[how], SOURCE, unit="%")


def _chart(key: str, title: str, axis: str, cell: Callable[[str, int], Cell]) -> Lines:
    words = content("table4")
    lines = [
        Line(words[name], tuple((float(n), cell(preset, n)) for n in CONTEXTS), look)
        for look, (preset, name) in enumerate(MODELS.items())
    ]
    return Lines(
        key=key,
        title=words[title],
        x_title=words["context"],
        y_title=words[axis],
        lines=tuple(lines),
        x_ticks=tuple((float(n), label) for n, label in CONTEXTS.items()),
    )


def _grid() -> Table:
    words, lines = content("table4"), []
    for head, cell in (("g_cache", cache_cell), ("g_flops", flops_cell), ("g_read", read_cell)):
        lines.append(Row(words[head]))
        lines += [
            Row(same(label), tuple(cell(preset, n) for preset in MODELS))
            for n, label in CONTEXTS.items()
        ]
    columns = (words["context"], *(words[name] for name in MODELS.values()))
    return Table(key="table4_grid", title=words["grid_title"], columns=columns, rows=tuple(lines))


def _measured(results: Results, key: str, kinds: tuple[str, ...], names: tuple[str, ...]) -> Table:
    """What `python -m experiments.attention --record` wrote of these kinds of attention."""
    words = content("table4")
    lines = [
        Row(
            words[f"m_{name}"],
            tuple(results.cell(f"attention.{kind}.{name}", "attention_kinds") for kind in kinds),
        )
        for name in names
    ]
    return Table(
        key=f"table4_{key}",
        title=words[f"{key}_title"],
        columns=(words["measure"], *(words[f"kind_{kind}"] for kind in kinds)),
        rows=tuple(lines),
    )


def _attributes() -> Table:
    words, lines = content("table4"), []
    for row in rows("mla_vs_mqa"):
        if row["attribute"].startswith(COMPUTED_ATTRIBUTES):
            continue
        label = phrase(row["attribute"])
        cells = tuple(stated(row, column, "not_applicable") for column in COLUMNS)
        lines.append(Row(label, cells))
    columns = (words["attribute"], *(words[name] for name in MODELS.values()))
    return Table(
        key="table4_designs",
        title=words["attributes_title"],
        columns=columns,
        rows=tuple(lines),
    )


def published_share(column: str) -> float:
    """The paper's FLOP share at 1M of one model, for the tests."""
    return float(only("mla_vs_mqa", attribute="FLOPs per token at 1M vs V3.2")[column])
