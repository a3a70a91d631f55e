"""Quantizing a checkpoint: the bits of converting, resumed after a kill, in one tensor's memory."""

import json
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dougong.checkpoint import convert, open_checkpoint, parameters, write_checkpoint
from dougong.checkpoint.journal import Journal
from dougong.checkpoint.quantize import REPORT_FILE, quantize_checkpoint
from dougong.config import V3Config, load_config
from dougong.errors import CheckpointError, InputError
from dougong.formats import FORMATS, dequantize, quantize

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
FLOATS = GOLDEN / "s4_mixed_mtp"  # float32, experts in whole blocks of 32, an MTP block
EXPERT, LINEAR = "layers.0.ffn.experts.0.w1.weight", "layers.0.attn.wq_a.weight"


class StopEarlyError(Exception):
    """Stands in for whatever ends a run early."""


def stop_after(tensors: int):
    """A progress callback that ends the run when so many tensors are written."""
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == tensors:
            raise StopEarlyError

    return progress


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT_FILE}


@pytest.mark.parametrize(("experts", "quantization"), [("fp4", "fp4+fp8"), ("fp8", "fp8")])
def test_the_releases_formats_give_the_same_files_as_converting(
    experts: str, quantization: str, tmp_path: Path
) -> None:
    quantize_checkpoint(FLOATS, tmp_path / "a", experts=experts)
    convert(FLOATS, tmp_path / "b", quantize=quantization)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_mxfp4_experts_are_read_back_as_ocp_rounds_them(tmp_path: Path) -> None:
    result = quantize_checkpoint(FLOATS, tmp_path / "out", experts="mxfp4")
    source, written = open_checkpoint(FLOATS), open_checkpoint(tmp_path / "out")
    want = dequantize(quantize(source.read(EXPERT), FORMATS["mxfp4"]))
    assert (written.read(EXPERT) == want).all()
    assert written.info(EXPERT).dtype == "I8"
    report = {row.name: row for row in result.tensors}
    error = np.square(want.astype(np.float64) - source.read(EXPERT)).sum()
    assert report[EXPERT].error_squares == pytest.approx(error, rel=1e-12)
    assert report[EXPERT].saturated > 0
    assert (report[LINEAR].format, report[LINEAR].saturated) == ("fp8_block128_ue8m0", 0)
    assert report["embed.weight"].format == ""


def test_what_is_in_the_format_already_keeps_its_bits(tmp_path: Path) -> None:
    source = GOLDEN / "sq1_csa_hash"
    result = quantize_checkpoint(source, tmp_path / "out")
    quantized = [row for row in result.tensors if row.format]
    assert quantized
    assert all(row.kept and row.error_squares == 0 for row in quantized)
    assert all(row.tiles > 0 for row in quantized if row.role == "expert")
    one, other = open_checkpoint(source), open_checkpoint(tmp_path / "out")
    for row in quantized:
        assert (one.stored(row.name).data == other.stored(row.name).data).all()
        assert (one.stored(row.name).scale == other.stored(row.name).scale).all()


def test_formats_that_no_layout_holds_are_refused_or_written_as_values(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no published layout holds nvfp4 experts with int8_pc"):
        quantize_checkpoint(FLOATS, tmp_path / "out", experts="nvfp4", linears="int8_pc")
    with pytest.raises(InputError, match="number format 'int9' is unknown"):
        quantize_checkpoint(FLOATS, tmp_path / "out", experts="int9")
    assert list(tmp_path.iterdir()) == []
    quantize_checkpoint(FLOATS, tmp_path / "out", experts="nvfp4", linears="int8_pc", simulate=True)
    source, written = open_checkpoint(FLOATS), open_checkpoint(tmp_path / "out")
    for name, format in ((EXPERT, "nvfp4"), (LINEAR, "int8_pc")):
        want = dequantize(quantize(source.read(name), FORMATS[format]))
        assert (written.read(name) == want).all()
        assert written.info(name).dtype == "F32"
    assert (written.read("embed.weight") == source.read("embed.weight")).all()


def test_bf16_for_both_is_a_plain_checkpoint(tmp_path: Path) -> None:
    quantize_checkpoint(GOLDEN / "sq2_mtp", tmp_path / "a", experts="bf16", linears="bf16")
    convert(GOLDEN / "sq2_mtp", tmp_path / "b", dtype="bfloat16")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("tensors", [1, 7, 40])
def test_an_interrupted_run_goes_on_where_it_stopped(tensors: int, tmp_path: Path) -> None:
    with pytest.raises(StopEarlyError):
        quantize_checkpoint(FLOATS, tmp_path / "a", progress=stop_after(tensors))
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial"]
    seen: list[tuple[int, int]] = []
    result = quantize_checkpoint(FLOATS, tmp_path / "a", progress=lambda *at: seen.append(at))
    assert result.resumed == tensors
    assert len(seen) == len(result.tensors) - tensors
    assert seen[-1][0] == seen[-1][1]
    quantize_checkpoint(FLOATS, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    reports = [(tmp_path / name / REPORT_FILE).read_bytes() for name in "ab"]
    assert reports[0] == reports[1]


KILLED = """
import os, signal, sys
from dougong.checkpoint.quantize import quantize_checkpoint
calls = []
def progress(done, total):
    calls.append(done)
    if len(calls) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
quantize_checkpoint(sys.argv[1], sys.argv[2], progress=progress, shard_bytes=100_000, sync_s=0)
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(FLOATS), str(tmp_path / "a")]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    with (tmp_path / "a.partial" / REPORT_FILE).open("ab") as journal:
        journal.write(b'{"name": "layers.0.at')  # a line that the kill cut off
    result = quantize_checkpoint(FLOATS, tmp_path / "a", shard_bytes=100_000)
    assert result.resumed == 20
    quantize_checkpoint(FLOATS, tmp_path / "b", shard_bytes=100_000)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) > 4  # several shards


def test_another_job_a_running_one_and_a_damaged_journal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StopEarlyError):
        quantize_checkpoint(FLOATS, tmp_path / "a", progress=stop_after(3))
    before = files(tmp_path / "a.partial")
    with pytest.raises(CheckpointError, match="unfinished run with other options"):
        quantize_checkpoint(FLOATS, tmp_path / "a", experts="fp8")
    with pytest.raises(CheckpointError, match="unfinished run with other options or another"):
        quantize_checkpoint(GOLDEN / "sq2_mtp", tmp_path / "a")
    assert files(tmp_path / "a.partial") == before
    journal = tmp_path / "a.partial" / REPORT_FILE
    job = json.loads(journal.read_text().splitlines()[0])
    with (
        Journal(journal, job),
        pytest.raises(CheckpointError, match="being written by another process"),
    ):
        quantize_checkpoint(FLOATS, tmp_path / "a")
    journal.write_bytes(b"{\n" + journal.read_bytes())
    with pytest.raises(CheckpointError, match="is damaged"):
        quantize_checkpoint(FLOATS, tmp_path / "a")


def test_a_taken_folder_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        quantize_checkpoint(FLOATS, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        quantize_checkpoint(FLOATS, tmp_path / "a" / "mine" / "below")


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    source = open_checkpoint(FLOATS)
    tensors = {name: source.read(name) for name in source.names()}
    write_checkpoint(tmp_path / "in", source.config, tensors.items())
    raw = (tmp_path / "in" / "model.safetensors").read_bytes()
    needle = tensors[LINEAR].tobytes()
    bad = needle[:-4] + np.float32(np.nan).tobytes()
    (tmp_path / "in" / "model.safetensors").write_bytes(raw.replace(needle, bad))
    with pytest.raises(CheckpointError, match=f"tensor '{LINEAR}' holds NaN"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_more_than_one_tensor_is_in_memory(tmp_path: Path) -> None:
    """And codes and checks of as much again, and 2 MiB of temporaries of a band of 128 rows."""
    config = replace(
        load_config("nano"), num_hidden_layers=2, num_hash_layers=0, compress_ratios=(0, 4),
        num_nextn_predict_layers=0, hidden_size=256, moe_intermediate_size=1024, vocab_size=4096,
        n_routed_experts=8,
    )  # fmt: skip
    draw = np.random.default_rng(0)
    shapes = {p.name: p for p in parameters(config)}

    tensors = ((name, draw.standard_normal(p.shape, np.float32)) for name, p in shapes.items())
    write_checkpoint(tmp_path / "in", config, tensors)
    largest = max(4 * p.count for p in shapes.values())
    total = sum(4 * p.count for p in shapes.values())
    assert total > 10 * largest
    tracemalloc.start()
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", experts="mxfp4")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * largest + 2 * 2**20


def test_a_v3_model_is_quantized_with_float32_scales_or_refused(tmp_path: Path) -> None:
    config = V3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, q_lora_rank=16, kv_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, first_k_dense_replace=1,
        n_routed_experts=4, num_experts_per_tok=2, routed_scaling_factor=2.5, torch_dtype="float32",
    )  # fmt: skip
    draw = np.random.default_rng(0)
    tensors = ((p.name, draw.normal(size=p.shape)) for p in parameters(config))
    write_checkpoint(tmp_path / "in", config, tensors)
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", experts="fp8")
    source, written = open_checkpoint(tmp_path / "in"), open_checkpoint(tmp_path / "out")
    name = next(row.name for row in result.tensors if row.role == "expert")
    assert written.stored(name).scale_dtype == "F32"
    want = dequantize(quantize(source.read(name), FORMATS["fp8_block128_ue8m0"]))
    assert (written.read(name) == want).all()
    with pytest.raises(InputError, match="A V3 model has the official layout only"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "no", experts="fp4")
