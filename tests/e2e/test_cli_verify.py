"""`dougong verify kernels`: what is right passes and is remembered, what is wrong is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dougong.cli.main import run
from dougong.conform.verified import verified_file
from dougong.kernels.registry import BACKENDS, operator_names

Operator = Callable[..., Any]
Capture = pytest.CaptureFixture[str]
COMMAND = ["verify", "kernels", "--seconds", "0", "--json"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def verified(capfd: Capture, status: int = 0) -> dict[str, Any]:
    assert run(COMMAND) == status
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert report["ok"] is (status == 0)
    return report


def test_every_operator_is_verified_and_doctor_says_when(cache: Path, capfd: Capture) -> None:
    assert run(["doctor"]) == 0
    assert "not verified on this machine: dougong verify kernels" in capfd.readouterr().out
    report = verified(capfd)
    assert set(report["operators"]) == set(operator_names())
    for one in report["operators"].values():
        assert one["cases"] > 0
        assert 0 <= one["worst"] <= 1
        assert one["failures"] == []
    assert report["kept"] == str(verified_file())
    assert verified_file().is_relative_to(cache)
    assert run(["doctor"]) == 0
    shown = capfd.readouterr().out
    assert shown.count("right on ") == len(operator_names())
    assert "in 1 cases" in shown


def off_by_one_in_the_last_row(right: Operator) -> Operator:
    def wrong(*args: Any, **options: Any) -> Tensor:
        y: Tensor = right(*args, **options)
        y[-1:] += 1
        return y

    return wrong


def other_bits_every_second_time(right: Operator) -> Operator:
    """Near the reference, but one unit in the last place off in every other call."""
    calls = count()

    def wrong(*args: Any, **options: Any) -> Tensor:
        y: Tensor = right(*args, **options)
        y.view(torch.int32 if y.dtype == torch.float32 else torch.int16).add_(next(calls) % 2)
        return y

    return wrong


@pytest.mark.parametrize(
    ("operator", "fault", "said"),
    [
        ("rms_norm", off_by_one_in_the_last_row, "times what may be"),
        ("logits", off_by_one_in_the_last_row, "times what may be"),
        ("attention", other_bits_every_second_time, "have other bits alone"),
    ],
)
def test_a_fault_in_one_operator_is_found(
    operator: str, fault: Callable[[Operator], Operator], said: str, capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(BACKENDS["cpu"], operator, fault(BACKENDS["cpu"][operator]))
    report = verified(capfd, status=1)
    assert {name for name, one in report["operators"].items() if not one["ok"]} == {operator}
    assert said in report["operators"][operator]["failures"][0]
    assert run(["doctor"]) == 0
    assert f"{operator:<20} native    WRONG on" in capfd.readouterr().out


def test_a_damaged_record_is_no_record(capfd: Capture) -> None:
    verified_file().parent.mkdir(parents=True)
    for text in ("{", "[]", '{"cpu": 3}'):
        verified_file().write_text(text)
        assert run(["doctor"]) == 0
        assert "not verified on this machine" in capfd.readouterr().out
    verified(capfd)


def test_a_cache_folder_that_cannot_be_written_is_said(cache: Path, capfd: Capture) -> None:
    (cache / "dougong").write_text("a file where the folder should be")
    assert verified(capfd)["kept"] is None


def test_a_backend_without_equal_bits_is_refused(capfd: Capture) -> None:
    assert run(["verify", "kernels", "--backend", "reference"]) == 1
    assert "is not verified: choose one of cpu" in capfd.readouterr().err
