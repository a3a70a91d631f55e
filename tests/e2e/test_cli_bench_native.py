"""`dougong bench kernels` and `dougong bench model`: what they print and record."""

import json
from pathlib import Path

import pytest
import torch
from support.tiny import write_tiny_checkpoint

import dougong
from dougong.cli import main as entry
from dougong.cli.model_speed import memory_of
from dougong.kernels.cpu.program import measuring
from dougong.model.loading import load_model, stored_matrices
from dougong.plan.records import read_records


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert entry.run(["bench", *argv, "--json", "--record", "--threads", "1"]) == 0
    report: dict = json.loads(capsys.readouterr().out)
    return report


def test_kernels_measures_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dougong.cli.bench_kernels.CYCLED_BYTES", 10**6)
    monkeypatch.setattr("dougong.cli.bench_kernels.REPEATS", 2)
    report = run(capsys, "kernels", "--shape", "64x96", "--rows", "1", "--rows", "3")
    formats = {(row["format"], row["dtype"], row["rows"]) for row in report["products"]}
    assert len(formats) == (6 + 7) * 2
    assert all(row["seconds"] > 0 for row in report["products"])
    one = next(row for row in report["products"] if row["rows"] == 1)
    assert one["target"] == 0.6  # of memory's rate, by one thread
    assert one["met"] == (one["of_stream"] >= 0.6)
    names = [record.name for record in read_records(tmp_path / "bench" / "results")]
    assert "kernels.cpu.linear.64x96.fp4.bfloat16.rows1.t1.of_stream" in names


def test_model_measures_prefill_and_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    report = run(capsys, "model", str(folder), "--contexts", "9,200", "--steps", "2")
    assert (report["backend"], report["dtype"]) == ("cpu", "bfloat16")  # what is served is measured
    short, long = report["figures"]
    assert (short["context"], long["context"]) == (9, 200)
    for row in (short, long):
        assert row["of_limit"] == pytest.approx(
            row["weight_bytes"] / row["stream"] * row["decode_tokens_per_s"]
        )
        assert row["state_bytes"] == row["state_bytes_predicted"] > 0
    # eight entries are chosen from more than eight from 36 tokens on, and only then scored
    assert "index" not in short["operators"]
    assert long["operators"]["index"] > 0
    units = {record.unit for record in read_records(tmp_path / "bench" / "results")}
    assert units == {"token/s", "s", "B", "1"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rounding", ["none", "release"])
def test_the_state_grows_by_what_inspect_predicts(dtype: str, rounding: str) -> None:
    model = dougong.load("nano", backend="cpu", dtype=dtype, rounding=rounding).transformer
    with torch.inference_mode():
        state = model.new_state()
        model(torch.arange(300), [300], [state])
    grown = memory_of(model, state, None)
    assert grown["state_bytes"] == grown["state_bytes_predicted"]


def test_the_bytes_of_a_step_are_those_of_the_weights_that_one_token_uses(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    model = load_model(folder, backend="cpu")
    with torch.inference_mode():
        state = model.new_state()
        model(torch.arange(60), [60], [state])
        with measuring() as costs:
            model.logits(model(torch.tensor([7]), [1], [state])[-1:])
    config = model.config
    share = config.num_experts_per_tok / config.n_routed_experts
    want = 8 * config.num_experts_per_tok  # of the table of the hash-routed layer one row
    for name, matrix in stored_matrices(model):
        if not name.startswith(("embed", "mtp")):
            want += matrix.nbytes * (share if ".experts.w" in name else 1)
    for name, tensor in model.state_dict().items():
        if not (name.startswith("mtp") or name.endswith("tid2eid")):
            want += tensor.nbytes
    # scales of mHC, a few floats each, go uncounted
    assert sum(costs.weight_bytes.values()) == pytest.approx(want, rel=1e-3)


def test_bad_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["bench", "kernels", "--shape", "many"]) == 1
    assert "4096x4096" in capsys.readouterr().err
    assert entry.run(["bench", "model", "--contexts", "0"]) == 2
    assert "at least one token" in capsys.readouterr().err
