"""The configuration of a training run: a TOML file, every field checked, one resolved form."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from dougong.errors import ConfigError

ATTENTIONS = ("dense", "sparse")
DECAY_SHAPES = ("linear", "cosine")
PRODUCTS = ("float32", "bfloat16")
RECOMPUTE = ("none", "module", "tensor")
EXPORTS = ("last", "average")
ANTICIPATIONS = ("never", "spikes", "always")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where training text comes from.

    folder: keeps the public packages. full: reads Debian's packages, too (apt-get fetches them).
    workers: processes that make batches ahead; 0: each is made when it is needed.
    """

    folder: str = "~/.cache/dougong/data"
    full: bool = False
    workers: int = 0
    tokenizer: str = ""  # a folder with tokenizer.json; empty: train one on the phases' mixes
    micro_tokens: int = 2048  # computed at once; smaller ones stay in the processor's cache
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A stretch of the run: what is read in it, and what is trained.

    share:        of the run's tokens; all phases' add up to 1
    mix:          family -> its share of the phase's tokens; empty: the phase before's
    quantized:    weights, and what enters them, at the values that are stored and served
    attention:    dense (every compressed entry) or sparse (those that the indexer selects)
    align_index:  the indexers learn to imitate the attention
    mtp:          the MTP block is trained
    """

    share: float
    max_length: int
    batch_tokens: int
    mix: dict[str, float] = field(default_factory=dict)
    quantized: bool = False
    attention: str = "sparse"
    align_index: bool = False
    mtp: bool = True


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Tokens and rates: linear warm-up, flat, then the decay over the last `decay` of the tokens.

    Batches grow from `batch_start` to all of the phase's `batch_tokens` over `batch_growth` of the
    run's tokens. `export`: the weights of the last step, or their moving average.
    """

    tokens: int
    warmup: int = 50  # steps
    decay: float = 0.35
    decay_shape: str = "linear"
    lr: float = 0.01  # the peak, of Muon and AdamW alike
    final_lr: float = 0.02  # of the peak, reached at the last step
    batch_growth: float = 0.0
    batch_start: float = 0.25
    clip: float = 1.0
    mtp_weight: float = 0.3
    mtp_weight_decay: float = 0.1  # from the beginning of the decay
    balance_weight: float = 0.0001
    balance_rate: float = 0.001
    average: float = 0.999  # of the exponential moving average of weights; 0: none is kept
    export: str = "last"


@dataclass(frozen=True, kw_only=True)
class StabilityConfig:
    """What is done about loss spikes (stability.py) and about routing (anticipatory.py).

    spike:       deviations above the recent losses that make a spike; 0: none is looked for
    window:      steps that the recent losses reach back
    rollback:    steps before a spike that are undone at least, to the checkpoint there
    rollbacks:   after so many the run stops
    anticipate:  experts chosen by earlier weights: never, for `period` steps after spikes, always
    lag:         how many steps earlier
    """

    spike: float = 0.0
    window: int = 32
    rollback: int = 1
    rollbacks: int = 3
    anticipate: str = "spikes"
    lag: int = 8
    period: int = 100


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is written, and how often. `folder` holds checkpoints, the log and the curve."""

    folder: str
    save_every: int = 100
    log_every: int = 1
    keep: int = 2


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run.

    model:   a preset's name or a config.json
    start:   another run's folder, whose newest weights and tokenizer this one begins with; empty:
             random weights
    phases:  in their order
    products: float32, or bfloat16: what enters matrix products is rounded, weights and sums not
    recompute: what is dropped after the forward pass and made again in the backward pass
    """

    model: str
    schedule: ScheduleConfig
    output: OutputConfig
    phases: tuple[PhaseConfig, ...]
    data: DataConfig = DataConfig()
    stability: StabilityConfig = StabilityConfig()
    start: str = ""
    device: str = "cpu"
    products: str = "float32"
    recompute: str = "none"
    seed: int = 1

    @property
    def families(self) -> dict[str, float]:
        """Every family of any phase, with its share of the whole run's tokens."""
        total: dict[str, float] = {}
        for phase in self.phases:
            whole = sum(phase.mix.values())
            for family, part in phase.mix.items():
                total[family] = total.get(family, 0.0) + phase.share * part / whole
        return total

    def to_dict(self) -> dict[str, Any]:
        """Every field with its value, defaults included."""
        values = dataclasses.asdict(self)
        return values | {"phases": list(values["phases"])}

    def to_toml(self) -> str:
        """The resolved configuration as a TOML file that `load_run_config` reads."""
        values = self.to_dict()
        tables = [("[data]", values.pop("data"))]
        tables += [(f"[{name}]", values.pop(name)) for name in ("schedule", "stability", "output")]
        for phase in values.pop("phases"):
            mix = phase.pop("mix")
            tables += [("[[phases]]", phase), ("[phases.mix]", mix)]
        return "\n\n".join(
            "\n".join(
                ([header] if header else [])
                + [f"{key} = {json.dumps(value)}" for key, value in table.items()]
            )
            for header, table in [("", values), *tables]
        )


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "schedule": ScheduleConfig,
    "stability": StabilityConfig,
    "output": OutputConfig,
}
OPTIONAL_SECTIONS = ("data", "stability")


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
        section = values.pop(name, {} if name in OPTIONAL_SECTIONS else None)
        if not isinstance(section, dict):
            raise ConfigError(f"{where}: section [{name}] is missing")
        sections[name] = _section(kind, section, f"{where}: {name}")
    sections["phases"] = _phases(values.pop("phases", None), where)
    config: RunConfig = _section(RunConfig, values | sections, where)
    _check(config, where)
    return config


def with_overrides(config: RunConfig, *, folder: str | None, tokens: int | None) -> RunConfig:
    """The configuration with the command line's folder and number of tokens, where given."""
    values = config.to_dict()
    if folder is not None:
        values["output"]["folder"] = folder
    if tokens is not None:
        values["schedule"]["tokens"] = tokens
    return run_config_from_dict(values, "command line")


def _phases(values: Any, where: str) -> tuple[PhaseConfig, ...]:
    """The phases; an empty mix becomes the one of the phase before."""
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"{where}: [[phases]] is missing; a run has at least one")
    phases: list[PhaseConfig] = []
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: phases[{i}]: {value!r} should be a table")
        if phases and not value.get("mix"):
            value = value | {"mix": phases[-1].mix}
        phases.append(_section(PhaseConfig, value, f"{where}: phases[{i}]"))
    return tuple(phases)


def _section(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """An instance of `kind`: every key known, every value of the field's type."""
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        near = difflib.get_close_matches(unknown[0], fields, 1)
        hint = f"did you mean {near[0]}?" if near else f"fields are {', '.join(fields)}"
        raise ConfigError(f"{where}.{unknown[0]} is unknown; {hint}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}.{name} is missing")
    checked = {}
    for name, value in values.items():
        hint = hints[name]
        plain = getattr(hint, "__origin__", hint)
        if plain is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
            raise ConfigError(f"{where}.{name}: {value!r} should be of type {plain.__name__}")
        checked[name] = value
    return kind(**checked)


Rule = tuple[str, Any, bool, str]  # field, its value, whether it is right, what it should be


def _check(config: RunConfig, where: str) -> None:
    """Ranges that a type cannot express."""
    rules = [*_schedule_rules(config.schedule), *_output_rules(config)]
    rules += _stability_rules(config.stability)
    rules += [
        ("products", config.products, config.products in PRODUCTS, " or ".join(PRODUCTS)),
        ("recompute", config.recompute, config.recompute in RECOMPUTE, ", ".join(RECOMPUTE)),
    ]
    for i, phase in enumerate(config.phases):
        rules += _phase_rules(f"phases[{i}]", phase)
    whole = sum(phase.share for phase in config.phases)
    rules.append(("phases.share", f"{whole:g} in all", abs(whole - 1) < 1e-6, "1 in all"))
    for name, value, holds, wanted in rules:
        if not holds:
            raise ConfigError(f"{where}: {name} = {value} should be {wanted}")


def _schedule_rules(schedule: ScheduleConfig) -> list[Rule]:
    def rule(name: str, wanted: str, test: Any) -> Rule:
        value = getattr(schedule, name)
        return f"schedule.{name}", value, bool(test(value)), wanted

    shares = ("decay", "final_lr", "batch_growth")
    positive = ("lr", "clip")
    not_negative = ("mtp_weight", "mtp_weight_decay", "balance_weight", "balance_rate")
    return [
        rule("tokens", "at least 1", lambda v: v >= 1),
        rule("warmup", "0 or more steps", lambda v: v >= 0),
        *(rule(name, "from 0 to 1", lambda v: 0 <= v <= 1) for name in shares),
        *(rule(name, "positive", lambda v: v > 0) for name in positive),
        *(rule(name, "0 or more", lambda v: v >= 0) for name in not_negative),
        rule("batch_start", "above 0, at most 1", lambda v: 0 < v <= 1),
        rule("average", "from 0 to below 1", lambda v: 0 <= v < 1),
        rule("decay_shape", " or ".join(DECAY_SHAPES), lambda v: v in DECAY_SHAPES),
        rule("export", " or ".join(EXPORTS), lambda v: v in EXPORTS),
        rule(
            "export",
            "last, as schedule.average is 0",
            lambda v: v == "last" or schedule.average > 0,
        ),
    ]


def _stability_rules(stability: StabilityConfig) -> list[Rule]:
    counts = {"window": 4, "rollback": 0, "rollbacks": 0, "lag": 0, "period": 1}
    return [
        ("stability.spike", stability.spike, stability.spike >= 0, "0 or more"),
        (
            "stability.anticipate",
            stability.anticipate,
            stability.anticipate in ANTICIPATIONS,
            ", ".join(ANTICIPATIONS),
        ),
        *(
            (f"stability.{name}", value, value >= least, f"at least {least}")
            for name, least in counts.items()
            for value in [getattr(stability, name)]
        ),
    ]


def _output_rules(config: RunConfig) -> list[Rule]:
    output, data = config.output, config.data
    return [
        ("output.save_every", output.save_every, output.save_every >= 1, "at least 1"),
        ("output.log_every", output.log_every, output.log_every >= 1, "at least 1"),
        ("output.keep", output.keep, output.keep >= 1, "at least 1"),
        ("data.micro_tokens", data.micro_tokens, data.micro_tokens >= 1, "at least 1"),
        ("data.workers", data.workers, data.workers >= 0, "0 or more"),
    ]


def _phase_rules(where: str, phase: PhaseConfig) -> list[Rule]:
    longest, batch, mix = phase.max_length, phase.batch_tokens, phase.mix
    return [
        (f"{where}.share", phase.share, 0 < phase.share <= 1, "above 0, at most 1"),
        (f"{where}.mix", mix, _are_shares(mix), "positive numbers, at least one family"),
        (f"{where}.max_length", longest, longest >= 16, "at least 16 tokens"),
        (f"{where}.batch_tokens", batch, batch >= longest, f"at least {where}.max_length"),
        (
            f"{where}.attention",
            phase.attention,
            phase.attention in ATTENTIONS,
            " or ".join(ATTENTIONS),
        ),
    ]


def _are_shares(shares: dict[str, float]) -> bool:
    """Whether these are positive numbers, at least one."""
    values = shares.values()
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return bool(shares) and numbers and all(v > 0 for v in values)
