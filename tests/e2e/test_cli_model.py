"""`dougong model`: the published figures of V4 beside V3.2's, and checkpoints in other forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import write_tiny_checkpoint, write_tiny_v3_checkpoint

import dougong
from dougong.cli.main import run
from dougong.errors import InputError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def inspected(model: str, capfd: Capture, *more: str) -> dict[str, Any]:
    assert run(["model", "inspect", model, "--json", *more]) == 0
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    return report


# DeepSeek-V4's report: 7 % and 10 % of V3.2's cache, 10 % and 27 % of its FLOPs at 1M tokens; exact
# figures as the specification derives them (parameters 6.3, bytes 6.1, cache 9.1, FLOPs 9.2).
@pytest.mark.parametrize(
    ("model", "total", "active", "nbytes", "per_token", "cache_gb", "cache", "flops"),
    [
        ("v4-flash", 284332240471, 13270101591, 159609485896, 3514.25, 3.688, 0.073, 0.101),
        ("v4-pro", 1572997201763, 48852402019, 864704792696, 5031.44, 5.280, 0.105, 0.267),
    ],
)  # fmt: skip
def test_the_figures_of_the_released_models_are_the_published_ones(
    model: str, total: int, active: int, nbytes: int, per_token: float, cache_gb: float,
    cache: float, flops: float, capfd: Capture,
) -> None:  # fmt: skip
    report = inspected(model, capfd)
    figures = {name: figure["value"] for name, figure in report["figures"].items()}
    assert figures["parameters_total"] == total
    assert figures["parameters_active"] == active
    assert figures["checkpoint_bytes"] == nbytes
    assert figures["kv_bytes_per_token"] == pytest.approx(per_token, abs=0.005)
    assert figures["kv_bytes"] / 1e9 == pytest.approx(cache_gb, abs=0.0005)
    assert report["ratios"]["kv_bytes_per_token"] == pytest.approx(cache, abs=0.0005)
    assert report["ratios"]["decode_flops_fp8_equivalent"] == pytest.approx(flops, abs=0.0005)
    assert report["yardstick"]["kv_bytes_per_token"]["value"] == 48068


def test_layers_are_counted_by_kind(capfd: Capture) -> None:
    flash, pro = inspected("v4-flash", capfd), inspected("v4-pro", capfd)
    assert flash["layers"] == {"swa": 2, "csa": 21, "hca": 20}
    assert pro["layers"] == {"hca": 31, "csa": 30}
    assert (flash["hash_routed_layers"], flash["mtp_blocks"]) == (3, 1)
    assert inspected("v3.2", capfd)["layers"] == {"dsa": 61}


def test_the_table_shows_the_same_figures(capfd: Capture) -> None:
    assert run(["model", "inspect", "v4-flash", "--context", "4096"]) == 0
    out = capfd.readouterr().out
    assert "284.332 B" in out
    assert "3.514 kB" in out
    assert "64 heads of 512, hidden size 4,096; indexer: 64 heads of 128" in out
    assert "256 experts, 6 a token and 1 shared, 2,048 wide" in out
    assert "32.9" in out or "33.0" in out  # GFLOP a token at 4,096 tokens, specification 9.2


def test_a_folder_is_inspected_with_the_bytes_that_it_has(folder: Path, capfd: Capture) -> None:
    report = inspected(str(folder), capfd)
    files = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert report["files_bytes"] == sum(files) > 0
    assert report["layers"] == {"swa": 1, "csa": 1, "hca": 1}


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path, capfd: Capture) -> None:
    assert run(["model", "inspect", str(tmp_path)]) == 1
    err = capfd.readouterr().err
    assert "config.json" in err
    assert err.count("\n") == 1


def test_the_transformers_layout_keeps_logits_and_says_what_it_leaves_out(
    folder: Path, tmp_path: Path, capfd: Capture
) -> None:
    target = tmp_path / "hf"
    assert run(["model", "convert", str(folder), str(target), "--layout", "transformers",
                "--json"]) == 0  # fmt: skip
    report = json.loads(capfd.readouterr().out)
    assert report["left_out"]
    assert all(name.startswith("mtp.") for name in report["left_out"])
    assert (target / "tokenizer.json").is_file()
    ids = torch.arange(5, 140)
    before, after = dougong.load(folder).logits(ids), dougong.load(target).logits(ids)
    assert torch.equal(before, after)


def test_the_published_format_is_written_and_loads(
    folder: Path, tmp_path: Path, capfd: Capture
) -> None:
    target = tmp_path / "small"
    assert run(["model", "convert", str(folder), str(target), "--quantize", "fp4+fp8"]) == 0
    assert "rounding: release by default" in capfd.readouterr().out  # its source has none
    small = inspected(str(target), capfd)["files_bytes"]
    assert small < inspected(str(folder), capfd)["files_bytes"] / 2
    assert dougong.load(target).logits([5, 6, 7]).shape == (3, 512)


def test_a_float_copy_says_that_it_is_talked_to_without_the_release_s_rounding(
    tmp_path: Path, capfd: Capture
) -> None:
    argv = ["model", "convert", "nano", str(tmp_path / "floats"), "--dtype", "bfloat16"]
    assert run(argv) == 0
    assert "rounding: none by default, other than the source's" in capfd.readouterr().out
    argv[3] = str(tmp_path / "copy")
    assert run(argv[:4]) == 0
    assert "rounding" not in capfd.readouterr().out


def test_a_folder_that_exists_is_never_overwritten(folder: Path, capfd: Capture) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    assert run(["model", "convert", str(folder), str(folder)]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before


def test_options_that_exclude_each_other_are_refused(
    folder: Path, tmp_path: Path, capfd: Capture
) -> None:
    argv = ["model", "convert", str(folder), str(tmp_path / "x"), "--layout", "transformers"]
    assert run([*argv, "--quantize", "fp8"]) == 1
    assert "transformers layout is never quantized" in capfd.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_v3_model_computes_logits_and_answers_the_same_in_chunks(tmp_path: Path) -> None:
    folder = write_tiny_v3_checkpoint(tmp_path / "v3")
    model = dougong.load(folder)
    ids = torch.arange(5, 45)
    # fp32 sums in another order, on logits of about 4.
    assert torch.allclose(model.logits(ids), model.logits(ids, chunks=[1, 7]), atol=2e-5, rtol=0)
    first, again = (model.generate("Hello", max_tokens=5, seed=1, raw=True) for _ in range(2))
    assert first.ids == again.ids
    with pytest.raises(InputError, match="raw"):
        model.generate("Hello")


def test_rounding_a_v3_model_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_v3_checkpoint(tmp_path / "v3")
    with pytest.raises(InputError, match="V3"):
        dougong.load(folder, rounding="release")


def test_a_configuration_without_weights_can_be_inspected(
    folder: Path, tmp_path: Path, capfd: Capture
) -> None:
    config = tmp_path / "config.json"
    config.write_bytes((folder / "config.json").read_bytes())
    reports = [inspected(str(path), capfd) for path in (config, tmp_path)]
    assert reports[0]["figures"] == reports[1]["figures"]
    assert reports[0]["files_bytes"] is None
