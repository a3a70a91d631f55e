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


def valid(**fields: object) -> dict[str, object]:
    return training.values(Path("inputs"), Path("run")) | fields


def changed_phase(**fields: object) -> dict[str, object]:
    values = training.values(Path("inputs"), Path("run"))
    values["phases"][0] |= fields
    return values


def test_shipped_preset_is_valid_and_sums_to_one() -> None:
    config = load_run_config("nano")
    assert config.model == "nano"
    for phase in config.phases:
        assert sum(phase.mix.values()) == pytest.approx(1)


def test_resolved_configuration_reads_back(tmp_path: Path) -> None:
    config = load_run_config("nano")
    path = tmp_path / "resolved.toml"
    path.write_text(config.to_toml())
    assert load_run_config(path) == config


def test_command_line_overrides() -> None:
    config = with_overrides(load_run_config("nano"), folder="elsewhere", tokens=7000)
    assert (config.output.folder, config.schedule.tokens) == ("elsewhere", 7000)


def test_phase_without_a_mix_keeps_the_one_before() -> None:
    config = training.run_config(Path("inputs"), Path("run"))
    assert config.phases[1].mix == config.phases[0].mix
    assert config.families == pytest.approx({"stories": 0.3, "arithmetic": 0.3, "talk": 0.4})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("schedule", warmop=1), r"schedule\.warmop is unknown; did you mean warmup\?"),
        (changed("output", zzz=1), r"output\.zzz is unknown; fields are folder, save_every"),
        (changed("schedule", tokens="many"), r"schedule\.tokens: 'many' should be of type int"),
        (changed("schedule", tokens=True), r"schedule\.tokens: True should be of type int"),
        (changed("schedule", tokens=0), r"schedule\.tokens = 0 should be at least 1"),
        (changed("schedule", decay=1.5), r"schedule\.decay = 1\.5 should be from 0 to 1"),
        (changed("schedule", warmup=-1), r"schedule\.warmup = -1 should be 0 or more"),
        (changed("schedule", lr=-1), r"schedule\.lr = -1\.0 should be positive"),
        (changed("schedule", lr=float("nan")), r"schedule\.lr = nan should be positive"),
        (changed("schedule", average=1), r"schedule\.average = 1\.0 should be from 0 to below 1"),
        (changed("schedule", export="best"), r"schedule\.export = best should be last or average"),
        (changed("schedule", export="average", average=0), r"export = average should be last, as"),
        (changed("output", keep=0), r"output\.keep = 0 should be at least 1"),
        (changed_phase(mix={}), r"phases\[0\]\.mix = \{\} should be positive numbers"),
        (changed_phase(mix={"stories": "a"}), r"phases\[0\]\.mix = .* should be positive numbers"),
        (changed_phase(batch_tokens=64), r"phases\[0\]\.batch_tokens = 64 should be at least phas"),
        (changed_phase(share=0.6), r"phases\.share = 1\.1 in all should be 1 in all"),
        (changed_phase(quantised=True), r"phases\[0\]\.quantised is unknown; did you mean quanti"),
        (changed_phase(quantized=1), r"phases\[0\]\.quantized: 1 should be of type bool"),
        (changed_phase(attention="full"), r"attention = full should be dense or sparse"),
        (valid(recompute="all"), r"recompute = all should be none, module, tensor"),
        (valid(products="float16"), r"products = float16 should be float32 or bfloat16"),
        ({"model": "nano", "schedule": {"tokens": 1}, "output": {"folder": "x"}}, "phases.* miss"),
        ({"model": "nano"}, r"section \[schedule\] is missing"),
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
