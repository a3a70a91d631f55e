"""Trains `mini` on a lent GPU, in pieces; each can be stopped and started again.

python tools/train_on_gpu.py speed              # 60 s: tokens/s of every phase
python tools/train_on_gpu.py train              # the budget, then up to nine minutes; repeat
python tools/train_on_gpu.py finish             # FP4/FP8 in files below 16 MB, evaluation, card

What they share is the run's folder (--folder, runs/mini): speed.json, run.toml with the tokens that
--minutes allow, checkpoints, and at the end model/.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import click
import torch

from dougong.errors import DougongError
from dougong.train.config import RunConfig, load_run_config, with_overrides
from dougong.train.pieces import SHARD_BYTES, choose_budget, export, measure_speed, train_for


@click.command()
@click.argument("piece", type=click.Choice(["speed", "train", "finish"]))
@click.option("--config", default="mini", show_default=True, help="A TOML file or a preset.")
@click.option("--folder", default="runs/mini", show_default=True, help="Where the run is kept.")
@click.option("--minutes", default=18.0, show_default=True, help="Training in all.")
@click.option("--speed-seconds", default=60.0, show_default=True, help="Of the speed test.")
@click.option("--piece-minutes", default=9.0, show_default=True, help="Of one call of train.")
@click.option("--shard-bytes", default=SHARD_BYTES, show_default=True, help="Of a weight file.")
@click.option("--evaluate", default="", help="Options for `dougong eval`, such as --quick.")
def main(
    piece: str,
    config: str,
    folder: str,
    minutes: float,
    speed_seconds: float,
    piece_minutes: float,
    shard_bytes: int,
    evaluate: str,
) -> None:
    """Run one piece: speed, then train until it says done, then finish."""
    plan = on_this_device(with_overrides(load_run_config(config), folder=folder, tokens=None))
    try:
        if piece == "speed":
            speeds = measure_speed(plan, speed_seconds)
            click.echo(", ".join(f"{speed:,.0f}" for speed in speeds) + " tokens/s")
            return
        plan = choose_budget(plan, 60 * minutes)
        if piece == "train":
            done = train_for(plan, 60 * piece_minutes)
            click.echo("done" if done else "stopped for now: call it again")
            return
        model = export(plan, shard_bytes)
    except DougongError as error:
        raise click.ClickException(str(error)) from error
    command = [sys.executable, "-m", "dougong.cli.main", "eval", str(model), "--card"]
    subprocess.run([*command, *evaluate.split()], check=True)
    click.echo(str(model))


def on_this_device(config: RunConfig) -> RunConfig:
    """The configuration for the GPU if there is one."""
    return replace(config, device="cuda" if torch.cuda.is_available() else config.device)


if __name__ == "__main__":
    main()
