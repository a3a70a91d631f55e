"""The engine on this machine beside its targets and beside others' engines, in one go.

    python bench/engine_targets.py [--threads 2] [--m97 FOLDER] [--m97-float FOLDER]
        [--llama PYTHON FILE.gguf ...] [--quick] [--record]

`dougong bench engine` on the shipped model (one thread) and on M97; then the peers on the same M97:
llama.cpp decodes the same number of prompts of the same lengths as parallel sequences of one batch,
transformers answers every eighth of them one after another. Tokens are random everywhere, and
written greedily. What is not named is left out. A prompt of a million tokens takes longer than all
of this: `dougong bench engine nano --part long --threads 1`. The targets are those of
docs/engine.md. Near idle is wanted: the load average is printed first.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from cpu_targets import PEERS, Bench, Report

from dougong.cli.engine_speed import prompt_lengths

REQUESTS, NEW_TOKENS, EVERY = 64, 128, 8
OVER_TRANSFORMERS, OVER_LLAMA = 5.0, 1.0
OF_COLD = {"memory": 0.03, "disk": 0.10}
DRAFTS = {"repetitive": 1.3, "not repetitive": 0.97}


def engine(bench: Bench, title: str, model: str, threads: int) -> Report:
    """`dougong bench engine`, its figures printed beside the targets."""
    small = ["--requests", "8", "--new-tokens", "16", "--conversation", "2k", "--steps", "20"]
    report = bench.dougong(title, "engine", model, *small * bench.options.quick, threads=threads)
    for row in report.get("steps", []):
        what = f"overhead of a step of {row['batch']}, of what is allowed"
        bench.judge(what, row["overhead_s"] / row["allowed_s"], 1.0, at_most=True)
        print(f"      bare {row['bare_s'] * 1e6:,.0f} us, overhead {row['overhead_s'] * 1e6:,.0f}")
    if row := report.get("turns"):
        for place, target in OF_COLD.items():
            what = f"second turn from {place} over {row['cold_s']:.3f} s cold"
            bench.judge(what, row[f"{place}_of_cold"], target, at_most=True)
    for row in report.get("drafts", []):
        bench.judge(f"drafts, {row['text']}", row["times"], DRAFTS[row["text"]])
        print(f"      {row['accepted']} of {row['drafted']} drafts right")
    return report


def peer(bench: Bench, title: str, command: list[str]) -> float:
    """Tokens a second that a peer writes, printed and, if asked, recorded under its name."""
    report = bench.run(title, command)
    rate = float(report.get("tokens_per_s", 0.0))
    print(f"   {rate:.1f} tok/s in {report.get('seconds', 0.0):.1f} s")
    if report and bench.options.record:
        from dougong.plan.records import append_records, make_record

        name = "peer." + title.lower().replace(", ", ".").replace(" ", "_")
        typed = " ".join(["python bench/peers/" + Path(command[1]).name, *command[3:]])
        append_records([make_record(f"{name}.requests", rate, "token/s", typed)], "peers")
    return rate


def requests(bench: Bench, ours: Report) -> None:
    """Many requests: our tokens a second over the peers'."""
    options = bench.options
    count, new_tokens = (8, 16) if options.quick else (REQUESTS, NEW_TOKENS)
    lengths = prompt_lengths(count)
    words = ["--new-tokens", str(new_tokens), "--threads", str(options.threads), "--prompts"]
    python, *files = options.llama or [""]
    all_of_them, some = (",".join(map(str, each)) for each in (lengths, lengths[::EVERY]))
    llama, others = [], []
    for file in files:
        command = [python, str(PEERS / "llama_cpp_batch.py"), file, *words, all_of_them]
        llama.append(peer(bench, f"llama.cpp, {Path(file).name}", command))
    for dtype in ("float32", "bfloat16") if options.m97_float else ():
        command = [sys.executable, str(PEERS / "transformers_requests.py"), options.m97_float]
        command += ["--dtype", dtype, *words, some]
        others.append(peer(bench, f"transformers, {dtype}", command))
    if not (row := ours.get("requests")):
        return
    print(f"\n== {count} requests: {row['tokens_per_s']:.1f} tok/s in {row['seconds']:.1f} s")
    for name, rates, target in (
        ("llama.cpp", llama, OVER_LLAMA),
        ("transformers", others, OVER_TRANSFORMERS),
    ):
        if best := max(rates, default=0.0):
            bench.judge(f"over {name}' {best:.1f} tok/s", row["tokens_per_s"] / best, target)


def main() -> None:
    """Measures, prints, and says last which targets were missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--m97", default="m97", help="M97 in the published formats")
    parser.add_argument("--m97-float", help="M97 in float32, for transformers")
    parser.add_argument(
        "--llama", nargs="+", help="llama-cpp-python's interpreter, then GGUF files"
    )
    parser.add_argument("--quick", action="store_true", help="few and short: a trial")
    parser.add_argument("--record", action="store_true", help="append to bench/results")
    bench, began = Bench(parser.parse_args()), time.monotonic()
    print(f"load average before: {os.getloadavg()[0]:.2f} (near 0 is wanted)")
    engine(bench, "nano, one thread", "nano", 1)
    ours = engine(bench, "M97", bench.options.m97, bench.options.threads)
    requests(bench, ours)
    print(f"\n{time.monotonic() - began:.0f} s; missed: {'; '.join(bench.missed) or 'nothing'}")


if __name__ == "__main__":
    main()
