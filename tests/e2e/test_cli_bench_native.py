"""`dougong bench kernels` and `dougong bench model`: what they print and record."""

import json
from pathlib import Path

import pytest
from support.tiny import write_tiny_checkpoint

from dougong.cli import main as entry
from dougong.plan.records import read_records


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert entry.run(["bench", *argv, "--json", "--record", "--threads", "1"]) == 0
    report: dict = json.loads(capsys.readouterr().out)
    return report


def test_kernels_measures_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dougong.cli.bench_kernels.CYCLED_BYTES", 10**6)
    monkeypatch.setattr("dougong.cli.bench_kernels.REPEATS", 2)
    report = run(capsys, "kernels", "--shape", "64x96", "--rows", "1", "--rows", "3")
    formats = {(row["format"], row["dtype"], row["rows"]) for row in report["products"]}
    assert len(formats) == (6 + 7) * 2
    assert all(row["seconds"] > 0 for row in report["products"])
    one = next(row for row in report["products"] if row["rows"] == 1)
    assert one["target"] == 0.6  # of memory's rate, by one thread
    assert one["met"] == (one["of_stream"] >= 0.6)
    names = [record.name for record in read_records(tmp_path / "bench" / "results")]
    assert "kernels.cpu.linear.64x96.fp4.bfloat16.rows1.t1.of_stream" in names


def test_model_measures_prefill_and_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    report = run(
        capsys, "model", str(folder), "--backend", "cpu", "--contexts", "9,20", "--steps", "2"
    )
    assert [row["context"] for row in report["figures"]] == [9, 20]
    assert all(row["decode_tokens_per_s"] > 0 for row in report["figures"])
    assert report["weight_bytes_per_token"] > 0
    units = {record.unit for record in read_records(tmp_path / "bench" / "results")}
    assert units == {"token/s"}


def test_bad_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["bench", "kernels", "--shape", "many"]) == 1
    assert "4096x4096" in capsys.readouterr().err
    assert entry.run(["bench", "model", "--contexts", "0"]) == 2
    assert "at least one token" in capsys.readouterr().err
