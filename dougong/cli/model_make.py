"""`dougong model make`: a random checkpoint in a release's exact shapes and formats."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from dougong.cli import options
from dougong.errors import InputError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@click.command("make")
@click.argument("preset")
@click.option(
    "--out", "folder", required=True, metavar="FOLDER", type=click.Path(path_type=Path),
    help="New folder to write.",
)  # fmt: skip
@click.option(
    "--layers", type=click.IntRange(min=1), default=None,
    help="Only the model's first so many layers, without MTP blocks. [default: all, and MTP]",
)  # fmt: skip
@click.option(
    "--experts", type=click.IntRange(min=1), default=None,
    help="Routed experts in a layer. [default: the model's]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="The same seed gives the same bytes.")  # fmt: skip
@click.option(
    "--tokenizer", "tokenizer", default="nano", show_default=True, metavar="MODEL",
    help="Whose tokenizer to put beside the weights.",
)  # fmt: skip
@options.json_option
def command(
    preset: str, folder: Path, layers: int | None, experts: int | None, seed: int,
    tokenizer: str, as_json: bool,
) -> None:  # fmt: skip
    """Write random weights in the shapes, names, files and formats of PRESET's release.

    PRESET: v4-flash, v4-pro, nano, mini or m97. Routed experts are FP4, other linears FP8, the rest
    BF16 and float32; a file holds a layer. Random bits are written as they are, so memory holds one
    tensor. The same command goes on with a run that was killed. What such a model says has no
    meaning; what it costs has.

    \b
    Example:
      dougong model make v4-flash --layers 4 --out flash4

    \b
    JSON: preset, folder, layers, layer_kinds, experts, seed, bytes, tokenizer (null if its ids do
    not fit), resumed_tensors, seconds
    """  # fmt: skip
    from dougong.checkpoint.make import cut_config, made_bytes, make_checkpoint
    from dougong.config import PRESETS, V4Config, load_config
    from dougong.plan.formulas import layer_kinds

    if preset not in PRESETS or not isinstance(whole := load_config(preset), V4Config):
        known = ", ".join(name for name in PRESETS if not name.startswith("v3"))
        raise InputError(f"{preset} is no preset of a V4 model; choose {known}.")
    config = cut_config(whole, layers=layers, experts=experts)
    start_s = time.monotonic()
    if not as_json:
        click.echo(room(folder, made_bytes(config)), err=True)
    companions = tokenizer_files(tokenizer, config.vocab_size)
    progress = options.Progress("writing", "bytes")
    try:
        made = make_checkpoint(
            config, folder, seed=seed, companions=companions, progress=progress.update
        )
    finally:
        progress.close()
    report: dict[str, Any] = {
        "preset": preset,
        "folder": str(made.folder),
        "layers": config.num_hidden_layers,
        "layer_kinds": dict(Counter(layer_kinds(config))),
        "experts": config.n_routed_experts,
        "seed": seed,
        "bytes": made.nbytes,
        "tokenizer": tokenizer if companions else None,
        "resumed_tensors": made.resumed,
        "seconds": round(time.monotonic() - start_s, 3),
    }
    options.emit(report, as_json, describe(report))


def room(folder: Path, nbytes: int) -> str:
    """What will be written beside what is free there."""
    place = folder.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return f"{nbytes / 1e9:,.2f} GB to write; {free / 1e9:,.1f} GB are free in {place}"


def tokenizer_files(model: str, vocab_size: int) -> list[Path]:
    """The tokenizer's files of `model`; none if it has more ids than the vocabulary has rows."""
    from dougong.chat import load_tokenizer
    from dougong.checkpoint.locate import find_checkpoint

    folder = find_checkpoint(model)
    if load_tokenizer(folder).num_ids > vocab_size:
        return []
    return [path for name in TOKENIZER_FILES if (path := folder / name).is_file()]


def describe(report: dict[str, Any]) -> str:
    """The report as text."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in report["layer_kinds"].items())
    text = (
        f"{report['folder']}: {report['bytes'] / 1e9:,.2f} GB of random weights, "
        f"{report['layers']} layers ({kinds}) of {report['experts']} experts, "
        f"in {report['seconds']} s"
    )
    if report["resumed_tensors"]:
        text += f"\ntaken over from an earlier run: {report['resumed_tensors']:,} tensors"
    if report["tokenizer"] is None:
        text += "\nwithout a tokenizer: the one named has more ids than this vocabulary"
    return text
