"""Table 3: CUDA against CANN, the stacks as published and our operators as measured."""

from __future__ import annotations

from dougong.plan.tables import Row as DataRow

from .cells import Cell, computed
from .exhibit import Exhibit, Prose, Row, Table
from .measured import Results
from .sources import rows
from .sources import words as stated
from .text import Text, content, phrase

FILE = "cuda_vs_cann.csv"
OPERATORS = (
    "linear",
    "router",
    "experts",
    "hyper_connection",
    "norm",
    "rotary",
    "compressor",
    "index",
    "attention",
    "output",
    "logits",
    "sampling",
)
BACKENDS = ("reference", "cpu", "cuda", "ascend")


def exhibit(results: Results) -> Exhibit:
    """The exhibit: openness counted, the stacks, and the operators on each backend."""
    words, table = content("table3"), rows("cuda_vs_cann")
    answer = Prose(
        words["answer"],
        {
            "layers": computed(len(table), words["layers_how"], FILE),
            "cuda_closed": _count(table, "cuda_openness", ("closed", "proprietary"), "closed_how"),
            "cann_closed": _count(table, "cann_openness", ("closed", "proprietary"), "closed_how"),
            "cann_licence": _count(
                table, "cann_openness", ("CANN licence", "CANN Open", "field-of-use"), "licence_how"
            ),
        },
    )
    return Exhibit(
        key="table3",
        label=Text("Table 3", "表 3"),
        title=words["title"],
        answer=answer,
        blocks=(Prose(words["reading"]), _operator_table(results), _stack_table(table)),
    )


def _count(table: list[DataRow], column: str, signs: tuple[str, ...], how: str) -> Cell:
    number = sum(any(sign in row[column] for sign in signs) for row in table)
    return computed(number, content("table3")[how], FILE)


def _stack_table(table: list[DataRow]) -> Table:
    words, lines = content("table3"), []
    columns = (
        "cuda",
        "cann",
        "cuda_openness",
        "cann_openness",
        "programming_difference",
        "gap_or_note",
    )
    for row in table:
        label = phrase(row["layer"])
        lines.append(Row(label, tuple(stated(row, column, "none_noted") for column in columns)))
    heads = ("layer", "cuda", "cann", "cuda_open", "cann_open", "difference", "note")
    return Table(
        key="table3_stacks",
        title=words["stack_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
        wide=True,
    )


def _operator_table(results: Results) -> Table:
    words = content("table3")
    lines = [
        Row(
            words[operator],
            tuple(
                results.first(f"kernels.{operator}.{backend}.", f"kernel_{backend}")
                for backend in BACKENDS
            ),
        )
        for operator in OPERATORS
    ]
    heads = tuple(Text(name, name) for name in BACKENDS)
    return Table(
        key="table3_operators",
        title=words["operators_title"],
        columns=(words["operator"], *heads),
        rows=tuple(lines),
    )
