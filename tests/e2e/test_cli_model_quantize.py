"""`dougong model quantize` from words to a checkpoint, resumed, and refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint import open_checkpoint
from dougong.checkpoint import quantize as quantize_module
from dougong.cli import main as entry

SOURCE = Path(__file__).parents[1] / "parity" / "golden" / "s4_mixed_mtp"


def quantized(argv: list[str], capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert entry.run(["model", "quantize", *argv, "--json"]) == 0
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    return result


def test_the_report_adds_up_what_the_file_says_of_every_tensor(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = quantized([str(SOURCE), str(out), "--experts", "mxfp4"], capfd)
    config = open_checkpoint(out).config
    assert (config.expert_dtype, config.quantized) == ("fp4", True)
    assert report["bytes"] < report["bytes_before"] / 3  # from float32
    rows = [json.loads(line) for line in Path(report["report"]).read_text().splitlines()[1:]]
    for role, name in (("expert", "mxfp4"), ("linear", "fp8_block128_ue8m0")):
        mine, total = [row for row in rows if row["role"] == role], report["roles"][role]
        assert {row["format"] for row in mine} == {total["format"]} == {name}
        assert (total["tensors"], total["kept"]) == (len(mine), 0)
        assert total["saturated"] == sum(row["saturated"] for row in mine)
        squares = sum(row["squares"] for row in mine)
        error = math.sqrt(sum(row["error_squares"] for row in mine) / squares)
        assert total["relative_rms"] == pytest.approx(error, rel=1e-12)
    # Of Gaussian weights MXFP4 loses about 11.5 %, FP8 2.6 %.
    assert 0.10 < report["roles"]["expert"]["relative_rms"] < 0.13
    assert 0.02 < report["roles"]["linear"]["relative_rms"] < 0.03
    assert report["roles"]["expert"]["tiles"] > 0
    assert report["worst"][0]["relative_rms"] >= report["worst"][-1]["relative_rms"]


def test_a_second_call_goes_on_and_says_so(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [str(SOURCE), str(tmp_path / "out")]
    real, calls = quantize_module._Conversion.convert, []

    def convert(self: Any, writer: Any, name: str) -> Any:
        calls.append(name)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(self, writer, name)

    with monkeypatch.context() as patch:
        patch.setattr(quantize_module._Conversion, "convert", convert)
        assert entry.run(["model", "quantize", *argv]) == 130
    assert capfd.readouterr().err.endswith("dougong: interrupted.\n")
    assert entry.run(["model", "quantize", *argv]) == 0
    text = capfd.readouterr().out
    assert "taken over from an earlier run: 8 tensors" in text
    assert "fp4_row32_ue8m0" in text


def test_formats_without_a_layout_need_simulate(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = [str(SOURCE), str(tmp_path / "out"), "--experts", "int4_g32", "--linears", "int8_pc"]
    assert entry.run(["model", "quantize", *argv]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no published layout holds int4_g32 experts with int8_pc linears" in err
    assert "--simulate" in err
    assert not (tmp_path / "out").exists()
    report = quantized([*argv, "--simulate"], capfd)
    assert report["simulate"] is True
    assert open_checkpoint(tmp_path / "out").config.torch_dtype == "float32"
