"""The evaluation's files beside a model: evaluation.json, evaluation.png, the card's table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dougong.errors import CheckpointError
from dougong.train.evaluation.plots import draw_page
from dougong.train.evaluation.table import markdown

CARD, RESULTS, PAGE = "MODEL_CARD.md", "evaluation.json", "evaluation.png"
OPEN, CLOSE = "<!-- evaluation: written by `dougong eval --card` -->", "<!-- end of evaluation -->"


def write_files(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the figures and their page of plots into `folder`; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [path, draw_page(results, folder / PAGE)]


def card_with_table(card: str, results: dict[str, Any]) -> str:
    """The card's text with the table of these results between its two marks.

    Raises:  CheckpointError if the marks are missing.
    """
    before, opened, rest = card.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not opened or not closed:
        raise CheckpointError(f"{CARD} has no place for the table: add the lines {OPEN} {CLOSE}.")
    return f"{before}{OPEN}\n\n{markdown(results)}\n{CLOSE}{after}"


def update_card(folder: Path) -> Path:
    """Rewrites the table of the card in `folder` from the figures stored there.

    Raises:  CheckpointError if there is no card, or no place for the table in it.
    """
    path = folder / CARD
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: --card needs the model's card to write in.")
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    path.write_text(card_with_table(path.read_text(encoding="utf-8"), results), encoding="utf-8")
    return path
