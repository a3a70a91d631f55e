"""What the `plan` commands share: naming a model and a chip, and writing figures for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dougong.plan.chips import Chip
    from dougong.plan.weights import ModelConfig

F = TypeVar("F", bound=Callable[..., Any])
PRECISIONS = ("release", "hif8", "fp8", "fp8-block", "fp4", "int8", "w4a8", "bf16")
OVERLAPS = ("none", "two_stage", "waves")

_CHIP_OPTIONS = (
    click.option("--set", "settings", multiple=True, metavar="chip.KEY=VALUE",
                 help="Give or override a chip's value, such as chip.mem_bw=1.6TB/s. Repeatable."),
    click.option("--what-if", "what_if", default="", metavar="EDITS",
                 help='Edits such as "link/4, mem_bw*2, no fp8".'),
    click.option("--chips", "chip_file", type=click.Path(path_type=Path), default=None,
                 help="Your own chips: a CSV file in the layout of accelerators.csv."),
)  # fmt: skip


def chip_options(command: F) -> F:
    """Adds the options that say which chips exist and what they can do."""
    for option in reversed(_CHIP_OPTIONS):
        command = option(command)
    return command


precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=None,
    help="Stored and multiplied formats. [default: the checkpoint's, or what the chip has]",
)
drafts_option = click.option(
    "--mtp",
    "drafts",
    type=click.IntRange(0, 7),
    default=None,
    help="Tokens drafted per step. [default: 1 where the model has an MTP block]",
)
overlap_option = click.option(
    "--overlap",
    type=click.Choice(OVERLAPS),
    default="waves",
    show_default=True,
    help="How expert traffic hides behind compute.",
)


def find_model(model: str) -> ModelConfig:
    """The configuration of a preset, or of a folder or file with a config.json."""
    from dougong.config import load_config

    return load_config(model)


def all_chips(chip_file: Path | None) -> dict[str, Chip]:
    """Every chip we know, the user's own and this machine, where `--record` measured it."""
    from dougong.plan.chips import load_chips
    from dougong.plan.records import read_records

    return load_chips(chip_file, read_records())


def find_chip(name: str, chip_file: Path | None, settings: tuple[str, ...], what_if: str) -> Chip:
    """The chip called `name` with `--set` and `--what-if` applied."""
    from dougong.plan import chips, whatif

    chip = chips.find_chip(all_chips(chip_file), name)
    return whatif.apply(chips.override(chip, as_settings(settings)), what_if)


def chosen_chips(
    names: tuple[str, ...], chip_file: Path | None, settings: tuple[str, ...], what_if: str
) -> tuple[list[Chip], dict[str, str]]:
    """The chips called `names`, or all of them, with `--set` and `--what-if` applied.

    A chip to which an edit does not apply, such as halving what nobody published, is returned with
    the reason; a chip name or an edit that is itself wrong raises.
    """
    from dougong.errors import DougongError
    from dougong.plan import chips, whatif

    known, edits = all_chips(chip_file), as_settings(settings)
    found: list[Chip] = []
    refused: dict[str, str] = {}
    for chip in [chips.find_chip(known, name) for name in names] or list(known.values()):
        try:
            found.append(whatif.apply(chips.override(chip, edits), what_if))
        except DougongError as error:
            refused[chip.id] = str(error)
            last = error
    if not found:
        raise last
    return found, refused


def as_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping; a word without "=" is a usage error."""
    pairs = [setting.partition("=") for setting in settings]
    for key, equals, _ in pairs:
        if not equals:
            raise click.UsageError(f"--set {key}: write chip.KEY=VALUE, such as chip.mem_bw=2TB/s.")
    return {key.strip(): value.strip() for key, _, value in pairs}


def parse_pairs(text: str, known: dict[str, float], what: str) -> dict[str, float]:
    """`a=1s,b=50ms` as numbers in base units; `known` holds each key's default.

    Times may end in s or ms; unknown keys and bad numbers are usage errors.
    """
    values = dict(known)
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in word.partition("="))
        if not equals or key not in known:
            raise click.UsageError(f"{what} {word!r}: use {', '.join(f'{k}=' for k in known)}")
        number, scale = value, 1.0
        for suffix, factor in (("ms", 1e-3), ("s", 1.0), ("k", 1024.0), ("%", 0.01)):
            if value.endswith(suffix):
                number, scale = value.removesuffix(suffix), factor
                break
        try:
            values[key] = float(number) * scale
        except ValueError:
            raise click.UsageError(f"{what} {word!r}: {value!r} is not a number.") from None
        if not values[key] >= 0:
            raise click.UsageError(f"{what} {word!r}: a number of at least 0 is wanted.")
    return values


def seconds(value: float) -> str:
    """A time in the unit that reads best."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            shown = value / scale
            return f"{shown:,.0f} {unit}" if shown >= 100 else f"{shown:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def rate(value: float) -> str:
    """Tokens per second: whole from 100 on, three digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gigabytes(value: float) -> str:
    """Bytes as GB (10^9)."""
    return f"{value / 1e9:,.1f} GB"


def table(rows: list[list[str]]) -> str:
    """Rows as columns: the first left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
