"""The price-performance frontier: capability against price, and what a chip-hour may cost."""

from __future__ import annotations

from dougong.plan.tables import Row as DataRow

from .cells import Cell, computed
from .exhibit import Exhibit, Prose, Row, Table
from .figure5 import bench
from .plots import Point, Scatter
from .sources import figure, gap, only, rows, weakest
from .text import content, joined, phrase, same

PRICES, SCORES = "api_prices", "capabilities"
FLASH, PRO = "DeepSeek-V4-Flash", "DeepSeek-V4-Pro"
PRICE_ROW = {
    FLASH: "deepseek-v4-flash",
    PRO: "deepseek-v4-pro",
    "GPT-5.4": "gpt-5.4",
    "Gemini 3.1 Pro": "gemini-3.1-pro",
    "Claude Opus 4.6": "claude-opus-4.7",  # the successor's list price stands in
}
RIVALS = {
    "SWE-Verified": "Claude Opus 4.6",
    "Codeforces": "GPT-5.4",
    "SimpleQA-Verified": "Gemini 3.1 Pro",
    "MRCR 1M": "Claude Opus 4.6",
}
MODES = ("non-think", "high", "max")
INPUT_PARTS = 3  # parts of input for each part of output: our assumption for chat and agents
CACHED_SHARE = 0.9  # of an agent's input that repeats: our assumption


def exhibit() -> Exhibit:
    """The exhibit: relative chart, frontier, scores, prices and break-even rentals."""
    words = content("frontier")
    cells = {
        "capability": relative_score(PRO, "SWE-Verified"),
        "price": relative_price(PRO, "SWE-Verified"),
        "flash_capability": relative_score(FLASH, "SWE-Verified"),
        "flash_price": relative_price(FLASH, "SWE-Verified"),
    }
    return Exhibit(
        key="frontier",
        label=words["label"],
        title=words["title"],
        answer=Prose(words["answer"], cells),
        blocks=(
            _relative_chart(),
            _frontier_chart(),
            Prose(words["reading"]),
            _scores_table(),
            _prices_table(),
            _cost_table(),
        ),
    )


def blended(row: DataRow, cached: float = 0.0) -> float:
    """US$ per million tokens: three parts input, of which `cached` is hit, to one part output."""
    miss, out = float(row["input_usd_per_m"]), float(row["output_usd_per_m"])
    hit = float(row["cache_hit_usd_per_m"] or row["input_usd_per_m"])
    price = INPUT_PARTS * (cached * hit + (1 - cached) * miss) + out
    return price / (INPUT_PARTS + 1)


def price_of(model: str) -> Cell:
    """A model's cold blended price; Opus 4.6 is priced as its successor and says so."""
    row = only(PRICES, model=PRICE_ROW[model])
    how = "successor" if model == "Claude Opus 4.6" else "blend_cold"
    return computed(
        blended(row),
        content("frontier")[how],
        f"api_prices.csv: {row['source']}",
        unit="US$",
        confidence="medium" if how == "successor" else row["confidence"],
    )


def score_of(model: str, benchmark: str, mode: str = "max") -> Cell | None:
    """A model's published score, or None."""
    found = rows(SCORES, model=model, benchmark=benchmark, mode=mode)
    if not found:
        return None
    return figure(found[0], "score", unit="%" if found[0]["unit"] == "%" else "")


def _against_rival(model: str, benchmark: str) -> tuple[Cell, Cell]:
    ours, theirs = score_of(model, benchmark), score_of(RIVALS[benchmark], benchmark)
    assert ours is not None
    assert theirs is not None
    return ours, theirs


def relative_score(model: str, benchmark: str) -> Cell:
    """A model's best score in percent of the closed rival's."""
    ours, theirs = _against_rival(model, benchmark)
    return computed(
        100 * (ours.value or 0) / (theirs.value or 1),
        content("frontier")["score_share_how"],
        f"capabilities.csv: {ours.parent.source}; {RIVALS[benchmark]}",
        unit="%",
        confidence=weakest((ours.parent.confidence, theirs.parent.confidence)),
    )


def relative_price(model: str, benchmark: str) -> Cell:
    """A model's blended price in percent of the closed rival's."""
    ours, theirs = price_of(model), price_of(RIVALS[benchmark])
    return computed(
        100 * (ours.value or 0) / (theirs.value or 1),
        content("frontier")["price_share_how"],
        f"{ours.parent.source}; {theirs.parent.source}",
        unit="%",
        confidence=weakest((ours.parent.confidence, theirs.parent.confidence)),
    )


def _relative_chart() -> Scatter:
    words, points = content("frontier"), []
    for group, model in enumerate((FLASH, PRO)):
        for benchmark, rival in RIVALS.items():
            label = same(f"{benchmark} ({rival})")
            points.append(
                Point(
                    label, relative_price(model, benchmark), relative_score(model, benchmark), group
                )
            )
    return Scatter(
        key="frontier_relative",
        title=words["relative_title"],
        x_title=words["relative_x"],
        y_title=words["relative_y"],
        groups=(words["flash"], words["pro"]),
        points=tuple(points),
        height=400,
    )


def on_frontier(points: list[tuple[float, float]]) -> list[bool]:
    """For each (price, score): True if nothing as cheap or cheaper scores higher."""
    return [
        not any((p <= price and s > score) or (p < price and s >= score) for p, s in points)
        for price, score in points
    ]


def _frontier_chart() -> Scatter:
    words, found = content("frontier"), []
    for group, model in enumerate((FLASH, PRO, "Claude Opus 4.6")):
        for mode in MODES:
            score = score_of(model, "SWE-Verified", mode)
            if score is not None:
                found.append((f"{model.removeprefix('DeepSeek-')}, {mode}", model, score, group))
    prices = [price_of(model) for _, model, _, _ in found]
    best = on_frontier(
        [(p.value or 0, s.value or 0) for p, (_, _, s, _) in zip(prices, found, strict=True)]
    )
    points = tuple(
        Point(same(label), price, score, group, frontier=is_best, first=is_best)
        for (label, _, score, group), price, is_best in zip(found, prices, best, strict=True)
    )
    return Scatter(
        key="frontier_swe",
        title=words["frontier_title"],
        x_title=words["price_axis"],
        y_title=words["score_axis"],
        groups=(words["flash"], words["pro"], words["closed"]),
        points=points,
        height=360,
    )


def _scores_table() -> Table:
    words, lines = content("frontier"), []
    names = list(dict.fromkeys(row["benchmark"] for row in rows(SCORES, model=PRO, mode="max")))
    for name in names:
        cells = [
            score_of(model, name, mode) or gap("not_published")
            for model in (FLASH, PRO)
            for mode in MODES
        ]
        rival = score_of(RIVALS[name], name) if name in RIVALS else None
        cells.append(rival or gap("no_rival"))
        label = joined(same(name), same(f"({RIVALS[name]})")) if name in RIVALS else same(name)
        lines.append(Row(label, tuple(cells)))
    heads = ("benchmark", "f_non", "f_high", "f_max", "p_non", "p_high", "p_max", "rival")
    return Table(
        key="frontier_scores",
        title=words["scores_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
    )


def _prices_table() -> Table:
    words, lines = content("frontier"), []
    for row in rows(PRICES):
        stated = tuple(
            figure(row, column)
            for column in ("input_usd_per_m", "cache_hit_usd_per_m", "output_usd_per_m")
        )
        source = f"api_prices.csv: {row['source']}"
        cold, warm = (
            computed(blended(row, cached), words[how], source, confidence=row["confidence"])
            for cached, how in ((0.0, "blend_cold"), (CACHED_SHARE, "blend_warm"))
        )
        if not row["cache_hit_usd_per_m"]:
            warm = gap("not_published")
        label = joined(phrase(row["model"]), same(f"· {row['country']}"))
        lines.append(Row(label, (*stated, cold, warm, gap("tokens_per_task"))))
    heads = ("model", "miss", "hit", "out", "cold", "warm", "tokens_task")
    return Table(
        key="frontier_prices",
        title=words["prices_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
    )


COST_ROWS = {
    "flash_small": (FLASH, {"seq_len": "8192", "global_batch": "16", "precision": "HiF8"}),
    "flash_large": (FLASH, {"seq_len": "8192", "global_batch": "1536", "precision": "HiF8"}),
    "pro_large": (PRO, {"global_batch": "3072"}),
}


def cost_cells(key: str) -> tuple[Cell, Cell, Cell, Cell, Cell]:
    """Rate, list price, break-even rental, rental estimate and cost of one operating point."""
    words, (model, wanted) = content("frontier"), COST_ROWS[key]
    row = bench(model=model, hardware="huawei_950dt", **wanted)
    price = only(PRICES, model=PRICE_ROW[model])
    rental = only("rental_prices", accelerator_id="huawei_950dt")
    per_hour = float(row["tok_s_per_chip"]) * 3600 / 1e6
    trust = weakest((row["confidence"], price["confidence"]))
    break_even = computed(
        float(price["output_usd_per_m"]) * per_hour,
        words["break_even_how"],
        f"v4_inference_benchmarks.csv: {row['source']}; api_prices.csv: {price['source']}",
        unit="US$/h",
        confidence=trust,
    )
    cost = computed(
        float(rental["usd_per_hour"]) / per_hour,
        words["cost_how"],
        f"rental_prices.csv: {rental['source'] or rental['basis']}",
        unit="US$/M",
        confidence=rental["confidence"],
    )
    return (
        figure(row, "tok_s_per_chip"),
        figure(price, "output_usd_per_m", unit="US$/M"),
        break_even,
        figure(rental, "usd_per_hour", unit="US$/h"),
        cost,
    )


def _cost_table() -> Table:
    words = content("frontier")
    lines = tuple(Row(words[key], cost_cells(key)) for key in COST_ROWS)
    heads = ("cost_column", "rate", "list_price", "break_even", "rental", "cost")
    return Table(
        key="frontier_cost",
        title=words["cost_title"],
        columns=tuple(words[head] for head in heads),
        rows=lines,
    )
