"""The planner's tables, chips and records: schema, gaps, overrides, conflicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dougong.errors import InputError
from dougong.plan import records
from dougong.plan.chips import (
    FORMATS,
    THIS_MACHINE,
    conflicts,
    find_chip,
    load_chips,
    override,
    this_machine,
)
from dougong.plan.tables import COLUMNS, load_table, parse_table, read_table
from dougong.plan.whatif import apply

CHIPS = load_chips()


@pytest.mark.parametrize("table", sorted(COLUMNS))
def test_every_row_of_every_table_has_source_and_confidence(table: str) -> None:
    rows = load_table(table)
    assert rows
    assert all(row["source"] and row["confidence"] for row in rows)


def test_tables_have_the_rows_that_hardware_md_counts() -> None:
    counts = {"accelerators": 44, "interconnects": 35, "v4_inference_benchmarks": 32}
    counts |= {"low_precision_formats": 28, "low_precision_models": 30, "cuda_vs_cann": 21}
    counts |= {"countermeasures": 22}
    assert {name: len(load_table(name)) for name in counts} == counts


def test_unknown_missing_and_unsourced_cells_are_refused_by_name() -> None:
    header = ",".join(COLUMNS["rental_prices"].split())
    with pytest.raises(InputError, match="unknown columns colour"):
        parse_table(header + ",colour\n", "rental_prices", "mine.csv")
    with pytest.raises(InputError, match="missing columns notes"):
        parse_table(header.removesuffix(",notes") + "\n", "rental_prices", "mine.csv")
    with pytest.raises(InputError, match=r"mine\.csv, line 2: source is empty"):
        parse_table(header + "\nx,b,1,2026,,high,\n", "rental_prices", "mine.csv")
    with pytest.raises(InputError, match=r"line 2: 7 cells are wanted"):
        parse_table(header + "\nx,b,1\n", "rental_prices", "mine.csv")
    with pytest.raises(InputError, match="is unknown; there are"):
        load_table("prices")


def test_values_nobody_published_stay_empty_and_say_how_to_give_them() -> None:
    bw1000 = CHIPS["hygon_bw1000"]
    assert bw1000.get("mem_bw") is None
    assert not bw1000.flops
    with pytest.raises(InputError, match=r"memory bandwidth is not published.*--set chip\.mem_bw="):
        bw1000.need("mem_bw")
    assert {"bf16", "mem_bw", "link"} <= set(bw1000.missing())
    for empty in ("huawei_950dt", "huawei_950pr"):
        assert CHIPS[empty].rental is None
    assert CHIPS["huawei_950dt"].tdp is None


def test_chip_values_are_in_base_units_one_way_and_dense() -> None:
    h20, package = CHIPS["nvidia_h20"], CHIPS["huawei_910c"]
    assert (h20.need("fp8"), h20.need("mem_bw"), h20.need("link")) == (296e12, 4e12, 450e9)
    assert h20.need("scaleout") == 50e9  # 400 Gbit/s
    die = CHIPS["huawei_910c_die"]
    assert 2 * die.need("bf16") == package.need("bf16")
    assert 2 * die.need("mem_bw") == package.need("mem_bw")


@pytest.mark.parametrize(
    ("text", "value"), [("1600", 1.6e12), ("1.6TB/s", 1.6e12), ("1600 GB/s", 1.6e12)]
)
def test_overrides_take_units(text: str, value: float) -> None:
    chip = override(CHIPS["hygon_bw1000"], {"chip.mem_bw": text})
    assert chip.need("mem_bw") == pytest.approx(value, rel=1e-12)
    assert chip.overrides == ("mem_bw",)


def test_override_units_of_rates_and_memory() -> None:
    chip = override(CHIPS["hygon_bw1000"], {"chip.fp8": "0.5PFLOPS", "chip.mem": "64"})
    assert chip.need("fp8") == 500e12
    assert chip.need("mem") == 64e9
    with pytest.raises(InputError, match=r"--set chip\.colour is unknown"):
        override(chip, {"chip.colour": "1"})
    with pytest.raises(InputError, match="its unit must be GB/s"):
        override(chip, {"chip.mem_bw": "3 W"})
    with pytest.raises(InputError, match="a number, with or without a unit"):
        override(chip, {"chip.mem_bw": "fast"})


def test_a_user_file_adds_chips(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS["accelerators"].split(), "")
    row |= {"id": "lab_x1", "name": "X1", "vendor": "Lab", "kind": "npu", "bf16_tflops": "100"}
    row |= {"mem_gb": "32", "mem_bw_gbs": "1000", "scaleup_bw_gbs_bidir": "200", "source": "ours"}
    path = tmp_path / "mine.csv"
    path.write_text(",".join(row) + "\n" + ",".join((row | {"confidence": "high"}).values()))
    chip = load_chips(path)["lab_x1"]
    assert (chip.need("bf16"), chip.need("link")) == (1e14, 1e11)
    path.write_text(path.read_text().replace(",100,", ",quick,"))
    with pytest.raises(InputError, match="bf16_tflops is 'quick'"):
        load_chips(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv", "accelerators")


def test_a_table_saved_by_a_spreadsheet_reads_like_any_other(tmp_path: Path) -> None:
    plain = "dimension,checkpointing,compute_while_transmitting,source,confidence\na,b,c,d,e\n"
    file = tmp_path / "table.csv"
    file.write_bytes(b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode())
    name = "checkpointing_vs_overlap"
    assert read_table(file, name) == parse_table(plain, name, "plain")


def test_chips_are_found_by_part_of_a_name_and_ambiguity_is_said() -> None:
    found = {text: find_chip(CHIPS, text).id for text in ("950dt", "H20", "b200", "910C", "gb300")}
    assert found == {
        "950dt": "huawei_950dt", "H20": "nvidia_h20", "b200": "nvidia_b200_sxm",
        "910C": "huawei_910c", "gb300": "nvidia_gb300_nvl72",
    }  # fmt: skip
    with pytest.raises(InputError, match="fits several chips: use one of"):
        find_chip(CHIPS, "huawei")
    with pytest.raises(InputError, match="is not a chip we know"):
        find_chip(CHIPS, "tpu")


def test_conflicts_name_both_values_and_known_chips() -> None:
    assert {row["accelerator_id"] for row in load_table("conflicts")} <= set(CHIPS)
    assert [row["other_value"] for row in conflicts("nvidia_h20")] == ["550"]
    columns = set(COLUMNS["accelerators"].split())
    published = {row["id"]: row for row in load_table("accelerators")}
    for row in load_table("conflicts"):
        assert row["field"] in columns
        assert published[row["accelerator_id"]][row["field"]] == row["value"]


def test_what_if_edits() -> None:
    chip = CHIPS["huawei_950dt"]
    edited = apply(chip, "link/4, no fp8, mem=64GB, mem_bw*2")
    assert edited.need("link") == chip.need("link") / 4
    assert edited.need("mem_bw") == 2 * chip.need("mem_bw")
    assert edited.need("mem") == 64e9
    assert not {"fp8", "fp4"} & set(edited.flops)
    assert apply(chip, "no link").need("link") == 0
    for wrong, said in (("link%4", "not understood"), ("no tail", "'tail' is unknown"),
                        ("link/0", "must be above 0")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            apply(chip, wrong)


# --- records ----------------------------------------------------------------------------------


def test_a_record_is_written_and_read_back(tmp_path: Path) -> None:
    made = records.make_record("machine.mem_bw", 40e9, "B/s", "dougong bench stream --record")
    (path,) = records.append_records([made, made], "stream", tmp_path)
    assert path.suffix == ".jsonl"
    assert records.read_records(tmp_path) == [made, made]
    row = json.loads(path.read_text().splitlines()[0])
    assert set(row) == {"name", "value", "unit", "command", "machine", "versions", "commit", "date"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": "1"}, "a finite number"),
        ({"value": float("nan")}, "a finite number"),
        ({"value": True}, "a finite number"),
        ({"unit": ""}, "unit is ''"),
        ({"name": "Big Name"}, "must be lower-case"),
        ({"date": "yesterday"}, "not an ISO 8601 date"),
        ({"machine": {}}, "machine is {}"),
        ({"colour": 1}, "keys colour"),
    ],
)
def test_bad_records_are_refused(change: dict[str, object], said: str) -> None:
    good = records.make_record("a.b", 1.0, "s", "cmd")
    row = {key: getattr(good, key) for key in good.__dataclass_fields__} | change
    with pytest.raises(InputError, match=said):
        records.validate(row, "file, line 1")


def test_broken_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"name": \n')
    with pytest.raises(InputError, match=r"x\.jsonl, line 2: not JSON"):
        records.read_records(tmp_path)
    path.write_text("[1]\n")
    with pytest.raises(InputError, match="one JSON object a line"):
        records.read_file(path)
    assert records.read_records(tmp_path / "nowhere") == []


def test_the_latest_record_of_a_name_wins() -> None:
    old = records.make_record("a.b", 1.0, "s", "cmd")
    new = records.Record(**{**vars(old), "value": 2.0, "date": "2099-01-01"})
    assert records.latest([new, old])["a.b"].value == 2.0


def test_measured_bandwidth_makes_this_machine_a_chip() -> None:
    assert this_machine([]) is None
    made = [
        records.make_record("machine.mem_bw", 40e9, "B/s", "dougong bench stream --record"),
        records.make_record("machine.fp32", 2e11, "FLOP/s", "dougong bench kernels --record"),
        records.make_record("machine.mem", 24e9, "B", "dougong bench stream --record"),
    ]
    chip = load_chips(records=made)[THIS_MACHINE]
    assert (chip.kind, chip.need("mem_bw"), chip.need("fp32")) == ("cpu", 40e9, 2e11)
    assert set(chip.flops) <= set(FORMATS)
    assert chip.confidence == "measured"
