"""Cells refuse to lie about themselves; figures agree with the specification; conclusions hold."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.cli.main import run
from dougong.errors import InputError
from dougong.plan.quantity import Quantity
from dougong.plan.records import Record
from dougong.plan.report import table2, table3, table4
from dougong.plan.report.cells import Cell, Parent, cited, computed, number, of_quantity
from dougong.plan.report.effects import EFFECTS
from dougong.plan.report.exhibit import Prose, Report, Table
from dougong.plan.report.figure1 import platform_tokens_t
from dougong.plan.report.figure2 import STEPS, level
from dougong.plan.report.figure3 import KEYS, NEW, OLD, cache_value, only_with, speed_last
from dougong.plan.report.figure4 import matrix_row
from dougong.plan.report.frontier import on_frontier
from dougong.plan.report.measured import Results, load_results
from dougong.plan.report.sources import rows, weakest
from dougong.plan.report.table1 import size_cell
from dougong.plan.report.table2 import x_of
from dougong.plan.report.text import same

RECORD = Record(
    name="kernels.attention.cuda.us",
    value=12.5,
    unit="us",
    command="dougong bench kernels --backend cuda --record",
    machine={"name": "one card"},
    versions={"torch": "2.13.0"},
    commit="abc",
    date="2026-11-20T10:00:00+00:00",
)


def test_a_computed_or_cited_figure_without_a_source_is_refused() -> None:
    with pytest.raises(InputError, match="needs its source"):
        computed(1.0, "1", " ")
    with pytest.raises(InputError, match="needs its source"):
        cited(1.0, "", "high")


def test_an_empty_figure_cannot_hold_a_value_nor_another_lack_one() -> None:
    hole = Parent(kind="empty", how=same("a measurement"))
    with pytest.raises(InputError, match="cell is empty"):
        Cell(parent=hole, value=1.0)
    with pytest.raises(InputError, match="cell is computed"):
        Cell(parent=Parent(kind="computed", how=same("f"), source="s"))


def test_a_planner_figure_keeps_its_mark_and_interval() -> None:
    quantity = Quantity(value=2e9, unit="B", formula="f", source="s", low=1e9, high=3e9)
    cell = of_quantity(quantity, scale=1e9, unit="GB")
    assert cell.show("en").replace("\u202f", " ") == "2.00 [1.00–3.00] GB"
    assert cell.parent.kind == "computed"


@given(
    st.floats(1e-6, 1e12) | st.floats(-1e12, -1e-6),
    st.integers(2, 6),
)
def test_printed_numbers_are_right_to_the_digits_they_show(value: float, digits: int) -> None:
    shown = float(number(value, digits).replace(",", "").replace("−", "-"))
    assert shown == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


def test_numbers_print_as_people_write_them() -> None:
    shown = [number(v, 3) for v in (0.9996, 5031.4, 1234567, -5.41, 0.0, float("inf"))]
    assert shown == ["1.00", "5,030", "1,234,567", "−5.41", "0", "∞"]


def test_a_table_row_with_a_cell_too_few_is_refused(report: Report) -> None:
    table = next(b for e in report.exhibits() for b in e.blocks if isinstance(b, Table))
    short = replace(table.rows[-1], cells=table.rows[-1].cells[:-1])
    with pytest.raises(InputError, match="has"):
        replace(table, rows=(short,))


def test_a_recorded_measurement_fills_its_cell_with_command_machine_and_date() -> None:
    exhibit = table3.exhibit(Results([RECORD]))
    table = exhibit.blocks[1]
    assert isinstance(table, Table)
    filled = [cell for row in table.rows for cell in row.cells if cell.parent.kind == "measured"]
    assert [cell.value for cell in filled] == [12.5]
    parent = filled[0].parent
    assert RECORD.command in parent.how.en
    assert "one card" in parent.source
    assert parent.date == "2026-11-20"


def test_table_2_shows_recorded_recomputation() -> None:
    figures = {"step": (1.5, "s"), "step_bytes": (588e6, "B"), "peak_bytes": (2.3e9, "B")}
    records = [
        replace(RECORD, name=f"recompute.tensor.m97.{name}", value=value, unit=unit)
        for name, (value, unit) in figures.items()
    ]
    tables = {
        block.key: block
        for block in table2.exhibit(Results(records)).blocks
        if isinstance(block, Table)
    }
    rows = {row.label.en: row.cells for row in tables["table2_measured"].rows}
    shown = [(cell.value, cell.unit.en) for cell in rows["tensor-level"]]
    assert shown == [(1.5, "s"), (588.0, "MB"), (2300.0, "MB")]
    assert all(cell.value is None for cell in rows["whole module"])


def test_the_later_of_two_measurements_is_shown() -> None:
    newer = replace(RECORD, value=11.0, date="2026-11-21T10:00:00+00:00")
    assert Results([newer, RECORD]).cell(RECORD.name, "kernel_cuda").value == 11.0


def test_a_results_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_results(tmp_path / "none")


def test_confidence_of_a_computed_figure_is_that_of_its_weakest_input() -> None:
    assert weakest(["high", "medium-high", "high (vendor)"]) == "medium-high"
    assert weakest(["high (spec) / low (price)"]) == "low"


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    # bytes of the released index files (architecture.md 6.1); 671 x 8.1 / 8 etc. for the others
    [("DeepSeek-V4-Pro", 864.704792696), ("DeepSeek-V4-Flash", 159.609485896),
     ("gpt-oss-120b", 117 * 4.25 / 8)],
)  # fmt: skip
def test_sizes_of_table_1(model: str, gigabytes: float) -> None:
    (row,) = rows("low_precision_models", model=model)
    assert size_cell(row).value == pytest.approx(gigabytes, rel=1e-9)


def test_computed_sizes_stay_near_the_published_ones() -> None:
    # INT4/FP4 releases keep attention in BF16, which nominal bits leave out: 14 % at most.
    for row in rows("low_precision_models"):
        size = size_cell(row).value
        if size is not None and row["checkpoint_gb"]:
            assert size == pytest.approx(float(row["checkpoint_gb"]), rel=0.15), row["model"]


@pytest.mark.parametrize(("preset", "column"), [("v4-pro", "deepseek_v4_pro_mqa"),
                                                ("v4-flash", "deepseek_v4_flash_mqa")])  # fmt: skip
def test_flops_at_a_million_tokens_are_the_paper_s(preset: str, column: str) -> None:
    share = table4.flops_value(preset, 1 << 20) / table4.flops_value("v3.2", 1 << 20)
    # the paper prints whole percents of 27 and 10
    assert share == pytest.approx(table4.published_share(column), abs=0.005)


def test_the_platform_total_of_april_is_what_shares_and_tokens_imply() -> None:
    # Anthropic: 9.39T are 12.3 %
    assert platform_tokens_t() == pytest.approx(9.39 / 0.123, rel=0.01)


def test_every_countermeasure_is_quantified_or_says_why_not() -> None:
    known = {row["id"] for row in rows("countermeasures")}
    assert known - set(EFFECTS) == {"cm18", "cm21"}
    assert set(EFFECTS) <= known


def test_the_frontier_keeps_what_nothing_cheaper_beats() -> None:
    points = [(1.0, 50.0), (1.0, 60.0), (2.0, 55.0), (3.0, 70.0)]
    assert on_frontier(points) == [False, True, False, True]


def test_the_matrix_counts_full_stacks_as_the_specification_names_them() -> None:
    own = {r["player"]: matrix_row(r).levels.count("own") for r in rows("ecosystem")}
    assert {name for name, count in own.items() if count == 7} == {"Huawei", "Alibaba", "Baidu"}


# --- what the words claim beside the numbers -----------------------------------------------------


def test_the_model_did_more_than_the_machine() -> None:
    levels = {step: level(step).value or 0.0 for step in STEPS}
    model = levels["s_flash"] / levels["s_int4"]
    machine = levels["s_super"] / levels["s_draft"]
    policy = levels["s_draft"] / levels["s_flash"]
    assert model > 3 * machine
    assert machine > policy > 1
    assert list(levels.values()) == sorted(levels.values())


def test_compression_is_the_upgrade_that_does_most_and_fp4_buys_back_the_experts() -> None:
    cuts = {p: cache_value(only_with(p)) / cache_value(OLD) for p in KEYS}
    assert min(cuts, key=lambda part: cuts[part]) == "compression"
    assert cache_value(NEW) < 0.11 * cache_value(OLD)
    wide, fp4 = speed_last("wide_experts").value, speed_last("fp4_experts").value
    assert wide is not None
    assert fp4 is not None
    assert wide < 1 < fp4
    assert wide * fp4 > 1


def test_the_950dt_has_link_to_spare_and_the_h800_has_not() -> None:
    assert x_of("huawei_950dt") < 0.25
    assert x_of("nvidia_h800_sxm") > 1


def test_qualitative_claims_of_the_conclusions_follow_from_their_figures(report: Report) -> None:
    found = {one.key: one for chapter in report.chapters for one in chapter.conclusions}

    def value(key: str, part: str, name: str) -> float:
        prose = getattr(found[f"conclusion-{key}"], part)
        assert isinstance(prose, Prose)
        cell = prose.cells[name]
        assert cell.value is not None
        return cell.value

    assert value("link", "claim", "quarter") < 5
    assert value("link", "sensitivity", "sixteenth") > value("link", "sensitivity", "half")
    assert value("context", "claim", "measured") < 25
    assert value("context", "claim", "v32") > 2 * value("context", "claim", "flash")
    assert value("price", "claim", "large") > 10 * value("price", "claim", "small")
    assert value("reach", "claim", "tokens") > value("reach", "claim", "us_tokens")
    assert value("reach", "claim", "dollars") < value("reach", "claim", "us_dollars")
    assert value("software", "claim", "gb300") > value("software", "claim", "ascend") > 0
    assert value("software", "sensitivity", "median") < value(
        "software", "sensitivity", "yardstick"
    )


def test_every_conclusion_has_all_its_parts_in_figures(report: Report) -> None:
    found = [one for chapter in report.chapters for one in chapter.conclusions]
    assert len(found) >= 6
    for one in found:
        assert one.claim.cells
        assert one.sensitivity.cells
        assert len(one.false_if.text.en) > 60


def test_the_command_of_every_conclusion_runs(
    report: Report,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for chapter in report.chapters:
        for one in chapter.conclusions:
            program, *arguments = shlex.split(one.command)
            assert program == "dougong"
            assert run(arguments) == 0, capsys.readouterr().err


def test_the_command_of_the_first_conclusion_prints_its_figure(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    command = report.chapters[-1].conclusions[0].command
    assert run([*shlex.split(command)[1:], "--json"]) == 0
    shown = f"{level('s_flash').value:.3f}"
    assert shown[:7] in capsys.readouterr().out
