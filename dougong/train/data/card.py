"""The data section of a model's card: what was read in which share, from where, on which terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dougong.errors import CheckpointError
from dougong.train.config import RunConfig
from dougong.train.data.families import FAMILIES
from dougong.train.data.mixture import PUBLIC_FAMILIES, needed_sources
from dougong.train.data.sources import SOURCES, Source, notice_of

OPEN, CLOSE = "<!-- data: written by `dougong train` -->", "<!-- end of data -->"


def data_section(configs: Sequence[RunConfig], folder: Path) -> str:
    """Markdown: families with their shares, sources with version and licence, and their notices.

    Args:    configs: of the runs that made the weights, one after the other. folder: where the
             packages lie; missing ones are fetched for their notices.
    """
    names = [name for one in configs for name in needed_sources(one.families, full=one.data.full)]
    sources = [SOURCES[name] for name in dict.fromkeys(names)]
    lines = [
        "Trained on public-domain and permissively licensed text and on generated data; no output"
        " of other models was used.",
        "",
        *_shares(configs, sources),
        "",
        "| source | package | licence of the text | characters |",
        "|---|---|---|---|",
        *(
            f"| {s.name} | {s.registry} `{s.package}` {s.version} | {s.licence} | "
            f"{s.characters / 1e6:.2f} M |"
            for s in sources
        ),
    ]
    for source in sources:
        if text := notice_of(source, folder):
            lines += ["", f"{source.package}:", "", "```", text, "```"]
    return "\n".join(lines) + "\n"


def _shares(configs: Sequence[RunConfig], sources: list[Source]) -> list[str]:
    """The families' table: share of each phase's tokens and where they come from."""
    phases = [
        (f"run {i}, phase {j}" if len(configs) > 1 else f"phase {j}", phase)
        for i, config in enumerate(configs, 1)
        for j, phase in enumerate(config.phases, 1)
    ]
    head = " | ".join(name for name, _ in phases)
    lines = [f"| family | {head} | from |", "|---" * (len(phases) + 2) + "|"]
    for family in dict.fromkeys(family for config in configs for family in config.families):
        shares = " | ".join(
            f"{phase.mix.get(family, 0) / sum(phase.mix.values()):.1%}" for _, phase in phases
        )
        lines.append(f"| {family} | {shares} | {_origin(family, sources)} |")
    return lines


def _origin(family: str, sources: list[Source]) -> str:
    if family not in PUBLIC_FAMILIES:
        kinds = FAMILIES[family].kinds if family in FAMILIES else ("stories as running text",)
        return f"own generator: {'; '.join(kinds)}"
    return ", ".join(source.name for source in sources if source.use == PUBLIC_FAMILIES[family])


def card_with_data(card: str, section: str) -> str:
    """The card's text with this section between its two marks.

    Raises:  CheckpointError if the marks are missing.
    """
    before, opened, rest = card.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not opened or not closed:
        raise CheckpointError(f"the card has no place for the data: add the lines {OPEN} {CLOSE}.")
    return f"{before}{OPEN}\n\n{section}\n{CLOSE}{after}"
