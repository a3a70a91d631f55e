"""`dougong model make`: a checkpoint that other commands take, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint import open_checkpoint
from dougong.cli import main as entry


def run(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = entry.run(["model", "make", *argv])
    return code, *capfd.readouterr()


def test_a_made_model_answers_on_backend_cpu(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "made")
    argv = ["nano", "--layers", "3", "--experts", "5", "--out", folder]
    code, out, _ = run(capfd, *argv, "--json")
    report: dict[str, Any] = json.loads(out)
    assert code == 0
    assert report["layer_kinds"] == {"swa": 1, "csa": 1, "hca": 1}
    assert report["experts"] == open_checkpoint(folder).config.n_routed_experts == 5
    assert report["tokenizer"] == "nano"
    words = ["generate", "hello", "-m", folder, "--backend", "cpu", "--no-fallback", "--json"]
    assert entry.run([*words, "--max-tokens", "4"]) == 0
    assert len(json.loads(capfd.readouterr().out)["ids"]) >= 1


def test_what_will_be_written_is_said_beside_what_is_free(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capfd, "nano", "--layers", "1", "--out", str(tmp_path / "deep" / "made"))
    assert code == 0
    assert err.startswith("0.00 GB to write; ")
    assert f"GB are free in {tmp_path}" in err
    assert "1 layers (1 swa) of 16 experts" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["v3.2"], "v3.2 is no preset of a V4 model; choose v4-flash"),
        (["nano", "--layers", "7"], "this model has 6"),
        (["nano", "--experts", "1"], "a token uses 2"),
        (["v4-pro", "--tokenizer", "none-such"], "there is no model 'none-such'"),
    ],
)
def test_one_sentence_says_what_is_wrong(
    argv: list[str], said: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capfd, *argv, "--out", str(tmp_path / "made"), "--json")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    code, _, err = run(capfd, "nano", "--out", str(tmp_path / "made"), "--json")
    assert code == 1
    assert "has 1,048,576 bytes free; the checkpoint needs" in err
    assert not list(tmp_path.iterdir())
