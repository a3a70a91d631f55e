"""The evaluation's files beside a model: evaluation.json and .png, and its part of the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dougong.errors import CheckpointError
from dougong.train.evaluation.plots import draw_page
from dougong.train.evaluation.samples import quoted
from dougong.train.evaluation.table import markdown, name_of, percent

CARD, RESULTS, PAGE = "MODEL_CARD.md", "evaluation.json", "evaluation.png"
OPEN, CLOSE = "<!-- evaluation: written by `dougong eval --card` -->", "<!-- end of evaluation -->"


def write_files(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the figures and their page of plots into `folder`; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [path, draw_page(results, folder / PAGE)]


def card_with_results(card: str, results: dict[str, Any]) -> str:
    """The card's text with these results between its two marks: table, and what it says.

    Raises:  CheckpointError if the marks are missing.
    """
    before, opened, rest = card.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not opened or not closed:
        raise CheckpointError(f"{CARD} has no place for the table: add the lines {OPEN} {CLOSE}.")
    return f"{before}{OPEN}\n\n{section(results)}\n{CLOSE}{after}"


def section(results: dict[str, Any]) -> str:
    """The card's part: how it was computed, the table, what it fails at, the samples."""
    model = results["model"]
    parts = [
        f"Backend {model['backend']}, {model['dtype']}, rounding {model['rounding']}, seed "
        f"{results['seed']}; what each line means: Dougong's docs/evaluation.md.\n",
        markdown(results),
    ]
    if failing := failures(results):
        parts.append(f"Wrong more often than right, worst first: {', '.join(failing)}.\n")
    if "samples" in results["suites"]:
        parts += [
            "What it says to plain questions, some of them such as training shows:\n",
            quoted(results["suites"]["samples"]),
        ]
    return "\n".join(parts)


def failures(results: dict[str, Any]) -> list[str]:
    """Kinds of question that it gets right less than every other time: `sort a list (2 %)`."""
    kinds = [row for figures in results["suites"].values() for row in figures.get("kinds", ())]
    found = sorted((row["share"], name_of(row)) for row in kinds if row["share"] < 0.5)
    return [f"{name} ({percent(share)})" for share, name in found]


def update_card(folder: Path) -> Path:
    """Rewrites the evaluation's part of the card in `folder` from the figures stored there.

    Raises:  CheckpointError if there is no card, or no place for the table in it.
    """
    path = folder / CARD
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: --card needs the model's card to write in.")
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    path.write_text(card_with_results(path.read_text(encoding="utf-8"), results), encoding="utf-8")
    return path
