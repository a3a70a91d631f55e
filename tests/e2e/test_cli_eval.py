"""`dougong eval` on a tiny model: its JSON, its files, the card's part, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_tiny_checkpoint

from dougong.cli.main import run
from dougong.train.evaluation.card import CARD, CLOSE, OPEN, section
from dougong.train.evaluation.suites import weights_sha256

SUITES = ["--suite", "measures", "--suite", "samples", "--quick"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def evaluated(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert run(["eval", str(folder), *SUITES, "--json", *more]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_json_has_the_documented_keys_and_repeats(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluated(folder, capsys, "--out", str(tmp_path))
    assert set(report) == {
        "version", "seed", "quick", "model", "suites", "left_out", "seconds", "files",
    }  # fmt: skip
    assert report["model"]["weights_sha256"] == weights_sha256(folder)
    assert set(report["suites"]) == {"measures", "samples"}
    stored = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert stored == {key: report[key] for key in stored}
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    again = evaluated(folder, capsys)
    assert again["suites"] == report["suites"]


def test_the_table_names_every_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = evaluated(folder, capsys)["suites"]["measures"]["kinds"]
    assert run(["eval", str(folder), *SUITES]) == 0
    table = capsys.readouterr().out
    for kind in kinds:
        assert kind["kind"] in table


def test_card_is_written_between_its_marks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(folder), *SUITES, "--card"]) == 1
    assert "--card needs the model's card" in capsys.readouterr().err
    (folder / CARD).write_text(f"# tiny\n\n{OPEN}\n{CLOSE}\n\nThe end.\n", encoding="utf-8")
    report = evaluated(folder, capsys, "--card")
    card = (folder / CARD).read_text(encoding="utf-8")
    assert card == f"# tiny\n\n{OPEN}\n\n{section(report)}\n{CLOSE}\n\nThe end.\n"


def test_an_unknown_suite_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["eval", "no such model", "--suite", "needles in hay"]) == 1
    assert "suite 'needles in hay' is unknown; choose from text, " in capsys.readouterr().err
