"""The card's data section: every family with its share, every package with licence and notice."""

from dataclasses import replace
from pathlib import Path

import pytest

from dougong.errors import CheckpointError
from dougong.train.config import load_run_config, run_config_from_dict
from dougong.train.data import card, sources
from dougong.train.data.card import CLOSE, OPEN, card_with_data, data_section
from dougong.train.data.mixture import needed_sources
from dougong.train.data.sources import SOURCES


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the packages, which tests do not fetch."""
    monkeypatch.setattr(card, "notice_of", lambda source, folder: f"Notice of {source.name}.")


@pytest.mark.usefixtures("notices")
@pytest.mark.parametrize("preset", ["nano", "nano-more", "mini"])
def test_every_family_and_package_of_a_preset_is_named(preset: str, tmp_path: Path) -> None:
    config = load_run_config(preset)
    section = data_section([config], tmp_path)
    for family in config.families:
        assert f"| {family} | " in section
    for name in needed_sources(config.families, full=config.data.full):
        source = SOURCES[name]
        assert f"`{source.package}` {source.version} | {source.licence}" in section
        assert f"Notice of {name}." in section


@pytest.mark.parametrize("preset", ["nano", "mini"])
def test_mixes_of_presets_add_up(preset: str) -> None:
    for phase in load_run_config(preset).phases:
        assert sum(phase.mix.values()) == pytest.approx(1.0)


def test_nano_needs_no_debian() -> None:
    config = load_run_config("nano")
    used = needed_sources(config.families, full=config.data.full)
    assert all(SOURCES[name].registry != "debian" for name in used)


@pytest.mark.usefixtures("notices")
def test_shares_are_those_of_each_phase(tmp_path: Path) -> None:
    phase = {"share": 0.5, "max_length": 256, "batch_tokens": 512}
    config = run_config_from_dict({
        "model": "nano",
        "phases": [{**phase, "mix": {"stories": 3, "talk": 1}}, {**phase, "mix": {"talk": 1}}],
        "schedule": {"tokens": 1024}, "output": {"folder": "x"},
    })  # fmt: skip
    section = data_section([config], tmp_path)
    assert "| stories | 75.0% | 0.0% | own generator: story with two words" in section
    assert "| talk | 25.0% | 100.0% | own generator: small talk" in section


def test_part_of_a_notice_is_cut_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"HEAD\r\nTHE LICENCE\r\nof this.\r\nANOTHER ONE"
    monkeypatch.setattr(sources, "fetch", lambda source, folder: tmp_path)
    monkeypatch.setattr(sources, "read_archive", lambda path, members: {"a": text})
    source = replace(SOURCES["python"], notice_part=r"THE LICENCE[\s\S]*?(?=ANOTHER)")
    assert sources.notice_of(source, tmp_path) == "THE LICENCE\nof this."
    assert sources.notice_of(SOURCES["chatterbot"], tmp_path).startswith("Copyright (c) Gunther")


def test_section_is_written_between_its_marks() -> None:
    first = card_with_data(f"a\n{OPEN}\nold\n{CLOSE}\nb", "new\n")
    assert first == f"a\n{OPEN}\n\nnew\n\n{CLOSE}\nb"
    assert card_with_data(first, "new\n") == first
    with pytest.raises(CheckpointError, match="no place for the data: add the lines"):
        card_with_data("no marks", "new")
