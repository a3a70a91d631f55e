"""The configuration of a training run: a TOML file, every field checked, one resolved form."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from dougong.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on. `shares`: family -> share of tokens; `folder`: keeps the packages."""

    shares: dict[str, float]
    folder: str = "~/.cache/dougong/data"
    tokenizer: str = ""  # a folder with tokenizer.json; empty: train one on this mix
    max_length: int = 256
    batch_tokens: int = 4096
    micro_tokens: int = 2048  # computed at once; smaller ones stay in the processor's cache
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class LateConfig:
    """The last part of training: longer samples in another mix, and the indexers' own loss.

    `start`: the share of the steps after which it begins; 1: never.
    """

    start: float = 1.0
    max_length: int = 512
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Steps and rates: linear warm-up, flat, linear decay over the last `decay` of the steps."""

    steps: int
    warmup: int = 50
    decay: float = 0.35
    lr_muon: float = 0.01
    lr_adamw: float = 0.003
    final_lr: float = 0.02  # of the peak, reached at the last step
    clip: float = 1.0
    mtp_weight: float = 0.3
    mtp_weight_decay: float = 0.1  # from the beginning of the decay
    balance_weight: float = 0.0001
    balance_rate: float = 0.001
    quantize_from: float = 0.8  # share of the steps after which weights are rounded; 1: never


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is written, and how often. `folder` holds checkpoints, the log and the curve."""

    folder: str
    save_every: int = 100
    log_every: int = 1
    keep: int = 2


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. `model`: a preset's name or a config.json."""

    model: str
    data: DataConfig
    schedule: ScheduleConfig
    output: OutputConfig
    late: LateConfig = LateConfig()
    seed: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Every field with its value, defaults included."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """The resolved configuration as a TOML file that `load_run_config` reads."""
        values = self.to_dict()
        data = values["data"]
        sections = {"": {}, "data": data, "data.shares": data.pop("shares")}
        late = values["late"]
        sections |= {name: values.pop(name) for name in ("schedule", "output", "late")}
        sections["late.shares"] = late.pop("shares")
        del values["data"]
        sections[""] = values
        return "\n\n".join(
            "\n".join(
                ([f"[{name}]"] if name else [])
                + [f"{key} = {json.dumps(value)}" for key, value in section.items()]
            )
            for name, section in sections.items()
        )


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "schedule": ScheduleConfig,
    "output": OutputConfig,
    "late": LateConfig,
}


def load_run_config(path_or_preset: str | Path) -> RunConfig:
    """Reads a TOML file, or a preset shipped with the package by its name.

    Raises:  ConfigError naming the file, the field, the value and what is allowed.
    """
    path = Path(path_or_preset)
    preset = resources.files("dougong").joinpath(f"data/train/presets/{path_or_preset}.toml")
    try:
        text = preset.read_text("utf-8") if preset.is_file() else path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: no such training configuration or preset") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return run_config_from_dict(values, str(path))


def run_config_from_dict(values: dict[str, Any], where: str = "training config") -> RunConfig:
    """A checked `RunConfig` from nested dictionaries with the fields' names."""
    values = dict(values)
    sections: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        section = values.pop(name, {} if name == "late" else None)
        if not isinstance(section, dict):
            raise ConfigError(f"{where}: section [{name}] is missing")
        sections[name] = _section(kind, section, f"{where}: {name}")
    config: RunConfig = _section(RunConfig, values | sections, where)
    _check(config, where)
    return config


def with_overrides(config: RunConfig, *, folder: str | None, steps: int | None) -> RunConfig:
    """The configuration with the command line's folder and number of steps, where given."""
    values = config.to_dict()
    if folder is not None:
        values["output"]["folder"] = folder
    if steps is not None:
        values["schedule"]["steps"] = steps
        values["schedule"]["warmup"] = min(config.schedule.warmup, steps)
    return run_config_from_dict(values, "command line")


def _section(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """An instance of `kind`: every key known, every value of the field's type."""
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{where}.{unknown[0]} is unknown; fields are {', '.join(fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}.{name} is missing")
    checked = {}
    for name, value in values.items():
        hint = hints[name]
        plain = dict if hint == dict[str, float] else hint
        if plain is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, plain) or isinstance(value, bool):
            raise ConfigError(f"{where}.{name}: {value!r} should be of type {plain.__name__}")
        checked[name] = value
    return kind(**checked)


def _check(config: RunConfig, where: str) -> None:
    """Ranges that a type cannot express."""
    data, schedule, output = config.data, config.schedule, config.output
    late = config.late
    rules = (
        ("data.shares", _are_shares(data.shares), "positive numbers, at least one family"),
        ("late.start", 0 <= late.start <= 1, "from 0 to 1"),
        ("late.shares", late.start == 1 or _are_shares(late.shares), "positive numbers"),
        ("data.max_length", data.max_length >= 16, "at least 16 tokens"),
        ("data.batch_tokens", data.batch_tokens >= data.max_length, "at least data.max_length"),
        ("data.micro_tokens", data.micro_tokens >= 1, "at least 1"),
        ("late.max_length", 16 <= late.max_length <= data.batch_tokens, "16 to batch_tokens"),
        ("schedule.steps", schedule.steps >= 1, "at least 1"),
        ("schedule.warmup", 0 <= schedule.warmup <= schedule.steps, "from 0 to schedule.steps"),
        ("schedule.decay", 0 <= schedule.decay <= 1, "from 0 to 1"),
        ("schedule.final_lr", 0 <= schedule.final_lr <= 1, "from 0 to 1"),
        ("schedule.quantize_from", 0 <= schedule.quantize_from <= 1, "from 0 to 1"),
        ("schedule.lr_muon", schedule.lr_muon > 0, "positive"),
        ("schedule.lr_adamw", schedule.lr_adamw > 0, "positive"),
        ("schedule.clip", schedule.clip > 0, "positive"),
        ("schedule.mtp_weight", schedule.mtp_weight >= 0, "0 or more"),
        ("schedule.mtp_weight_decay", schedule.mtp_weight_decay >= 0, "0 or more"),
        ("schedule.balance_weight", schedule.balance_weight >= 0, "0 or more"),
        ("schedule.balance_rate", schedule.balance_rate >= 0, "0 or more"),
        ("output.save_every", output.save_every >= 1, "at least 1"),
        ("output.log_every", output.log_every >= 1, "at least 1"),
        ("output.keep", output.keep >= 1, "at least 1"),
    )
    for name, holds, wanted in rules:
        if not holds:
            section, key = name.split(".")
            value = getattr(getattr(config, section), key)
            raise ConfigError(f"{where}: {name} = {value} should be {wanted}")


def _are_shares(shares: dict[str, float]) -> bool:
    """Whether these are positive numbers, at least one."""
    values = shares.values()
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return bool(shares) and numbers and all(v > 0 for v in values)
