"""Figure 4: China's AI software-hardware ecosystems, who owns which layer."""

from __future__ import annotations

from dougong.plan.tables import Row as DataRow

from .cells import computed
from .exhibit import Exhibit, Prose, Row, Table
from .matrix import Matrix, MatrixRow
from .sources import rows
from .sources import words as stated
from .text import Text, content, phrase

FILE = "ecosystem.csv"
LAYERS = {
    "chip": "chip",
    "link": "scale_up",
    "system": "system_or_cluster",
    "cloud": "cloud_or_platform",
    "stack": "software_stack",
    "framework": "framework",
    "model": "own_model",
}
ABSENT = ("none", "n/a")
SHARED_START = ("PyTorch", "SGLang", "vLLM/", "MindSpore on ")
SHARED = ("via ", "through ", "buys ", "mixed", "vLLM/SGLang", "(targets)")
OWN_ANYWAY = ("PyTorch-for-SAIL",)
TYPES = (
    "full stack",
    "cloud + model",
    "model lab",
    "device + model",
    "chip vendor",
    "neutral software",
    "operator",
)


def exhibit() -> Exhibit:
    """The exhibit: the matrix and the phrases behind it."""
    words = content("figure4")
    ordered = sorted(rows("ecosystem"), key=lambda row: TYPES.index(row["type"]))
    players = [matrix_row(row) for row in ordered]
    chinese = [p for p in players if "NVIDIA" not in p.label.en]
    # A player may well build on a common framework.
    full = sum(
        all(
            level == "own"
            for level, layer in zip(p.levels, LAYERS, strict=True)
            if layer != "framework"
        )
        for p in chinese
    )
    cells = {
        "players": computed(len(chinese), words["players_how"], FILE),
        "full": computed(full, words["full_how"], FILE),
        "chips": computed(_of_type(ordered, "chip vendor"), words["type_how"], FILE),
        "hubs": computed(_of_type(ordered, "neutral software"), words["type_how"], FILE),
        "labs": computed(_of_type(ordered, "model lab"), words["type_how"], FILE),
    }
    matrix = Matrix(
        key="figure4_matrix",
        title=words["matrix_title"],
        columns=tuple(words[layer] for layer in LAYERS),
        total=words["sum"],
        legend=(words["own"], words["partner"]),
        rows=tuple(players),
    )
    return Exhibit(
        key="figure4",
        label=Text("Figure 4", "圖 4"),
        title=words["title"],
        answer=Prose(words["answer"], cells),
        blocks=(matrix, _table(ordered)),
    )


def _of_type(table: list[DataRow], kind: str) -> int:
    return sum(row["type"] == kind for row in table)


def level(row: DataRow, column: str) -> str:
    """ "own", "partner" or "none": read from the words of the data file."""
    text = row[column]
    if not text or text.startswith(ABSENT):
        return "none"
    if text in OWN_ANYWAY or (column == "software_stack" and row["type"] == "neutral software"):
        return "own"
    if column == "chip" and row["type"] == "neutral software":
        return "none"  # a list of targets, not of chips
    if column == "cloud_or_platform" and row["type"] == "chip vendor":
        return "partner"  # whose cloud the chips stand in
    shared = text.startswith(SHARED_START) or any(sign in text for sign in SHARED)
    return "partner" if shared else "own"


def matrix_row(row: DataRow) -> MatrixRow:
    """One player's dots."""
    words = content("figure4")
    levels = tuple(level(row, column) for column in LAYERS.values())
    label = phrase(row["player"])
    group = phrase(row["type"])
    return MatrixRow(
        label=label,
        group=group,
        levels=levels,
        cells=tuple(stated(row, column, "none_named") for column in LAYERS.values()),
        total=computed(levels.count("own"), words["sum_how"], FILE, confidence=row["confidence"]),
    )


def _table(ordered: list[DataRow]) -> Table:
    words, lines = content("figure4"), []
    columns = (
        "type",
        "chip",
        "scale_up",
        "system_or_cluster",
        "software_stack",
        "own_model",
        "v4_support",
    )
    for row in ordered:
        label = phrase(row["player"])
        lines.append(Row(label, tuple(stated(row, column, "none_named") for column in columns)))
    heads = ("player", "kind", "chip", "link", "system", "stack", "model", "v4")
    return Table(
        key="figure4_players",
        title=words["table_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
        wide=True,
    )
