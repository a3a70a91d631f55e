"""The files that tell what a trained model is: its card, training.json, the curve of its losses.

The card's text is dougong/data/train/card.md; what it says of evaluation is written by `dougong
eval --card`, when that has been measured.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from dougong.checkpoint import parameters
from dougong.config import V4Config
from dougong.errors import TrainingError
from dougong.train.checkpoint import latest_checkpoint, load_values
from dougong.train.config import RunConfig, run_config_from_dict
from dougong.train.data import card as data
from dougong.train.evaluation import card as evaluation
from dougong.train.progress import CURVE_FILE, LOG_FILE, draw_losses, read_log
from dougong.train.run import Run

TRAINING = "training.json"
LAST_STEPS = 50  # whose mean loss is told
ATTENTION = {0: "window", 4: "CSA", 128: "HCA"}
Past = list[tuple[RunConfig, list[dict[str, Any]]]]
"""The runs that made the weights, the first one first: configuration, and the log's lines."""


def write_card(run: Run, folder: Path) -> Path:
    """Writes the card, training.json and the curve of a run into `folder`; returns the card.

    Raises:  TrainingError if a run that it began with is no longer there to be told.
    """
    past = history(run.config)
    runs = [summary_of(*one) for one in past]
    text = json.dumps({"runs": runs}, indent=1) + "\n"
    (folder / TRAINING).write_text(text, encoding="utf-8")
    draw_losses(_end_to_end(past), folder / CURVE_FILE)
    configs = [config for config, _ in past]
    template = resources.files("dougong").joinpath("data/train/card.md").read_text("utf-8")
    card = Template(template).substitute(
        architecture(run.model.config),
        name=Path(run.config.model).stem,
        longest=f"{max(phase.max_length for one in configs for phase in one.phases):,}",
        tokens=f"{sum(one['tokens'] for one in runs) / 1e6:.1f}",
        runs="\n".join(map(_told, runs)),
        device=run.model.device.type.upper().replace("CUDA", "a GPU"),
        evaluation_open=evaluation.OPEN,
        evaluation_close=evaluation.CLOSE,
        data_open=data.OPEN,
        data_close=data.CLOSE,
    )
    section = data.data_section(configs, Path(run.config.data.folder).expanduser())
    path = folder / evaluation.CARD
    path.write_text(data.card_with_data(card, section), encoding="utf-8")
    return path


def history(config: RunConfig) -> Past:
    """This run behind those whose weights it began with.

    Raises:  TrainingError if one of them has no checkpoint or log any more.
    """
    folder = Path(config.output.folder).expanduser()
    if not (folder / LOG_FILE).is_file():
        raise TrainingError(f"{folder} has no {LOG_FILE}: the card cannot tell how it was trained")
    before: Past = []
    if config.start:
        start = Path(config.start).expanduser()
        if (newest := latest_checkpoint(start)) is None:
            raise TrainingError(f"{start} has no checkpoint: the card cannot tell how it began")
        earlier = run_config_from_dict(load_values(newest)["run"])
        before = history(replace(earlier, output=replace(earlier.output, folder=str(start))))
    return [*before, (config, read_log(folder / LOG_FILE))]


def summary_of(config: RunConfig, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What training.json holds of a run: config, steps, tokens, hours of steps, last losses."""
    last = lines[-LAST_STEPS:]
    return {
        "config": _without_places(config).to_dict(),
        "steps": len(lines),
        "tokens": lines[-1]["tokens"],
        "hours": sum(line["seconds"] for line in lines) / 3600,
        "loss": sum(line["loss"] for line in last) / len(last),
        "mtp": sum(line["mtp"] for line in last) / len(last),
    }


def _without_places(config: RunConfig) -> RunConfig:
    """The configuration with folders by their names: where they lay is nobody's concern."""
    return replace(
        config,
        model=Path(config.model).name,
        start=Path(config.start).name,
        data=replace(
            config.data,
            folder=Path(config.data.folder).name,
            tokenizer=Path(config.data.tokenizer).name,
        ),
        output=replace(config.output, folder=Path(config.output.folder).name),
    )


def _told(summary: dict[str, Any]) -> str:
    """A run as an item of the card's list."""
    config = summary["config"]
    start = f", begun with the weights of `{config['start']}`" if config["start"] else ""
    return (
        f"* `{config['output']['folder']}`{start}: {summary['steps']:,} steps, "
        f"{summary['tokens'] / 1e6:.1f} million tokens, {summary['hours']:.2f} hours of steps; "
        f"at the end {summary['loss']:.3f} next token, {summary['mtp']:.3f} token after next"
    )


def _end_to_end(past: Past) -> list[dict[str, Any]]:
    """The log lines of all runs with their tokens counted through."""
    found: list[dict[str, Any]] = []
    for _, lines in past:
        done = found[-1]["tokens"] if found else 0
        found += [line | {"tokens": done + line["tokens"]} for line in lines]
    return found


def architecture(config: V4Config) -> dict[str, str]:
    """What the card says of the architecture."""
    counts = list(parameters(config))
    share = config.num_experts_per_tok / config.n_routed_experts
    used = sum(
        one.count * (share if one.role == "expert" else 1)
        for one in counts
        if not one.name.startswith("mtp.") and one.name != "embed.weight"
    )
    kinds = Counter(ATTENTION[r] for r in config.compress_ratios[: config.num_hidden_layers])
    return {
        "parameters": f"{sum(one.count for one in counts) / 1e6:.1f}",
        "active": f"{used / 1e6:.1f}",
        "layers": str(config.num_hidden_layers),
        "kinds": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        "hashed": str(config.num_hash_layers),
        "mtp": ("no", "one", "two")[min(config.num_nextn_predict_layers, 2)],
    }
