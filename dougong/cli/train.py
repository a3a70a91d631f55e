"""`dougong train`: trains a model from a configuration file, or goes on with a run."""

from __future__ import annotations

from typing import Any

import click

from dougong.cli import options


@click.command("train")
@click.argument("config", metavar="CONFIG")
@click.option("--folder", default=None, help="Where the run is kept; overrides output.folder.")
@click.option(
    "--tokens", type=click.IntRange(min=1), default=None, help="Overrides schedule.tokens."
)
@click.option("--show", is_flag=True, help="Print the resolved configuration and stop.")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=None,
    help="Print what it would read and stop: so many samples of every family, with what is trained "
    "between [[ and ]], and each family's share and lengths.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads; one is the steadiest on a machine that does other work.",
)
@options.json_option
def command(
    config: str,
    folder: str | None,
    tokens: int | None,
    show: bool,
    samples: int | None,
    threads: int,
    as_json: bool,
) -> None:
    """Train a model. CONFIG is a TOML file or a shipped preset (nano, nano-more, mini).

    The run's folder holds its checkpoints, log.jsonl and curve.png; the trained model lies in
    model/ there, in the published layout, with its card. Stop it any time and start it again: it
    goes on from the newest checkpoint with the same losses.

    \b
    Examples:
      dougong train nano
      dougong train my.toml --show
      dougong train nano --samples 2

    \b
    JSON: config, steps, tokens, loss, model; with --samples: families
    """
    from dougong.train.config import load_run_config, with_overrides

    run_config = with_overrides(load_run_config(config), folder=folder, tokens=tokens)
    if show:
        options.emit({"config": run_config.to_dict()}, as_json, run_config.to_toml())
        return
    if samples is not None:
        _show_samples(run_config, samples, as_json)
        return
    options.set_threads(threads)
    report = _train(run_config)
    if report is None:
        return  # another process of this run tells it
    text = f"{report['steps']} steps, {report['tokens']:,} tokens, model in {report['model']}"
    options.emit(report, as_json, text)


def _show_samples(run_config: Any, samples: int, as_json: bool) -> None:
    """Prints samples of every family of the mixes."""
    from dougong.train.data.show import as_text, show_mix

    shown = show_mix(run_config, samples)
    options.emit({"families": [one.to_dict() for one in shown]}, as_json, as_text(shown))


def _train(run_config: Any) -> dict[str, Any] | None:
    """Runs the training and writes the model; the keys are those of --json.

    None in a process that is not the first of its group.
    """
    from dougong.train.export import export_run
    from dougong.train.loop import train
    from dougong.train.progress import LOG_FILE, read_log
    from dougong.train.run import open_run

    run = open_run(run_config)
    if run.group.leads:
        click.echo(run_config.to_toml(), err=True)
    train(run)
    with run.group.one_first():
        model = export_run(run) if run.group.leads else None
    run.group.leave()
    if model is None:
        return None
    return {
        "config": run_config.to_dict(),
        "steps": run.step,
        "tokens": run.tokens,
        "loss": read_log(run.folder / LOG_FILE)[-1]["loss"],
        "model": str(model),
    }
