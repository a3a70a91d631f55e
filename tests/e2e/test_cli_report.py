"""`dougong report` from the command line: files, JSON, one sentence for every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dougong.cli.main import run


def test_the_report_is_written_with_its_csv_and_summed_up_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "folder"
    assert run(["report", "--out", str(out), "--lang", "zh-Hant", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary) == {
        "html", "csv", "languages", "exhibits", "figures", "empty", "conclusions",
    }  # fmt: skip
    html = Path(summary["html"]).read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="zh-Hant">' in html
    assert html.count("<article") == 1
    assert sorted(summary["csv"]) == sorted(str(path) for path in (out / "data").iterdir())
    assert len(summary["exhibits"]) == 10
    assert set(summary["figures"]) == {"computed", "measured", "cited", "empty"}


def test_measurements_given_by_folder_appear_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "name": "attention.mla.loss", "value": 1.234, "unit": "nat", "command": "dougong eval m",
        "machine": {"name": "a laptop"}, "versions": {"python": "3.11"}, "commit": "abc",
        "date": "2026-11-01",
    }  # fmt: skip
    (tmp_path / "r.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    arguments = ["report", "--out", str(tmp_path / "o"), "--results", str(tmp_path), "--json"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["measured"] == 1
    html = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert re.search(r'class="cell measured">1\.23\u202fnat', html)
    assert "a laptop" in html


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "{file}"], "cannot be written"),
        (["--out", "{tmp}/o", "--results", "{tmp}/none"], "no such folder"),
        (["--out", "{tmp}/o", "--results", "{bad}"], r"bad\.jsonl, line 1"),
        (["--out", "{tmp}/o", "--lang", "fr"], "fr"),
        ([], "--out"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "bad.jsonl").write_text("{}\n", encoding="utf-8")
    places = {"file": tmp_path / "file", "tmp": tmp_path, "bad": bad}
    assert run(["report", *(word.format(**places) for word in arguments)]) in (1, 2)
    error = capsys.readouterr().err
    assert re.search(reason, error)
    assert error.count("\n") == 1
