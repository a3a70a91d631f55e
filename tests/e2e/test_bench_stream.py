"""`dougong bench stream --record` makes this machine a chip that the planner knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dougong.cli import bench_stream
from dougong.cli import main as entry


def test_measured_limits_are_recorded_and_planned_with(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_stream, "PRODUCT", 64)
    assert entry.run(["bench", "stream", "--megabytes", "8", "--record", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert set(report) == {"figures", "threads", "recorded"}
    assert {"mem_bw", "fp32", "bf16", "int8"} <= set(report["figures"])
    assert all(value > 0 for value in report["figures"].values())
    (path,) = report["recorded"]
    assert Path(path).exists()
    words = ["plan", "run", "nano", "--chip", "this-machine", "--count", "1", "--context", "1024"]
    assert entry.run([*words, "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["fits"] is True
    assert plan["chip"]["confidence"] == "measured"
