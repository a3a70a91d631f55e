"""A training configuration is checked field by field and can be written back."""

from pathlib import Path

import pytest

from dougong.errors import ConfigError
from dougong.train.config import load_run_config, run_config_from_dict, with_overrides
from tests.support import training


def changed(section: str, **fields: object) -> dict[str, object]:
    values = training.values(Path("inputs"), Path("run"))
    values[section] = {**values.get(section, {}), **fields}
    return values


def test_shipped_preset_is_valid_and_sums_to_one() -> None:
    config = load_run_config("nano")
    assert config.model == "nano"
    assert sum(config.data.shares.values()) == pytest.approx(1)
    assert sum(config.late.shares.values()) == pytest.approx(1)


def test_resolved_configuration_reads_back(tmp_path: Path) -> None:
    config = load_run_config("nano")
    path = tmp_path / "resolved.toml"
    path.write_text(config.to_toml())
    assert load_run_config(path) == config


def test_command_line_overrides() -> None:
    config = with_overrides(load_run_config("nano"), folder="elsewhere", steps=7)
    assert (config.output.folder, config.schedule.steps, config.schedule.warmup) == (
        "elsewhere", 7, 7
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("schedule", lr_mon=1.0), r"schedule\.lr_mon is unknown; fields are steps"),
        (changed("schedule", steps="many"), r"schedule\.steps: 'many' should be of type int"),
        (changed("schedule", steps=True), r"schedule\.steps: True should be of type int"),
        (changed("schedule", steps=0), r"schedule\.steps = 0 should be at least 1"),
        (changed("schedule", decay=1.5), r"schedule\.decay = 1\.5 should be from 0 to 1"),
        (changed("schedule", warmup=9), r"schedule\.warmup = 9 should be from 0"),
        (changed("schedule", lr_muon=-1), r"schedule\.lr_muon = -1\.0 should be positive"),
        (changed("schedule", lr_muon=float("nan")), r"schedule\.lr_muon = nan should be positive"),
        (changed("data", shares={}), r"data\.shares = \{\} should be positive numbers"),
        (changed("data", shares={"story": "a"}), r"data\.shares = .* should be positive numbers"),
        (changed("data", batch_tokens=64), r"data\.batch_tokens = 64 should be at least data"),
        (changed("output", keep=0), r"output\.keep = 0 should be at least 1"),
        (changed("late", start=0.5), r"late\.shares = \{\} should be positive numbers"),
        ({"model": "nano"}, r"section \[data\] is missing"),
    ],
)
def test_wrong_field_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config_from_dict(values)


def test_missing_field_is_named() -> None:
    values = training.values(Path("inputs"), Path("run"))
    del values["output"]["folder"]
    with pytest.raises(ConfigError, match=r"output\.folder is missing"):
        run_config_from_dict(values)


def test_missing_or_broken_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such training configuration or preset"):
        load_run_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_run_config(broken)
