"""`dougong logits`: the golden values through any chunks, and refusals before any work."""

from __future__ import annotations

import json
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dougong.cli.logits import write
from dougong.cli.main import run
from dougong.errors import InputError

GOLDEN = Path(__file__).resolve().parents[1] / "parity" / "golden"
# fp32: two independent implementations are within 1e-5 of the float64 values (their meta.json).
TOLERANCE = 2e-5
NAME = "s4_mixed_mtp"
VECTORS = GOLDEN / NAME / "expected" / "vectors.safetensors"


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    return load_file(VECTORS)


def argv_for(out: Path, *more: str) -> list[str]:
    return ["logits", str(GOLDEN / NAME), "--tokens", str(VECTORS), "--out", str(out), *more]


@pytest.mark.parametrize("chunks", [None, "1,7,128", "130,..."])
def test_logits_and_mtp_logits_are_the_golden_ones_through_any_chunks(
    chunks: str | None, tmp_path: Path, wanted: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "out.safetensors"
    assert run(argv_for(out, "--mtp", *([] if chunks is None else ["--chunks", chunks]))) == 0
    written = load_file(out)
    assert set(written) == {"logits", "mtp_logits"}
    for key, tensor in written.items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, wanted[key], atol=TOLERANCE, rtol=0), key


def test_float64_is_written_as_float64_and_reported(
    tmp_path: Path, wanted: dict[str, torch.Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    tokens, out = tmp_path / "ids.safetensors", tmp_path / "out.safetensors"
    save_file({"input_ids": wanted["input_ids"][:, :40].contiguous()}, tokens)
    argv = ["logits", str(GOLDEN / NAME), "--tokens", str(tokens), "--out", str(out)]
    assert run([*argv, "--dtype", "float64", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    logits = load_file(out)["logits"]
    assert logits.dtype == torch.float64
    assert (report["batch"], report["tokens_per_sequence"], report["dtype"]) == (1, 40, "float64")
    # The golden values are float64 results stored as float32: half a unit of 6 in the last place.
    assert torch.allclose(logits, wanted["logits"][:, :40].double(), atol=4e-7, rtol=0)
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"ids": np.zeros((1, 3), np.int64)}, "no tensor named input_ids"),
        ({"input_ids": np.zeros((1, 3), np.int32)}, "expected int64"),
        ({"input_ids": np.zeros(3, np.int64)}, "expected int64 [B, S]"),
        ({"input_ids": np.zeros((1, 0), np.int64)}, "at least one token"),
        ({"input_ids": np.full((1, 3), 99_999)}, "99999"),
        ({"input_ids": np.full((1, 3), -1)}, "-1"),
    ],
    ids=["missing", "int32", "one-dimensional", "empty", "too-large", "negative"],
)
def test_tokens_that_do_not_fit_are_refused(
    tensors: dict[str, np.ndarray],
    expected: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tokens, out = tmp_path / "ids.safetensors", tmp_path / "out.safetensors"
    save_file({name: torch.from_numpy(array) for name, array in tensors.items()}, tokens)
    argv = ["logits", str(GOLDEN / NAME), "--tokens", str(tokens), "--out", str(out)]
    assert run(argv) == 1
    err = capfd.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_files_that_cannot_be_read_or_written_are_refused_before_any_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"not safetensors")
    model, out = str(GOLDEN / NAME), str(tmp_path / "out")
    for tokens, target, expected in (
        (str(tmp_path / "none"), out, "there is no such file"),
        (str(junk), out, "not a safetensors file"),
        (str(VECTORS), str(tmp_path / "no" / "out"), "does not exist"),
        (str(VECTORS), str(tmp_path), "is no ordinary file"),
        (str(junk), str(junk), "name another one"),
    ):
        assert run(["logits", model, "--tokens", tokens, "--out", target]) == 1
        err = capfd.readouterr().err
        assert expected in err
        assert err.count("\n") == 1


def test_mtp_of_a_checkpoint_without_mtp_blocks_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    golden = GOLDEN / "s1_sliding"
    tokens = golden / "expected" / "vectors.safetensors"
    out = tmp_path / "out"
    argv = ["logits", str(golden), "--tokens", str(tokens), "--out", str(out), "--mtp"]
    assert run(argv) == 1
    assert "no MTP blocks" in capfd.readouterr().err
    assert not out.exists()


def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_no_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write({"logits": torch.zeros(10_000)}, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_the_output_never_replaces_what_is_no_ordinary_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = ["logits", str(GOLDEN / NAME), "--tokens", str(VECTORS), "--out"]
    assert run([*words, str(pipe)]) == 1
    assert "is no ordinary file" in capfd.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_linked_output_stays_a_link_and_a_new_one_has_ordinary_permissions(
    tmp_path: Path,
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert run(["logits", str(GOLDEN / NAME), "--tokens", str(VECTORS), "--out", str(link)]) == 0
    assert link.is_symlink()
    assert "logits" in load_file(target)
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
