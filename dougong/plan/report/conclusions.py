"""The closing chapter: conclusions with their command, sensitivity and what would make them false.

Every number is computed by the same functions as the exhibits; none is typed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from dougong.config import load_config
from dougong.plan.chips import load_chips
from dougong.plan.evaluate import Evaluation, leave_one_out, loglinear_quantiles, read_cases
from dougong.plan.layout import Layout, largest_batch
from dougong.plan.overlap import hiding_threshold
from dougong.plan.precision import PRECISIONS
from dougong.plan.tables import load_table

from .cells import Cell, computed
from .effects import EFFECTS
from .exhibit import Conclusion, Prose
from .figure1 import FILE as USAGE_FILE
from .figure1 import USAGE, money_pairs, vendor_rows
from .figure2 import CONTEXT, PACKAGES, STEPS, TPOT_S, level, ratio
from .figure5 import bench, gain, long_context_cost
from .frontier import RIVALS, cost_cells, score_of
from .scenarios import SOURCE, best_decode, chip, rate, scenario
from .sources import figure, only
from .table2 import OVERLAP, x_of
from .table2 import ratio as c_over_b
from .table4 import flops_value
from .text import content

MILLION = 1 << 20


@cache
def conclusions() -> tuple[Conclusion, ...]:
    """All conclusions, the strongest first."""
    return (_model(), _link(), _context(), _formats(), _price(), _reach(), _software())


def _conclude(
    key: str,
    command: str,
    claim: Mapping[str, Cell],
    sensitivity: Mapping[str, Cell],
    false_if: Mapping[str, Cell],
) -> Conclusion:
    words = content("conclusions")
    return Conclusion(
        key=f"conclusion-{key}",
        claim=Prose(words[f"{key}_claim"], claim),
        command=command,
        sensitivity=Prose(words[f"{key}_sensitivity"], sensitivity),
        false_if=Prose(words[f"{key}_false"], false_if),
    )


def _percent(value: float, how: str, source: str = SOURCE, table: str = "conclusions") -> Cell:
    return computed(100 * value, content(table)[how], source, unit="%")


def _level_at(step: str, context_len: int) -> float:
    model, machine, precision, overlap, drafts = STEPS[step]
    return best_decode(
        model, machine, PACKAGES, context_len, TPOT_S, precision, overlap, drafts
    ).tokens_per_s_per_chip


def _bound(cell: Cell, value: float | None) -> Cell:
    """One end of a level's interval, as a figure of its own."""
    assert value is not None
    return Cell(parent=cell.parent, value=value)


def _model() -> Conclusion:
    words, flash, old = content("figure2"), level("s_flash"), level("s_base")
    short = _level_at("s_flash", 8192) / _level_at("s_int4", 8192)
    machine = _level_at("s_super", 8192) / _level_at("s_draft", 8192)
    return _conclude(
        "model",
        f"dougong plan run v4-flash --chip 910b --count {PACKAGES} --context {CONTEXT} "
        f"--precision w4a8 --mtp 0 --overlap none --slo tpot={TPOT_S * 1e3:.0f}ms",
        {
            "model": ratio("s_flash", "s_int4", "model_how"),
            "machine": ratio("s_super", "s_draft", "machine_how"),
        },
        {
            "short": computed(short, words["model_how"], SOURCE, unit="×"),
            "short_machine": computed(machine, words["machine_how"], SOURCE, unit="×"),
            "level": flash,
        },
        {"low": _bound(flash, flash.low), "high": _bound(old, old.high)},
    )


def _link_loss(divisor: int) -> Cell:
    """Decode throughput lost when the 950DT's link is this many times slower."""
    whole = load_chips()["huawei_950dt"].need("link")
    full, cut = (
        rate(scenario("v4-pro", chip("huawei_950dt", link=link), 64, 8192, 4096))
        for link in (whole, whole / divisor)
    )
    return _percent(1 - cut / full, "change_how", table="table2")


def _link() -> Conclusion:
    words = content("table2")
    pro = load_config("v4-pro").moe_intermediate_size
    return _conclude(
        "link",
        'dougong plan run v4-pro --chip 950dt --count 64 --batch 4096 --what-if "link/4"',
        {
            "x": computed(100 * x_of("huawei_950dt"), words["x_how"], OVERLAP, unit="%"),
            "quarter": _link_loss(4),
        },
        {
            "half": _link_loss(2),
            "sixteenth": _link_loss(16),
            "h800": computed(c_over_b("nvidia_h800_sxm"), words["cb_how"], OVERLAP),
            "limit": computed(hiding_threshold(pro), words["limit_how"], OVERLAP, digits=4),
        },
        {"fill": _percent(1 / 8, "fill_how", OVERLAP)},
    )


def _requests(model: str) -> Cell:
    """Requests of a million tokens that fit on 16 x 950DT."""
    most = largest_batch(
        load_config(model), Layout(chips=16), chip("huawei_950dt"), PRECISIONS["release"], MILLION
    )
    return computed(most, content("figure2")["cm05"], "plan/layout.py")


def _context() -> Conclusion:
    machine, words = chip("huawei_950dt"), content("table4")
    short, long = (
        rate(scenario("v4-flash", machine, 16, context, 16, precision="hif8", drafts=3))
        for context in (8192, MILLION)
    )
    growth = {
        name: computed(
            flops_value(model, MILLION) / flops_value(model, 8192),
            words["growth_how"],
            "plan/flops.py; DeepSeek-V4 technical report",
            unit="×",
        )
        for name, model in (("v32", "v3.2"), ("flash", "v4-flash"))
    }
    ours, theirs = (score_of(model, "MRCR 1M") for model in ("DeepSeek-V4-Pro", RIVALS["MRCR 1M"]))
    assert ours is not None
    assert theirs is not None
    return _conclude(
        "context",
        "dougong plan run v4-flash --chip 950dt --count 16 --context 1048576 --batch 16 "
        "--precision hif8 --mtp 3",
        {
            "measured": long_context_cost(),
            "planned": _percent(1 - long / short, "long_how", table="figure5"),
            **growth,
        },
        {"requests": _requests("v4-flash"), "requests_pro": _requests("v4-pro")},
        {"mrcr": ours, "rival": theirs},
    )


def _bf16_share(batch: int) -> Cell:
    """Decode speed of V4-Pro in BF16 over the release's formats on 64 x 950DT."""
    machine = chip("huawei_950dt")
    bf16, release = (
        rate(scenario("v4-pro", machine, 64, 8192, batch, precision=name))
        for name in ("bf16", "release")
    )
    return _percent(bf16 / release, "cm03", table="figure2")


def _formats() -> Conclusion:
    scores = {
        f"{name}{suffix}": figure(
            only("capabilities", model="DeepSeek-V4-Flash", benchmark=benchmark, mode=mode),
            "score",
        )
        for name, benchmark in (("gpqa", "GPQA Diamond"), ("mmlu", "MMLU-Pro"))
        for suffix, mode in (("", "non-think"), ("_int8", "non-think, W8A8 on Ascend"))
    }
    return _conclude(
        "format",
        "dougong plan run v4-pro --chip 950dt --count 64 --batch 1024 --precision bf16",
        {"packages": EFFECTS["cm17"](), "speed": _bf16_share(1024)},
        {"small": _bf16_share(16), "large": _bf16_share(4096)},
        scores,
    )


def _price() -> Conclusion:
    small, large = cost_cells("flash_small")[2], cost_cells("flash_large")[2]
    rental = cost_cells("flash_large")[3]
    busy = (rental.value or 0) / (large.value or 1)
    return _conclude(
        "price",
        "dougong plan run v4-flash --chip 950dt --count 16 --batch 1536 --precision hif8 "
        "--set chip.rental=0.8",
        {"large": large, "small": small},
        {
            "rental": rental,
            "busy": computed(
                100 * busy,
                content("conclusions")["busy_how"],
                rental.parent.source,
                unit="%",
                confidence="low",
            ),
        },
        {"small": small},
    )


def _reach() -> Conclusion:
    words, pairs = content("figure1"), list(zip(money_pairs(), vendor_rows(), strict=True))
    here = content("conclusions")

    def vendors(country: str) -> int:
        return sum(row["country"] == country for _, row in pairs)

    def total(country: str, which: str) -> float:
        cells = [getattr(pair, which) for pair, row in pairs if row["country"] == country]
        return float(sum(cell.value or 0.0 for cell in cells))

    def share(value: float, how: str) -> Cell:
        known = words[how] if how in words else here[how]
        return computed(value, known, USAGE_FILE, unit="%", confidence="medium")

    other = only(USAGE, period="2026-04 (share view)", scope="group", country="CN")
    return _conclude(
        "reach",
        "dougong report --out report",
        {
            "labs": computed(vendors("CN"), words["six_count_how"], USAGE_FILE),
            "us": computed(vendors("US"), here["us_count_how"], USAGE_FILE),
            "tokens": share(total("CN", "first"), "six_tokens_how"),
            "dollars": share(total("CN", "second"), "six_dollars_how"),
            "us_tokens": share(total("US", "first"), "us_tokens_how"),
            "us_dollars": share(total("US", "second"), "us_dollars_how"),
        },
        {"other": figure(other, "share_pct", unit="%")},
        {},
    )


@cache
def _accuracy() -> tuple[Evaluation, float]:
    """The planner's rows each left out in turn, and the regression's median error."""
    cases, unmodelled = read_cases(load_table("v4_inference_benchmarks"), load_chips())
    yardstick, _ = loglinear_quantiles(cases)
    assert yardstick is not None
    return leave_one_out(cases, unmodelled), yardstick


def _software() -> Conclusion:
    rack = {"model": "DeepSeek-V4-Pro", "hardware": "nvidia_gb300_nvl72"}
    result, yardstick = _accuracy()
    median, p90 = result.quantile(0.5), result.quantile(0.9)
    assert median is not None
    assert p90 is not None
    source = "plan/evaluate.py; v4_inference_benchmarks.csv"
    return _conclude(
        "software",
        "dougong plan evaluate --leave-out row --json",
        {
            "gb300": gain(bench(**rack, stage="day-0"), bench(**rack, stage="June")),
            "ascend": EFFECTS["cm16"](),
        },
        {
            "rows": computed(len(result.results), content("conclusions")["rows_how"], source),
            "median": _percent(median, "error_how", source),
            "p90": _percent(p90, "error_how", source),
            "yardstick": _percent(yardstick, "yardstick_how", source),
        },
        {},
    )
