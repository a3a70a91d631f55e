"""What the `plan` commands share: options that name a model, chips and an operating point.

`take_...` turn the words that these options collect into what the planner computes with, and take
them out of `words`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli.options import F, together
from dougong.cli.values import TOKENS, Pairs, read_limit

if TYPE_CHECKING:
    from dougong.plan.chips import Chip
    from dougong.plan.predict import Scenario
    from dougong.plan.weights import ModelConfig

PRECISIONS = ("release", "hif8", "fp8", "fp8-block", "fp4", "int8", "w4a8", "bf16")
OVERLAPS = ("none", "two_stage", "waves")

chip_file_option = click.option(
    "--chips", "chip_file", type=click.Path(path_type=Path), default=None,
    help="Your own chips: a CSV file in the layout of accelerators.csv.",
)  # fmt: skip
_edit_options = together(
    click.option("--set", "settings", multiple=True, metavar="chip.KEY=VALUE",
                 help="Give or override a chip's value, such as chip.mem_bw=1.6TB/s. Repeatable."),
    click.option("--what-if", "what_if", default="", metavar="EDITS",
                 help='Edits such as "link/4, mem_bw*2, no fp8".'),
    chip_file_option,
)  # fmt: skip
chip_options = together(
    click.option("--chip", "name", required=True, help="Chip id or part of its name."),
    _edit_options,
)
chips_options = together(
    click.option("--chip", "names", multiple=True, help="Chip to try; repeatable. [default: all]"),
    _edit_options,
)
serving_options = together(
    click.option("--precision", type=click.Choice(PRECISIONS), default=None,
                 help="Stored and multiplied formats. [default: the checkpoint's, or what the "
                 "chip has]"),
    click.option("--mtp", "drafts", type=click.IntRange(0, 7), default=None,
                 help="Tokens drafted per step. [default: 1 where the model has an MTP block]"),
    click.option("--overlap", type=click.Choice(OVERLAPS), default="waves", show_default=True,
                 help="How expert traffic hides behind compute."),
)  # fmt: skip


def count_option(help_text: str, default: int | None = None) -> Callable[[F], F]:
    """--count: chips of one replica; required if there is no default."""
    return click.option(
        "--count", type=click.IntRange(min=1), default=default, required=default is None,
        show_default=True, help=help_text,
    )  # fmt: skip


def counts_option(help_text: str, *default: int) -> Callable[[F], F]:
    """--count, several of them."""
    return click.option(
        "--count", "counts", type=click.IntRange(min=1), multiple=True, default=default,
        show_default=True, help=help_text,
    )  # fmt: skip


def tokens_option(name: str, default: str, help_text: str) -> Callable[[F], F]:
    """An option that takes a number of tokens, such as 8k or 1M."""
    return click.option(name, type=TOKENS, default=default, show_default=True, help=help_text)


def batch_option(default: str) -> Callable[[F], F]:
    """--batch; `default` says in words what is taken without it."""
    return click.option(
        "--batch", type=click.IntRange(min=1), default=None,
        help=f"Requests in flight on the replica. [default: {default}]",
    )  # fmt: skip


def slo_option(help_text: str, ttft_s: float = 0.0, tpot_s: float = 0.0) -> Callable[[F], F]:
    """--slo: limits of the time to the first token and per token; by default these, 0 is none."""
    return click.option(
        "--slo", type=Pairs(ttft=(read_limit, ttft_s), tpot=(read_limit, tpot_s)), default="",
        metavar="ttft=2s,tpot=50ms", help=help_text,
    )  # fmt: skip


def find_model(model: str) -> ModelConfig:
    """The configuration of a preset, or of a folder or file with a config.json."""
    from dougong.config import load_config

    return load_config(model)


def all_chips(chip_file: Path | None) -> dict[str, Chip]:
    """Every chip we know, the user's own and this machine, where `--record` measured it."""
    from dougong.plan.chips import load_chips
    from dougong.plan.records import read_records

    return load_chips(chip_file, read_records())


def take_chip(words: dict[str, Any]) -> Chip:
    """The chip of `chip_options`, with `--set` and `--what-if` applied."""
    from dougong.plan import chips, whatif

    known, edits, what_if = _take_edits(words)
    chip = chips.find_chip(known, words.pop("name"))
    return whatif.apply(chips.override(chip, edits), what_if)


def take_chips(words: dict[str, Any]) -> tuple[list[Chip], dict[str, str]]:
    """The chips of `chips_options`, or all there are, with `--set` and `--what-if` applied.

    A chip to which an edit does not apply, such as halving what nobody published, is returned with
    the reason; a chip name or an edit that is itself wrong raises.
    """
    from dougong.errors import DougongError
    from dougong.plan import chips, whatif

    known, edits, what_if = _take_edits(words)
    found: list[Chip] = []
    refused: dict[str, str] = {}
    names = words.pop("names")
    for chip in [chips.find_chip(known, name) for name in names] or list(known.values()):
        try:
            found.append(whatif.apply(chips.override(chip, edits), what_if))
        except DougongError as error:
            refused[chip.id] = str(error)
            last = error
    if not found:
        raise last
    return found, refused


def _take_edits(words: dict[str, Any]) -> tuple[dict[str, Chip], dict[str, str], str]:
    """All chips, and what `--set` and `--what-if` change of them."""
    known = all_chips(words.pop("chip_file"))
    return known, as_settings(words.pop("settings")), words.pop("what_if")


def take_scenario(words: dict[str, Any], chip: Chip, batch: int) -> Scenario:
    """The operating point of --count, --context and `serving_options` on `chip`."""
    from dougong.plan.layout import Layout
    from dougong.plan.precision import find_precision
    from dougong.plan.predict import scenario_for

    count, tp, precision = words.pop("count"), words.pop("tp", None), words.pop("precision")
    return scenario_for(
        find_model(words.pop("model")), chip, count, words.pop("context"), batch,
        precision=find_precision(precision) if precision else None,
        drafts=words.pop("drafts"),
        layout=Layout(chips=count, tp=tp) if tp else None,
        overlap=words.pop("overlap"),
    )  # fmt: skip


def as_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping; a word without "=" is a usage error."""
    pairs = [setting.partition("=") for setting in settings]
    for key, equals, _ in pairs:
        if not equals:
            raise click.UsageError(f"--set {key}: write chip.KEY=VALUE, such as chip.mem_bw=2TB/s.")
    return {key.strip(): value.strip() for key, _, value in pairs}
