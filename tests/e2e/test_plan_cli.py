"""`dougong plan` as a user types it: documented keys, one-line refusals, no torch."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dougong.cli import main as entry
from dougong.cli.plan_run import command as run_command
from dougong.cli.plan_train import command as train_command
from dougong.plan.search import Wanted, deployments, pareto
from dougong.plan.tables import COLUMNS, load_table


@pytest.fixture(autouse=True)
def nothing_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without bench/results: `this-machine` is not among the chips."""
    monkeypatch.chdir(tmp_path)


def ask(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Runs a command with --json and returns its one object."""
    assert entry.run(["plan", *words, "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    report: dict[str, Any] = json.loads(out)
    return report


def refused(capfd: pytest.CaptureFixture[str], *words: str, status: int = 1) -> str:
    """Runs a command that must fail with one line; returns it."""
    assert entry.run(["plan", *words]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


FLASH = ("v4-flash", "--chip", "950dt", "--count", "16")


def test_planning_imports_no_torch_and_little_else() -> None:
    program = (
        "import sys\n"
        "import dougong.plan\n"
        "first = {'numpy', 'torch', 'simpy'} & sys.modules.keys()\n"
        "from dougong.cli.main import run\n"
        "run(['plan', 'run', 'v4-flash', '--chip', '950dt', '--count', '16', '--json'])\n"
        "bad = {'torch', 'pandas', 'matplotlib', 'scipy', 'transformers'} & sys.modules.keys()\n"
        "print(sorted(first), sorted(bad), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[] []"


def test_run_prints_the_documented_keys(capfd: pytest.CaptureFixture[str]) -> None:
    report = ask(capfd, "run", *FLASH, "--batch", "1536")
    documented = (run_command.help or "").partition("JSON:")[2]
    assert set(report) == set(re.findall(r"\w+", documented))
    assert report["fits"] is True
    assert report["layout"] == "TP1 DP16 EP16"
    figure = report["figures"]["time_per_token_s"]
    assert figure["low"] < figure["value"] < figure["high"]
    # measured at this point: 16.46 ms (published row 3)
    assert figure["value"] == pytest.approx(16.46e-3, rel=0.15)
    assert sum(report["parts_s"].values()) == pytest.approx(1.7 * figure["value"], rel=1e-9)
    engines = [one["engine"] for one in report["launch"]]
    assert engines[0] == "Dougong"
    assert {"vllm-ascend", "MindIE", "cann-recipes-infer", "SGLang"} <= set(engines)
    assert report["price"]["mark"] == "empty"
    assert {row["field"] for row in report["conflicts"]} >= {"bf16_tflops"}


def test_run_says_in_words_what_binds_and_what_to_change(
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "run", "v4-pro", "--chip", "h20", "--count", "16", "--slo", "tpot=60ms"]
    assert entry.run([*words, "--traffic", "rate=4,hit=50%,prompt=8k"]) == 0
    out = capfd.readouterr().out
    for part in ("fits", "binds", "change first", "vllm serve", "USD per million", "replicas"):
        assert part in out


def test_a_limit_gives_the_largest_batch_that_meets_it(capfd: pytest.CaptureFixture[str]) -> None:
    report = ask(capfd, "run", *FLASH, "--slo", "tpot=10ms")
    assert report["figures"]["time_per_token_s"]["value"] <= 0.010
    more = ask(capfd, "run", *FLASH, "--batch", str(report["batch"] + 16))
    assert more["figures"]["time_per_token_s"]["value"] > 0.010


def test_what_if_and_set_change_the_answer(capfd: pytest.CaptureFixture[str]) -> None:
    base = ask(capfd, "run", *FLASH)["figures"]["time_per_token_s"]["value"]
    slow = ask(capfd, "run", *FLASH, "--what-if", "mem_bw/4")["figures"]["time_per_token_s"][
        "value"
    ]
    assert slow > 1.5 * base
    told = ask(capfd, "run", *FLASH, "--set", "chip.rental=0.8", "--set", "chip.tdp=600W")
    assert told["price"]["value"] > 0
    assert told["energy"]["value"] > 0
    assert set(told["chip"]["overrides"]) == {"rental", "tdp"}


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (("run", "v4-flash", "--chip", "bw1000", "--count", "8"), "not published", 1),
        # Atlas 350: FP8 780 (hardware.md 1), and 500 = FP8/2 is the 950's rule there
        (("run", "v4-flash", "--chip", "atlas350", "--count", "8"), "FP8 rate, 390, is", 1),
        (("run", "v4-flash", "--chip", "tpu", "--count", "8"), "is not a chip we know", 1),
        (("run", "v9", "--chip", "h20", "--count", "8"), "v9", 1),
        (("run", "v4-flash", "--chip", "this-machine", "--count", "1"), "bench stream --record", 1),
        (("run", *FLASH, "--traffic", "hit=100%"), "hit below 100%", 2),
        (("run", *FLASH, "--traffic", "rate=1,prompt=0"), "prompt and output at least 1", 2),
        (("run", *FLASH, "--slo", "tpot=1us"), "a time with its unit", 2),
        (("run", *FLASH, "--slo", "speed=1s"), "use ttft=, tpot=", 2),
        (("run", *FLASH, "--slo", "tpot=1ms"), "cannot be met", 1),
        (("run", *FLASH, "--slo", "ttft=1ms"), "cannot be met", 1),
        (("run", *FLASH, "--batch", "4", "--slo", "tpot=9s"), "exclude each other", 2),
        (("run", *FLASH, "--what-if", "soup"), "is not understood", 1),
        (("run", *FLASH, "--set", "chip.mem_bw"), "write chip.KEY=VALUE", 2),
        (("run", *FLASH, "--set", "mem_bw=1"), "--set mem_bw is unknown", 1),
        (("run", *FLASH, "--context", "2000000"), "longer than the model", 1),
        (("run", *FLASH, "--tp", "3"), "must divide", 1),
        (("run", "nano", "--chip", "9950x", "--count", "1", "--mtp", "9"), "not in the range", 2),
        (("run", *FLASH, "--what-if", "no link, no scaleout"), "nothing joins its chips", 1),
        (("evaluate", "nowhere.csv"), "cannot be read", 1),
        (("chips", "tpu"), "is not a chip we know", 1),
        (("fleet", *FLASH, "--traffic", "rate=0"), "a rate above 0", 1),
        (("search", "v4-flash", "--chip", "950dt", "--slo", "tpot"), "use ttft=, tpot=", 2),
    ],
)
def test_bad_input_is_refused_in_one_line(
    words: tuple[str, ...], said: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capfd, *words, status=status)


def test_compare_ranks_and_names_what_it_could_not_compute(
    capfd: pytest.CaptureFixture[str],
) -> None:
    report = ask(capfd, "compare", "v4-flash", "--count", "16")
    ids = [row["id"] for row in report["chips"]]
    assert ids.index("nvidia_gb300_nvl72") < ids.index("huawei_950dt") < ids.index("huawei_910b")
    assert "hygon_bw1000" in report["refused"]
    assert len(ids) + len(report["refused"]) == 45  # 44 published chips and the 910C's die
    assert all(row["low"] < row["time_per_token_s"] < row["high"] for row in report["chips"])


def test_search_front_holds_no_beaten_point(capfd: pytest.CaptureFixture[str]) -> None:
    report = ask(
        capfd, "search", "v4-flash", "--chip", "950dt", "--chip", "h20", "--count", "16",
        "--slo", "tpot=30ms,ttft=5s",
    )  # fmt: skip
    front = report["front"]
    assert len(front) > 3
    for a in front:
        assert a["time_per_token_s"] <= 0.030
        assert a["time_to_first_token_s"] <= 5
        assert 0 < a["prefill_share"] < 1
        assert not any(
            b["time_per_token_s"] < a["time_per_token_s"]
            and b["tokens_per_s_per_chip"] > a["tokens_per_s_per_chip"]
            for b in front
        )


def test_the_front_is_the_front_of_all_points() -> None:
    from dougong.config import load_config
    from dougong.plan.calibration import default_calibration
    from dougong.plan.chips import load_chips

    wanted = Wanted(context_len=16384, prompt_len=8192, output_len=1024)
    chips = load_chips()
    points, refused_chips = deployments(
        load_config("v4-flash"), [chips["nvidia_h200_sxm"], chips["biren_br106"]], (8,), wanted,
        default_calibration(),
    )  # fmt: skip
    assert "not published" in refused_chips["biren_br106"]
    assert len(points) > 50
    for by_price in (False, True):
        front = pareto(points, by_price)
        for one in front:
            worth = one.tokens_per_s_per_chip
            beaten = [
                p for p in points if p.tpot_s < one.tpot_s and p.tokens_per_s_per_chip > worth
            ]
            assert beaten == []
        for point in points:  # and nothing that belongs to the front is missing from it
            assert any(
                one.tpot_s <= point.tpot_s
                and one.tokens_per_s_per_chip >= point.tokens_per_s_per_chip
                for one in front
            )


def test_an_edit_that_one_chip_lacks_the_figure_for_does_not_stop_the_others(
    capfd: pytest.CaptureFixture[str],
) -> None:
    chips = ("--chip", "h20", "--chip", "bw1000", "--what-if", "link/4")
    for words in (("compare", "v4-flash"), ("search", "v4-flash", "--count", "8")):
        report = ask(capfd, *words, *chips)
        assert "scale-up bandwidth" in report["refused"]["hygon_bw1000"]
        assert "nvidia_h20" not in report["refused"]
    assert "soup" in refused(capfd, "search", "v4-flash", "--what-if", "soup")


def test_train_chooses_recomputation_by_memory(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("train", "v4-pro", "--chip", "950dt", "--count", "512")
    report = ask(capfd, *words)
    assert len(report["runs"]) == 9
    assert (report["fastest"]["recompute"], report["fastest"]["fits"]) == ("tensor", True)
    assert report["fastest"] in report["front"]
    documented = (train_command.help or "").partition("JSON:")[2]
    assert set(re.findall(r"\w+", documented)) == {*report, *report["fastest"]}
    assert entry.run(["plan", *words]) == 0
    assert "fastest that fits: recompute tensor" in capfd.readouterr().out
    assert entry.run(["plan", *words, "--tokens", "100000"]) == 0
    assert "none fits" in capfd.readouterr().out


def as_csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS["v4_inference_benchmarks"].split(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def test_evaluate_reads_rows_of_the_published_layout(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = load_table("v4_inference_benchmarks")[:3]
    rows.append(rows[0] | {"model": "GLM-5", "source": "", "confidence": ""})
    path = tmp_path / "rows.csv"
    path.write_text(as_csv(rows), encoding="utf-8")
    report = ask(capfd, "evaluate", str(path))
    assert (report["rows"], report["modelled"], report["unmodelled"]) == (4, 3, 1)
    assert report["per_row"][3]["modelled"] is False
    assert "GLM-5" in report["per_row"][3]["reason"]
    errors = sorted(abs(row["rel_error"]) for row in report["per_row"][:3])
    assert report["median_abs_rel_error"] == errors[1]
    first = report["per_row"][0]
    assert first["predicted_tok_s_per_chip"] == pytest.approx(
        16 / 16 / (first["predicted_tpot_ms"] / 1e3)
    )


def test_evaluate_without_any_modelled_row_says_none(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(as_csv([load_table("v4_inference_benchmarks")[0] | {"model": "GLM-5"}]))
    report = ask(capfd, "evaluate", str(path))
    assert report["modelled"] == 0
    assert report["median_abs_rel_error"] is None
    path.write_text("model,hardware\nx,y\n")
    assert "missing columns" in refused(capfd, "evaluate", str(path))


def test_evaluate_leaving_rows_out_meets_the_targets(capfd: pytest.CaptureFixture[str]) -> None:
    report = ask(capfd, "evaluate", "--leave-out", "row")
    assert report["median_abs_rel_error"] <= 0.15
    assert report["p90_abs_rel_error"] <= 0.25
    assert report["loglinear_median_abs_rel_error"] > 2 * report["median_abs_rel_error"]


def test_fleet_reports_times_hits_and_price(capfd: pytest.CaptureFixture[str]) -> None:
    report = ask(
        capfd, "fleet", "v4-flash", "--chip", "h20", "--count", "8", "--prefill", "8",
        "--seconds", "60", "--traffic", "rate=2,turns=4,pause=2s",
    )  # fmt: skip
    assert report["requests"] > 100
    assert report["ttft_s"]["p50"] <= report["ttft_s"]["p99"]
    assert 0.5 < report["hit_rate"] < 1
    assert sum(report["found_in"].values()) == pytest.approx(1)
    assert report["usd_per_mtoken"] > 0


def test_chips_lists_all_and_shows_gaps_and_conflicts(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(ask(capfd, "chips")["chips"]) == 45
    (chip,) = ask(capfd, "chips", "950dt")["chips"]
    assert "tdp" in chip["missing"]
    assert chip["conflicts"]
    assert entry.run(["plan", "chips", "950dt"]) == 0
    assert "not published" in capfd.readouterr().out


def test_evaluate_takes_the_names_of_presets(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    row = load_table("v4_inference_benchmarks")[0]
    path = tmp_path / "rows.csv"
    path.write_text(as_csv([row, row | {"model": "v4-flash"}, row | {"model": "v4"}]))
    published, preset, other = ask(capfd, "evaluate", str(path))["per_row"]
    assert preset["predicted_tpot_ms"] == published["predicted_tpot_ms"]
    assert "a preset: v4-flash" in other["reason"]


def test_a_context_may_be_written_in_k_and_m(capfd: pytest.CaptureFixture[str]) -> None:
    for short, long in (("256k", "262144"), ("1M", "1048576")):
        reports = [ask(capfd, "run", *FLASH, "--context", text) for text in (short, long)]
        assert reports[0] == reports[1]


def test_no_figure_cites_a_page_that_users_do_not_have(capfd: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).resolve().parents[2]
    texts = [str(ask(capfd, "run", *FLASH)), str(ask(capfd, "chips"))]
    assert entry.run(["model", "inspect", "v4-flash", "--json"]) == 0
    texts.append(capfd.readouterr().out)
    pages = {page for text in texts for page in re.findall(r"[\w/]+\.md", text)}
    assert "docs/planner.md" in pages
    assert [page for page in pages if not (root / page).is_file()] == []
