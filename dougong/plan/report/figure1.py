"""Figure 1: model invocation in April 2026, with shares recomputed and the units trap explained."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dougong.plan.tables import Row

from .bars import Bar, Bars, Pair, Pairs, Stack, Stacks
from .cells import Cell, cited, computed
from .exhibit import Exhibit, Prose, Table
from .exhibit import Row as TableRow
from .sources import figure, only, rows, weakest
from .text import Text, content, same

USAGE = "model_usage_april_2026"
FILE = "model_usage_april_2026.csv"
MONTH = "2026-04 (30-day view)"
DOMESTIC_TOKENS_T_PER_DAY = 140.0  # put so by the press


def exhibit() -> Exhibit:
    """The exhibit with its three charts and the table of unit checks."""
    words = content("figure1")
    pairs = money_pairs()
    six = [pair for pair, row in zip(pairs, vendor_rows(), strict=True) if row["country"] == "CN"]
    trust = weakest(row["confidence"] for row in vendor_rows())
    answer = Prose(
        words["answer"],
        {
            "labs": computed(len(six), words["six_count_how"], FILE),
            "tokens": computed(
                _sum(p.first for p in six),
                words["six_tokens_how"],
                FILE,
                unit="%",
                confidence=trust,
            ),
            "dollars": computed(
                _sum(p.second for p in six),
                words["six_dollars_how"],
                FILE,
                unit="%",
                confidence=trust,
            ),
        },
    )
    money = Pairs(
        key="figure1_tokens_and_dollars",
        title=words["money_title"],
        axis=words["money_axis"],
        names=(words["token_share"], words["dollar_share"]),
        pairs=tuple(pairs),
    )
    return Exhibit(
        key="figure1",
        label=Text("Figure 1", "圖 1"),
        title=words["title"],
        answer=answer,
        blocks=(_month_chart(), _month_reading(), money, _weeks_chart(), _trap_table(pairs)),
    )


def _sum(cells: Iterable[Cell]) -> float:
    return sum(cell.value or 0.0 for cell in cells)


def _category(row: Row) -> int:
    if "free" in row["name"].lower():
        return 2
    return 0 if row["open_weights"] == "yes" else 1


def _month_chart() -> Bars:
    words = content("figure1")
    bars = [
        Bar(
            same(f"{row['name']} · {row['country']}"),
            figure(row, "tokens_t", unit=words["trillion"]),
            _category(row),
        )
        for row in rows(USAGE, period=MONTH)
    ]
    return Bars(
        key="figure1_month",
        title=words["month_title"],
        axis=words["month_axis"],
        bars=tuple(bars),
        categories=(words["open"], words["closed"], words["free"]),
    )


def _month_reading() -> Prose:
    words, month = content("figure1"), rows(USAGE, period=MONTH)
    total = sum(float(row["tokens_t"]) for row in month)
    trust = weakest(row["confidence"] for row in month)

    def share(category: int, how: str) -> Cell:
        part = sum(float(row["tokens_t"]) for row in month if _category(row) == category)
        return computed(100 * part / total, words[how], FILE, unit="%", confidence=trust)

    cells = {"open_share": share(0, "open_share_how"), "free_share": share(2, "free_share_how")}
    return Prose(words["month_reading"], cells)


def vendor_rows() -> list[Row]:
    """The ten vendors of the four-week view, by rank."""
    return rows(USAGE, period_type="4weeks")


def platform_tokens_t() -> float:
    """All tokens of the four weeks in trillions, from the ten vendors' tokens and shares."""
    listed = vendor_rows()
    shares = sum(float(row["share_pct"]) for row in listed) / 100
    return sum(float(row["tokens_t"]) for row in listed) / shares


def _note_number(row: Row, pattern: str) -> float | None:
    found = re.search(pattern, row["notes"])
    return float(found.group(1)) if found else None


def money_pairs() -> list[Pair]:
    """Each vendor's share of tokens and of dollars, both recomputed from tokens and prices.

    A vendor without a blended price (xAI) keeps the published dollar share.
    """
    words, listed = content("figure1"), vendor_rows()
    priced = [(row, _note_number(row, r"([\d.]+) USD/M")) for row in listed]
    stated = {row["name"]: _note_number(row, r"dollar share ([\d.]+)") for row in listed}
    spent = sum(float(row["tokens_t"]) * price for row, price in priced if price)
    platform = spent / sum((stated[row["name"]] or 0) / 100 for row, price in priced if price)
    pairs = []
    for row, price in priced:
        tokens, trust = float(row["tokens_t"]), row["confidence"]
        first = computed(
            100 * tokens / platform_tokens_t(),
            words["token_share_how"],
            f"{FILE}; {row['source']}",
            unit="%",
            confidence=trust,
        )
        if price:
            second = computed(
                100 * tokens * price / platform,
                words["dollar_share_how"],
                f"{FILE}; {row['source']}",
                unit="%",
                confidence=trust,
            )
        else:
            second = cited(stated[row["name"]] or 0.0, row["source"], trust, unit="%", digits=1)
        pairs.append(Pair(same(f"{row['name']} · {row['country']}"), first, second))
    return pairs


def _week(period: str) -> tuple[Row, Row, Row]:
    """The rows of all, Chinese and US tokens of one week."""
    total = only(USAGE, period=period, scope="total")
    country = rows(USAGE, period=period, scope="country")
    china, us = (next(r for r in country if r["country"] == which) for which in ("CN", "US"))
    return total, china, us


def _weeks_chart() -> Stacks:
    words, stacks = content("figure1"), []
    weeks = {
        "2026-03-30..04-05": "week_1",
        "2026-04-13..04-19": "week_3",
        "2026-04-27..05-03": "week_5",
    }
    for period, name in weeks.items():
        parts = _week(period)
        trust = weakest(row["confidence"] for row in parts)
        source = f"{FILE}; {parts[0]['source']}"
        total, china, us = (float(row["tokens_t"]) for row in parts)
        cells = tuple(
            computed(100 * part / total, words[how], source, unit="%", confidence=trust)
            for part, how in (
                (china, "week_share_how"),
                (us, "week_share_how"),
                (total - china - us, "rest_how"),
            )
        )
        stacks.append(Stack(words[name], cells))
    return Stacks(
        key="figure1_weeks",
        title=words["weeks_title"],
        parts=(words["china"], words["us"], words["rest"]),
        stacks=tuple(stacks),
    )


def _trap_table(pairs: list[Pair]) -> Table:
    words = content("figure1")
    mimo = next(row for row in rows(USAGE, period=MONTH) if row["name"] == "MiMo-V2-Pro")
    tokens, largest = float(mimo["tokens_t"]), float(_week("2026-03-30..04-05")[0]["tokens_t"])
    total, china, us = (float(row["tokens_t"]) for row in _week("2026-04-13..04-19"))
    other = only(USAGE, period="2026-04 (share view)", name="Anthropic")
    ours = next(pair.first for pair in pairs if pair.label.en.startswith("Anthropic"))
    domestic = cited(DOMESTIC_TOKENS_T_PER_DAY, "press, not re-checked", "low", unit=words["a_day"])
    sample = 100 * platform_tokens_t() / 28 / DOMESTIC_TOKENS_T_PER_DAY

    def line(key: str, stated: Cell, check: float, unit: str, trust: str) -> TableRow:
        found = computed(check, words[f"{key}_how"], FILE, unit=unit, confidence=trust)
        verdict = computed_words(words[f"{key}_verdict"], words[f"{key}_how"], trust)
        return TableRow(words[key], (stated, found, verdict))

    month = figure(mimo, "tokens_t", unit=words["trillion"])
    table = (
        line("trap_day", month, tokens * 30 / (largest * 30 / 7), "×", "medium"),
        line("trap_week", month, tokens * 7 / 30, "T", "medium"),
        line(
            "trap_rank",
            computed(china + us, words["trap_rank_how"], FILE, unit=words["trillion"]),
            100 * (china + us) / total,
            "%",
            "high",
        ),
        line("trap_market", domestic, sample, "%", "low"),
        line(
            "trap_vendor",
            figure(other, "share_pct", unit="%"),
            float(other["share_pct"]) / (ours.value or 1),
            "×",
            "medium",
        ),
    )
    columns = tuple(
        words[key] for key in ("trap_column", "trap_value", "trap_check", "trap_verdict")
    )
    return Table(key="figure1_units_trap", title=words["trap_title"], columns=columns, rows=table)


def computed_words(text: Text, how: Text, trust: str) -> Cell:
    """What a check says in words: a computed cell without a number."""
    cell = computed(0.0, how, FILE, confidence=trust)
    return Cell(parent=cell.parent, text=text)
