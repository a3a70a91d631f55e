"""Puts a trained and evaluated model into the package, in place of the one of that name.

dougong train nano && dougong train nano-more
dougong eval runs/nano-more/model --card
python tools/ship_model.py runs/nano-more/model nano
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from dougong.checkpoint import open_checkpoint
from dougong.checkpoint.locate import SHIPPED_MODELS
from dougong.train.card import TRAINING
from dougong.train.evaluation.card import CARD, PAGE, RESULTS, card_with_results
from dougong.train.evaluation.suites import weights_sha256
from dougong.train.progress import CURVE_FILE


def check(folder: Path) -> None:
    """Exits with a sentence unless the folder holds a model with its whole card."""
    open_checkpoint(folder)
    for name in (CARD, TRAINING, CURVE_FILE, RESULTS, PAGE):
        if not (folder / name).is_file():
            sys.exit(f"{folder} has no {name}: dougong train writes the card, eval --card the rest")
    results = json.loads((folder / RESULTS).read_text("utf-8"))
    if results["quick"] or results["left_out"]:
        sys.exit(f"{folder / RESULTS}: only a part was asked; run dougong eval {folder} --card")
    if results["model"]["weights_sha256"] != weights_sha256(folder):
        sys.exit(f"{folder / RESULTS} is of other weights; run dougong eval {folder} --card")
    card = (folder / CARD).read_text("utf-8")
    if card_with_results(card, results) != card:
        sys.exit(f"{folder / CARD} shows other results; run dougong eval {folder} --card")


def main(folder: str, name: str) -> None:
    """Checks, then replaces."""
    check(Path(folder))
    shipped = SHIPPED_MODELS / name
    shutil.rmtree(shipped, ignore_errors=True)
    shutil.copytree(folder, shipped)


if __name__ == "__main__":
    main(*sys.argv[1:])
