"""`dougong model fetch` against a hub of our own: what it says first, faults, kills, refusals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_hub import COMMIT, NAME, FakeHub, fake_hub
from support.tiny import write_tiny_checkpoint

from dougong.cli import main as entry
from dougong.cli import model_fetch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("source") / "model")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    return folder


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(model) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(model_fetch, "memory_rate", lambda: 10e9)
        monkeypatch.setattr(model_fetch, "PROBE_BYTES", 2**24)
        yield server


def run(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = entry.run(["model", "fetch", *argv])
    return code, *capfd.readouterr()


def machine(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    from dougong import machine

    small = replace(machine.this_machine(), available_bytes=available)
    monkeypatch.setattr(machine, "this_machine", lambda: small)


def test_it_is_fetched_and_org_slash_name_is_a_model_then(
    hub: FakeHub, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capfd, NAME, "--json")
    assert code == 0
    report: dict[str, Any] = json.loads(out)
    folder = Path(report["folder"])
    assert report["commit"] == folder.name == COMMIT
    assert report["present_bytes"] == 0
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == wanted  # neither code nor pickles
    assert all((folder / n).read_bytes() == (model / n).read_bytes() for n in wanted)
    assert report["bytes"] == sum((model / name).stat().st_size for name in wanted)
    assert report["tokens_per_s"] == pytest.approx(10e9 / report["weight_bytes_per_token"])
    assert entry.run(["generate", "hello", "-m", NAME, "--max-tokens", "2"]) == 0
    assert entry.run(["model", "inspect", NAME]) == 0
    hub.requests.clear()
    report = json.loads(run(capfd, NAME, "--json")[1].splitlines()[-1])
    assert report["present_bytes"] == report["bytes"]
    assert {name for method, name, _ in hub.requests if method == "GET"} <= {"config.json"}


def test_a_folder_of_ones_own_and_a_commit(
    hub: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    code, text, err = run(capfd, NAME, "--revision", COMMIT, "--out", str(out))
    assert code == 0
    assert err.startswith(f"{NAME} at {COMMIT[:12]}: 0.0 GB in 4 files; ")
    assert "decode: " in err
    assert f"--model {out}" in text
    assert entry.run(["model", "inspect", str(out)]) == 0
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_connection_that_breaks_goes_on_where_it_broke(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16)
    hub.stall, hub.stalls = "model.safetensors", 1
    assert run(capfd, NAME, "--json")[0] == 0
    starts = [first for method, name, first in hub.requests
              if (method, name) == ("GET", "model.safetensors")]  # fmt: skip
    assert starts[0] == 0
    assert starts[1] > 0


def test_a_killed_run_keeps_whole_files_and_fetches_the_others(
    hub: FakeHub, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.stall, hub.stalls = "model.safetensors", -1
    code = "from dougong.cli.main import main; main()"
    argv = [sys.executable, "-c", code, "model", "fetch", NAME, "--json"]
    child = subprocess.Popen(argv, env=dict(os.environ), stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(120)
    cache = tmp_path / "cache" / "models--some-org--some-model"
    small = ("config.json", "tokenizer.json", "tokenizer_config.json")
    while not all((cache / "snapshots" / COMMIT / name).exists() for name in small):
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = list(cache.rglob("*.incomplete"))
    for path in left:
        os.utime(path, (0, 0))  # as if it had been killed long ago
    hub.stalls = 0
    hub.requests.clear()
    report = json.loads(run(capfd, NAME, "--json")[1])
    got = {name for method, name, _ in hub.requests if method == "GET"}
    assert got - {"config.json"} == {"model.safetensors"}
    assert 0 < report["present_bytes"] < report["bytes"]
    assert left
    assert not any(path.exists() for path in left)
    fetched = Path(report["folder"]) / "model.safetensors"
    assert fetched.read_bytes() == (model / "model.safetensors").read_bytes()


def test_larger_than_memory_says_with_which_budget_and_needs_yes(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 200_000)
    code, out, err = run(capfd, NAME)
    assert (code, out) == (1, "")
    assert "with --memory" in err
    assert "come from the disk" in err
    assert "add --yes" in err
    assert [name for _, name, _ in hub.requests if name != "config.json"] == []
    report = json.loads(run(capfd, NAME, "--yes", "--json")[1])
    assert report["memory"] == report["least_memory"] < report["whole_bytes"]
    assert report["disk_bytes_per_token"] > 0
    bound = min(10e9 / report["weight_bytes_per_token"],
                report["disk_rate"] / report["disk_bytes_per_token"])  # fmt: skip
    assert report["tokens_per_s"] == pytest.approx(bound, rel=1e-4)


def test_a_full_disk_is_refused_before_anything_is_fetched(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = model_fetch.shutil.disk_usage("/")._replace(free=1000)
    # of this command alone: the hub's library looks at the disk as well, for each file
    monkeypatch.setattr(model_fetch, "shutil", SimpleNamespace(disk_usage=lambda place: usage))
    code, out, err = run(capfd, NAME, "--yes", "--json")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "and 1,000 are free" in err
    assert [name for _, name, _ in hub.requests if name != "config.json"] == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["no-such/model"], "there is no model no-such/model on the hub, or it is private"),
        ([NAME, "--revision", "v9"], "has no revision 'v9' on the hub"),
        (["one-word"], "write org/name"),
        (["../../etc/passwd"], "write org/name"),
    ],
)
def test_one_sentence_says_what_is_wrong(
    argv: list[str], said: str, hub: FakeHub, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capfd, *argv, "--json")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err


def test_a_private_model_wants_the_token_of_the_environment(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    monkeypatch.delenv("HF_TOKEN", raising=False)
    code, _, err = run(capfd, NAME, "--json")
    assert code == 1
    assert "HF_TOKEN" in err
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, out, err = run(capfd, NAME, "--json")
    assert code == 0
    assert "hf_secret" not in out + err


def test_without_a_connection_or_the_library_it_says_so(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    code, _, err = run(capfd, NAME, "--json")
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot be fetched" in err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = run(capfd, NAME, "--json")
    assert (code, err.count("\n")) == (1, 1)
    assert "pip install 'dougong[hub]'" in err


def test_a_repository_of_another_kind_is_refused(
    hub: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    hub.folder = other
    assert "holds no safetensors checkpoint" in run(capfd, NAME, "--json")[2]
    (other / "model.safetensors").write_bytes(b"")
    code, _, err = run(capfd, NAME, "--json")
    assert (code, err.count("\n")) == (1, 1)
    assert "llama" in err
