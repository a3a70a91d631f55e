"""A trace is what the trace viewers read, also when a disk fills or a run is cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dougong
from dougong.engine.trace import Trace
from dougong.errors import InputError


def test_every_request_and_step_is_in_the_engines_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with dougong.Engine("nano", memory_tokens=1024, trace=path) as engine:
        answers = engine.generate(["Hi!", "What is 2 + 3 ?"], max_tokens=5)
        steps = engine.metrics.steps
    events = json.loads(path.read_text())
    assert [event["name"] for event in events].count("model") == steps
    for request in range(2):
        spans = [(event["ph"], event["name"]) for event in events if event.get("id") == request]
        phases = [name for kind, name in spans if kind == "b"]
        assert phases == ["waiting", "prefill", "decode"]
        assert [name for kind, name in spans if kind == "e"] == phases
    drawn = sum(event["args"]["written"] for event in events if event["name"] == "model")
    assert drawn >= sum(len(answer.ids) for answer in answers)
    assert all(event.get("dur", 0) >= 0 for event in events)


def test_a_full_disk_ends_the_trace_and_not_the_engine() -> None:
    with dougong.Engine("nano", memory_tokens=1024, trace="/dev/full") as engine:
        (answer,) = engine.generate(["Hi!"], max_tokens=200)
    assert answer.ids
    assert engine.metrics.trace is not None
    assert engine.metrics.trace.fault == (
        "/dev/full: the trace ends early (No space left on device)."
    )


def test_a_trace_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the trace cannot be written there"):
        Trace(tmp_path / "none" / "trace.json")


def test_a_phase_that_goes_on_is_one_span(tmp_path: Path) -> None:
    with Trace(tmp_path / "t.json") as trace:
        trace.phase(7, "decode", 1.0)
        trace.phase(7, "decode", 2.0)
        trace.phase(7, None, 3.0)
        trace.phase(8, None, 4.0)
    events = [e for e in json.loads((tmp_path / "t.json").read_text()) if e.get("id")]
    assert [(e["ph"], e["name"], e["ts"]) for e in events] == [
        ("b", "decode", 1e6),
        ("e", "decode", 3e6),
    ]
