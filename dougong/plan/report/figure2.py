"""Figure 2: countermeasures to restraints in computing power, a waterfall and each one's effect."""

from __future__ import annotations

from functools import cache

from dougong.plan.overlap import OverlapPolicy
from dougong.plan.tables import Row as DataRow

from .bars import Step, Waterfall
from .cells import Cell, computed, of_quantity
from .effects import EFFECTS
from .exhibit import Exhibit, Prose, Row, Table
from .scenarios import SOURCE, best_decode
from .sources import gap, rows
from .sources import words as stated
from .text import Text, content, phrase

PACKAGES, CONTEXT, TPOT_S = 32, 131072, 0.050
# step: model, chip, precision, overlap, drafts
STEPS: dict[str, tuple[str, str, str, OverlapPolicy, int]] = {
    "s_base": ("v3.2", "huawei_910b", "int8", "none", 0),
    "s_int4": ("v3.2", "huawei_910b", "w4a8", "none", 0),
    "s_pro": ("v4-pro", "huawei_910b", "w4a8", "none", 0),
    "s_flash": ("v4-flash", "huawei_910b", "w4a8", "none", 0),
    "s_waves": ("v4-flash", "huawei_910b", "w4a8", "waves", 0),
    "s_draft": ("v4-flash", "huawei_910b", "w4a8", "waves", 1),
    "s_super": ("v4-flash", "huawei_910c", "w4a8", "waves", 1),
}
UNQUANTIFIED = {"cm18": "overseas", "cm21": "policy"}


def exhibit() -> Exhibit:
    """The exhibit: the waterfall, whether its model swap is fair, and the 22 measures."""
    words = content("figure2")
    cells = {
        "first": level("s_base"),
        "last": level("s_super"),
        "steps": computed(len(STEPS) - 1, words["steps_how"], SOURCE),
        "total": ratio("s_super", "s_base", "total_how"),
        "model": ratio("s_flash", "s_int4", "model_how"),
        "policy": ratio("s_draft", "s_flash", "policy_how"),
        "machine": ratio("s_super", "s_draft", "machine_how"),
    }
    return Exhibit(
        key="figure2",
        label=Text("Figure 2", "圖 2"),
        title=words["title"],
        answer=Prose(words["answer"], cells),
        blocks=(_waterfall(), fair_swap(), _table()),
    )


@cache
def level(step: str) -> Cell:
    """Tokens per second and package after a step, with its interval."""
    model, machine, precision, overlap, drafts = STEPS[step]
    point = best_decode(model, machine, PACKAGES, CONTEXT, TPOT_S, precision, overlap, drafts)
    quantity = point.quantities()["tokens_per_s_per_chip"]
    return of_quantity(quantity, how=content("figure2")["level_how"])


def ratio(after: str, before: str, how: str) -> Cell:
    """One level over another."""
    factor = (level(after).value or 0) / (level(before).value or 1)
    return computed(factor, content("figure2")[how], SOURCE, unit="×")


def _waterfall() -> Waterfall:
    words, names = content("figure2"), list(STEPS)
    steps = []
    for before, name in zip([None, *names], names, strict=False):
        factor = ratio(name, before, "factor_how") if before else None
        steps.append(Step(words[name], level(name), factor))
    return Waterfall(
        key="figure2_waterfall",
        title=words["chart_title"],
        axis=words["chart_axis"],
        steps=tuple(steps),
    )


def fair_swap() -> Prose:
    """How V4-Flash's base model compares with V3.2's."""
    words = content("figure2")
    old, new = (
        {
            row["benchmark"]: float(row["score"])
            for row in rows("capabilities", model=model, mode="base")
        }
        for model in ("DeepSeek-V3.2", "DeepSeek-V4-Flash")
    )
    wins = sum(new[name] > score for name, score in old.items())
    cells = {
        "wins": computed(wins, words["wins_how"], "capabilities.csv", confidence="high"),
        "rows": computed(len(old), words["rows_how"], "capabilities.csv", confidence="high"),
    }
    return Prose(words["equal"], cells)


def _row(row: DataRow) -> Row:
    label = phrase(row["measure"])
    phrases = (stated(row, "mechanism"), stated(row, "quantified_evidence"))
    if row["id"] in UNQUANTIFIED:
        hole = gap(UNQUANTIFIED[row["id"]])
        return Row(label, (*phrases, hole, hole))
    effect = EFFECTS[row["id"]]()
    meaning = Cell(parent=effect.parent, text=effect.parent.how)
    return Row(label, (*phrases, effect, meaning))


def _table() -> Table:
    words = content("figure2")
    lines = [_row(row) for row in rows("countermeasures")]
    heads = ("measure", "mechanism", "evidence", "effect", "meaning")
    return Table(
        key="figure2_countermeasures",
        title=words["table_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
        wide=True,
    )
