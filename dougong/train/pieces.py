"""A run in pieces, for a machine that is lent for minutes: how fast, how much, train on, export.

Every piece goes on where the last one stopped; what is kept between them is the run's folder.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from dougong.errors import TrainingError
from dougong.train.config import RunConfig, StabilityConfig, load_run_config
from dougong.train.export import export_run
from dougong.train.heap import keep_freed_memory
from dougong.train.loop import advance, train_step
from dougong.train.run import open_run

SPEED_FILE, CONFIG_FILE = "speed.json", "run.toml"
WARM_STEPS = 2  # not timed: kernels are chosen and compiled, memory is asked for
TOKEN_STEP = 1000  # the budget is a multiple of so many
SHARD_BYTES = 16_000_000  # of a file of weights; as much as is easily kept and sent


def measure_speed(config: RunConfig, seconds: float) -> list[float]:
    """Tokens/s of each phase, in equal shares of `seconds`; written into the run's folder.

    The weights that come of it are thrown away; the tokenizer stays.
    """
    keep_freed_memory()
    run = open_run(replace(config, stability=StabilityConfig()), quiet=True)
    speeds = []
    for phase in range(len(config.phases)):
        steps = [step for step in run.steps if step.phase == phase]
        run.step, tokens, spent = steps[0].index, 0, 0.0
        for i, step in enumerate(steps):
            began = time.perf_counter()
            train_step(run)
            _finish_kernels(run.model.device)
            if i >= WARM_STEPS or step is steps[-1]:
                tokens, spent = tokens + step.batch_tokens, spent + time.perf_counter() - began
            if tokens and spent >= seconds / len(config.phases):
                break
        speeds.append(tokens / spent)
    run.reader.close()
    text = json.dumps({"tokens_per_second": speeds, "device": config.device}) + "\n"
    (run.folder / SPEED_FILE).write_text(text, encoding="utf-8")
    return speeds


def _finish_kernels(device: torch.device) -> None:
    """Waits for a GPU, which works behind the clock's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tokens_for(config: RunConfig, speeds: list[float], seconds: float) -> int:
    """How many tokens all phases together can read in `seconds`, each in its share."""
    per_token = sum(phase.share / v for phase, v in zip(config.phases, speeds, strict=True))
    return max(int(seconds / per_token) // TOKEN_STEP, 1) * TOKEN_STEP


def choose_budget(config: RunConfig, seconds: float) -> RunConfig:
    """The configuration with as many tokens as `seconds` allow at the measured speed.

    It is written into the run's folder, once: a run that has begun keeps its budget.
    Raises:  TrainingError if the speed has not been measured.
    """
    folder = Path(config.output.folder).expanduser()
    if (folder / CONFIG_FILE).is_file():
        return load_run_config(folder / CONFIG_FILE)
    try:
        speeds = json.loads((folder / SPEED_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{folder} has no {SPEED_FILE}: measure the speed first") from error
    tokens = tokens_for(config, speeds["tokens_per_second"], seconds)
    chosen = replace(config, schedule=replace(config.schedule, tokens=tokens))
    (folder / CONFIG_FILE).write_text(chosen.to_toml(), encoding="utf-8")
    return chosen


def train_for(config: RunConfig, seconds: float) -> bool:
    """Trains on for about so long and saves; returns whether the run is done."""
    keep_freed_memory()
    run = open_run(config)
    end = time.monotonic() + seconds
    while not run.done and time.monotonic() < end:
        advance(run)
    run.reader.close()
    if not run.done:
        run.save()
    return run.done


def export(config: RunConfig, shard_bytes: int = SHARD_BYTES) -> Path:
    """Quantizes a finished run into its folder model/; returns that.

    Raises:  TrainingError if the run is not done.
    """
    run = open_run(config, quiet=True)
    run.reader.close()
    if not run.done:
        raise TrainingError(f"{run.folder}: {run.step} of {len(run.steps)} steps; train it first")
    return export_run(run, shard_bytes)
