"""The word typed for MODEL leads to one folder, or to a sentence that says where it was sought."""

from __future__ import annotations

from pathlib import Path

import pytest

from dougong.checkpoint import locate
from dougong.errors import CheckpointError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--deepseek-ai--DeepSeek-V4-Flash"
    (repository / "snapshots" / "60d8").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("60d8")
    return repository


def test_a_name_in_the_hub_cache_leads_to_the_snapshot_of_main(cache: Path) -> None:
    found = locate.find_checkpoint("deepseek-ai/DeepSeek-V4-Flash")
    assert found == cache / "snapshots" / "60d8"


@pytest.mark.parametrize("commit", ["", "..", "../../etc", "gone"])
def test_a_reference_that_names_no_snapshot_is_refused(cache: Path, commit: str) -> None:
    (cache / "refs" / "main").write_text(commit)
    with pytest.raises(CheckpointError, match="refs/main"):
        locate.find_checkpoint("deepseek-ai/DeepSeek-V4-Flash")


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert locate.find_checkpoint(tmp_path) == tmp_path


def test_a_shipped_name_wins_over_a_folder_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "nano").mkdir(parents=True)
    (tmp_path / "models" / "nano" / "config.json").write_text("{}")
    (tmp_path / "nano").mkdir()
    monkeypatch.setattr(locate, "SHIPPED_MODELS", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    assert locate.find_checkpoint("nano") == tmp_path / "models" / "nano"
    assert locate.find_checkpoint("./nano") == Path("nano")


def test_a_file_and_a_name_that_nobody_knows_are_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="folder that holds"):
        locate.find_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no model 'someone/else'"):
        locate.find_checkpoint("someone/else")


def test_the_cache_is_where_the_hub_tools_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert locate.hub_cache() == Path("~/.cache/huggingface/hub").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert locate.hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/y")
    assert locate.hub_cache() == Path("/y/hub")
