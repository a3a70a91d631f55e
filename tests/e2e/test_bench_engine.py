"""`dougong bench engine`: what the engine adds to a step, and what it saves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dougong.cli import main as entry
from dougong.cli.engine_speed import LONGEST, SHORTEST, prompt_lengths


def test_every_part_is_reported_and_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", "engine", "nano", "--threads", "1", "--steps", "2", "--requests", "2"]
    words += ["--new-tokens", "4", "--conversation", "600", "--long", "3000"]
    words += [f"--part={part}" for part in ("steps", "requests", "turns", "long")]
    assert entry.run([*words, "--trace", "steps.json", "--record", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [row["batch"] for row in report["steps"]] == [1, 32]
    for row in report["steps"]:
        assert row["allowed_s"] == max(0.05 * row["bare_s"], 100e-6)
    many = report["requests"]
    assert many["tokens_per_s"] == pytest.approx(2 * 4 / many["seconds"])
    turns = report["turns"]
    assert turns["cached_tokens"] == [600 // 128 * 128] * 2  # whole blocks, from memory and disk
    assert turns["memory_of_cold"] == pytest.approx(turns["memory_s"] / turns["cold_s"])
    long = report["long"]
    assert long["of_estimate"] == pytest.approx(long["seconds"] / long["estimate_s"])
    assert report["drafts"] is None
    (path,) = report["recorded"]
    names = [json.loads(line)["name"] for line in Path(path).read_text().splitlines()]
    assert "engine.nano.cpu.bfloat16.release.t1.step_overhead_32" in names
    assert "engine.nano.cpu.bfloat16.release.t1.long_3000" in names
    events = json.loads(Path("steps.json").read_text())
    assert {"plan", "model", "book"} <= {event["name"] for event in events}


def test_prompts_lie_between_the_shortest_and_the_longest() -> None:
    lengths = prompt_lengths(64)
    assert (min(lengths), max(lengths), len(set(lengths))) == (SHORTEST, LONGEST, 64)
    assert lengths != sorted(lengths)
