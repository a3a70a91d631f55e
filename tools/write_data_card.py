"""Writes the data section of a model's card from the configuration that it was trained by.

python tools/write_data_card.py nano dougong/data/models/nano/MODEL_CARD.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from dougong.train.config import load_run_config
from dougong.train.data.card import card_with_data, data_section


def main(preset: str, card: str) -> None:
    """Rewrites the section between the card's marks; the packages are fetched if need be."""
    config = load_run_config(preset)
    section = data_section(config, Path(config.data.folder).expanduser())
    path = Path(card)
    path.write_text(card_with_data(path.read_text("utf-8"), section), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
