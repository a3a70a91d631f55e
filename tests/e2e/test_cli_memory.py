"""`--memory`: the same answers from fewer bytes, what was read, and budgets that cannot be."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong.cli import main as entry
from dougong.errors import InputError

ASK = ["generate", "Tell me a story.", "--max-tokens", "12", "--seed", "5", "--backend", "cpu"]


def answer(capfd: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert entry.run([*ASK, "--no-fallback", *argv, "--json"]) == 0
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    return result


def test_the_answer_is_the_same_and_says_what_was_read(capfd: pytest.CaptureFixture[str]) -> None:
    whole, budgeted = answer(capfd), answer(capfd, "--memory", "4.5MB")
    assert whole["ids"] == budgeted["ids"]
    assert whole["experts"] is None
    traffic = budgeted["experts"]
    assert traffic["slots"] < traffic["experts"]
    assert traffic["reads"] > 0
    assert traffic["bytes_read"] > 0 < traffic["disk_bytes_per_s"]
    assert entry.run([*ASK, "--memory", "4.5MB"]) == 0
    assert f"of {traffic['uses']} experts read" in capfd.readouterr().err


def test_the_python_interface_takes_it_too() -> None:
    model = dougong.load("nano", backend="cpu", memory=5_000_000)
    first = model.generate("Hello!", max_tokens=5)
    assert first.experts is not None
    assert model.traffic is not None
    assert model.traffic.bytes_read >= first.experts.bytes_read > 0
    with pytest.raises(InputError, match="lower memory"):
        dougong.load("nano", backend="cpu", memory=2**60)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--memory", "1MB"], "the weights besides routed experts take"),
        (["--memory", "8GB", "--backend", "reference"], "reference widens them; choose cpu"),
        (["--memory", "8"], "a size with its unit, such as 8GiB"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    argv: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.run([*ASK, *argv]) != 0
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_weights_larger_than_memory_name_the_way_out(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dougong import machine

    small = dataclasses.replace(machine.this_machine(), available_bytes=5_000_000)
    monkeypatch.setattr(machine, "this_machine", lambda: small)
    assert entry.run(ASK) == 0
    assert "--memory 1GiB would read missing experts faster" in capfd.readouterr().err


def test_bench_model_measures_what_a_budget_costs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "model", "nano", "--backend", "cpu", "--contexts", "9,20", "--steps", "3"]
    assert entry.run([*argv, "--memory", "4.5MB", "--threads", "1", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["memory"] == 4_500_000
    for row in report["figures"]:
        assert row["prefill_bytes_read"] > 0 < row["disk"]
        assert row["of_disk_limit"] > 0 <= row["waited_s_per_token"]
