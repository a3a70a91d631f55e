"""`python -m experiments.attention`: trains and measures every kind, or goes on with it.

Pieces can run one at a time (`--kind v4`), each in a process with one thread. What is done is kept
in the folder: checkpoints, log.jsonl and measured.json of each kind.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from dougong.train.heap import keep_freed_memory
from experiments.attention.kinds import KINDS, num_parameters
from experiments.attention.measuring import CONTEXTS, decode_ms, measure
from experiments.attention.results import Measured, draw, keep, table
from experiments.attention.training import train, trained

RESULTS = "measured.json"
PAGE = Path(__file__).parent / "attention.png"


def read(folder: Path) -> Measured:
    """What has been measured so far, in the order of KINDS."""
    paths = {name: folder / name / RESULTS for name in KINDS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def run_kind(name: str, folder: Path, tokens: int) -> None:
    """Trains and measures one kind, as far as that is not done."""
    path = folder / name / RESULTS
    if path.is_file():
        return
    train(name, folder / name, tokens)
    model = trained(name, folder / name)
    found = {"parameters": num_parameters(model), "tokens": tokens, **measure(model)}
    path.write_text(json.dumps(found, indent=1) + "\n")


def time_decoding(folder: Path) -> None:
    """Times decoding of every kind that is measured; wants a machine without other work."""
    for name, found in read(folder).items():
        model = trained(name, folder / name)
        found["decode_ms"] = {str(n): decode_ms(model, n) for n in CONTEXTS}
        (folder / name / RESULTS).write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(prog="python -m experiments.attention", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/attention"))
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="default: all")
    parser.add_argument("--tokens", type=int, default=2_400_000, help="of each kind's training")
    parser.add_argument("--time", action="store_true", help="time decoding of what is measured")
    parser.add_argument("--record", action="store_true", help="append to bench/results, draw")
    words = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if words.time:
        time_decoding(words.folder)
    elif not words.record:
        for name in words.kind or KINDS:
            run_kind(name, words.folder, words.tokens)
    measured = read(words.folder)
    print(table(measured))
    if words.record:
        files = [*keep(measured), draw(measured, PAGE)]
        print("written:", ", ".join(map(str, files)), file=sys.stderr)


if __name__ == "__main__":
    main()
