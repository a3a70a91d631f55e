"""`python -m experiments.attention`: trains and measures every kind, or goes on with it.

Pieces can run one at a time (`--kind v4`), each in a process with one thread. A kind's checkpoints,
log.jsonl and measured.json stand in the folder; `--record` takes them into this package.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from dougong.plan.records import Record, append_records
from dougong.train.heap import keep_freed_memory
from experiments.attention.kinds import KINDS, build, num_parameters
from experiments.attention.measuring import CONTEXTS, decode_ms, measure
from experiments.attention.results import Measured, decode_records, draw, quality_records, table
from experiments.attention.training import learning, train, trained

RESULTS = "measured.json"  # of one kind, in its folder; of all, in this package
PACKAGE = Path(__file__).parent


def run_kind(name: str, folder: Path, tokens: int) -> None:
    """Trains and measures one kind, as far as that is not done."""
    if (folder / RESULTS).is_file():
        return
    train(name, folder, tokens)
    model = trained(name, folder)
    found = {"parameters": num_parameters(model), "tokens": tokens, "learning": learning(folder)}
    (folder / RESULTS).write_text(json.dumps(found | measure(model)) + "\n")


def known() -> Measured:
    """What this package holds of each kind."""
    path = PACKAGE / RESULTS
    return json.loads(path.read_text()) if path.is_file() else {}


def keep(found: Measured, records: Callable[[Measured], list[Record]]) -> None:
    """Adds to what is known, draws the page, and appends the records to bench/results."""
    old = known()
    every = {name: old.get(name, {}) | found.get(name, {}) for name in KINDS}
    every = {name: one for name, one in every.items() if "parameters" in one}
    lines = [f'"{name}": {json.dumps(one)}' for name, one in every.items()]
    (PACKAGE / RESULTS).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    files = [PACKAGE / RESULTS, draw(every, PACKAGE / "attention.png")]
    files += append_records(records(found), "attention")
    print(table(every))
    print("written:", ", ".join(map(str, files)), file=sys.stderr)


def timed() -> Measured:
    """Decode times of every kind. Weights do not change them, so these are as drawn."""
    found: Measured = {}
    for name in KINDS:
        model = build(name).eval()
        found[name] = {"decode_ms": {str(n): decode_ms(model, n) for n in CONTEXTS}}
    return found


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(prog="python -m experiments.attention", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/attention"))
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="default: all")
    parser.add_argument("--tokens", type=int, default=1_400_000, help="of each kind's training")
    parser.add_argument("--record", action="store_true", help="keep what the folder holds")
    parser.add_argument("--time", action="store_true", help="time decoding and keep that")
    words = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if words.time:
        keep(timed(), decode_records)
    elif words.record:
        paths = {name: words.folder / name / RESULTS for name in KINDS}
        found = {name: json.loads(p.read_text()) for name, p in paths.items() if p.is_file()}
        keep(found, quality_records)
    else:
        for name in words.kind or KINDS:
            run_kind(name, words.folder / name, words.tokens)


if __name__ == "__main__":
    main()
