"""Backend cpu on this machine in one go, beside its targets and beside others' engines.

    python bench/cpu_targets.py [--threads 2] [--m97 FOLDER] [--m97-float FOLDER] [--flash FOLDER]
        [--llama PYTHON FILE.gguf ...] [--transformers] [--quick] [--record]

Products (`dougong bench kernels`), then M97 in the published formats as it is served, exactly and
in float32, the shipped model, a Flash-shaped checkpoint in memory and within 8 GiB, then the peers
on the same M97, all within the same minutes. What is not named is left out; without --m97 a random
M97 is measured. Checkpoints: `dougong model make m97 --out FOLDER`, `dougong model make v4-flash
--layers 4 --out FOLDER`; --m97-float is an M97 in float32, which transformers reads.
The targets are those of docs/cpu.md. Near idle is wanted: the load average is printed first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
CONTEXTS, FAR, QUICK = "512,2048,8192,32768", "4096,262144", "512,1024"
TRANSFORMERS_CONTEXTS = "512,8192"  # its steps take as long at each; 32k takes minutes to fill
# Of the best other engine's rate at each context; and the least number of times transformers'.
DECODE_TIMES, PREFILL_TIMES = {512: 1.5, 8192: 4.0, 32768: 8.0}, {2048: 3.0, 8192: 4.0, 32768: 7.0}
OVER_TRANSFORMERS = 10.0
# llama.cpp's best rates as published with these targets, for where it is not measured now.
LLAMA_DECODE, LLAMA_PREFILL = {512: 377, 8192: 159, 32768: 65}, {2048: 1956, 8192: 1406, 32768: 590}
FLASH_OVER_LIMIT, LONG_OVER_SHORT, OF_DISK = 1.3, 1.15, 0.7

Report = dict[str, Any]


class Bench:
    """Runs one measurement after the other, each in a process of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
        self.contexts, self.far = (QUICK, QUICK) if options.quick else (CONTEXTS, FAR)
        self.missed: list[str] = []

    def run(self, title: str, command: Sequence[str]) -> Report:
        """The JSON object that a command prints; {} if it fails, which is said."""
        began = time.monotonic()
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        print(f"\n== {title} ({time.monotonic() - began:.0f} s)", flush=True)
        if done.returncode:
            print("   failed: " + (done.stderr.strip().splitlines() or ["no message"])[-1])
            self.missed.append(title)
            return {}
        report: Report = json.loads(done.stdout.splitlines()[-1])
        return report

    def dougong(self, title: str, *words: str, threads: int | None = None) -> Report:
        """One `dougong bench` command."""
        command = [sys.executable, "-m", "dougong.cli.main", "bench", *words, "--json"]
        command += ["--threads", str(threads or self.options.threads)]
        return self.run(title, command + ["--record"] * self.options.record)

    def model(self, title: str, *words: str, threads: int | None = None) -> Report:
        """`dougong bench model`, its figures printed."""
        report = self.dougong(title, "model", *words, threads=threads)
        for row in report.get("figures", []):
            print(f"   {row['context']:>7}  {describe(row)}")
        return report

    def peer(self, title: str, command: Sequence[str]) -> Report:
        """Another engine's figures, printed and, if asked, recorded under its name."""
        report = self.run(title, command)
        name = "peer." + title.lower().replace(", ", ".")
        typed, figures = " ".join(["python bench/peers/" + Path(command[1]).name, *command[3:]]), []
        for row in report.get("figures", []):
            print(f"   {row['context']:>7}  {describe(row)}")
            for key in ("prefill", "decode"):
                figures.append((f"{name}.{key}_{row['context']}", row[f"{key}_tokens_per_s"]))
        if self.options.record:
            from dougong.plan.records import append_records, make_record

            rows = [make_record(each, value, "token/s", typed) for each, value in figures]
            append_records(rows, "peers")
        return report

    def judge(self, what: str, value: float, target: float, *, at_most: bool = False) -> None:
        """Prints a figure beside its target."""
        met = value <= target if at_most else value >= target
        sign = "<=" if at_most else ">="
        print(f"   {what}: {value:.2f} (target {sign} {target:g}){'' if met else '  missed'}")
        if not met:
            self.missed.append(f"{what} {value:.2f}")


def describe(row: Report) -> str:
    """One context's figures."""
    step_s = 1 / row["decode_tokens_per_s"]
    text = f"prefill {row['prefill_tokens_per_s']:8,.0f} "
    text += f" decode {row['decode_tokens_per_s']:7.1f} tok/s"
    if "operators" not in row:
        return text
    scoring_s = row["operators"].get("index", 0.0)
    text += f"  scoring {scoring_s * 1e3:6.3f} rest {(step_s - scoring_s) * 1e3:6.3f} ms"
    text += f"  {row['weight_bytes'] / 1e6:7.1f} MB at {row['stream'] / 1e9:4.1f} GB/s"
    text += f" {1 / row['of_limit']:5.2f}x of the least time"
    if "disk" in row:
        text += f"; {row['bytes_read_per_token'] / 1e6:.0f} MB missed a token, disk "
        text += f"{row['disk'] / 1e9:.2f} GB/s, {row['of_disk_limit']:.0%} of the bound"
    return text


def rates(report: Report, key: str) -> dict[int, float]:
    """Context -> tokens a second."""
    return {row["context"]: row[f"{key}_tokens_per_s"] for row in report.get("figures", [])}


def kernels(bench: Bench) -> None:
    """Products with two threads and, of one row, with one."""
    rows = [word for count in (1, 17, 128, 512) for word in ("--rows", str(count))]
    for threads, chosen in ((bench.options.threads, rows), (1, ["--rows", "1"])):
        report = bench.dougong(f"products, {threads} threads", "kernels", *chosen, threads=threads)
        for row in report.get("products", []):
            if row["target"] is not None:
                of = row["of_stream"] if row["rows"] == 1 else row["of_torch"]
                name = f"{row['shape']} {row['format']} {row['dtype']} rows {row['rows']}"
                bench.judge(name, of, row["target"])


def long_context(bench: Bench, m97: str) -> None:
    """Decode far out, index scoring apart, and the growth of the state."""
    report = bench.model("M97, far out", m97, "--contexts", bench.far)
    if not (figures := report.get("figures")):
        return
    rest = [1 / row["decode_tokens_per_s"] - row["operators"]["index"] for row in figures]
    bench.judge(
        "decode far out over near, scoring apart", rest[1] / rest[0], LONG_OVER_SHORT, at_most=True
    )
    grown, predicted, resident = (
        figures[1][key] for key in ("state_bytes", "state_bytes_predicted", "resident_growth")
    )
    print(f"   state {grown:,} B, predicted {predicted:,} B, process {resident:,} B")


def flash(bench: Bench, folder: str) -> None:
    """The Flash-shaped checkpoint in memory, then within a budget."""
    whole = bench.model("Flash-shaped, in memory", folder, "--contexts", "512")
    for row in whole.get("figures", []):
        bench.judge("step over the least time", 1 / row["of_limit"], FLASH_OVER_LIMIT, at_most=True)
    budget = bench.model("Flash-shaped, 8 GiB", folder, "--contexts", "512", "--memory", "8GiB")
    for row in budget.get("figures", []):
        bench.judge("share of the disk's bound", row["of_disk_limit"], OF_DISK)


def peers(bench: Bench) -> tuple[list[Report], list[Report]]:
    """llama.cpp's reports, one a file, and transformers', one a dtype."""
    options, threads = bench.options, ["--threads", str(bench.options.threads)]
    llama, others = [], []
    python, *files = options.llama or [""]
    for file in files:
        command = [python, str(PEERS / "llama_cpp_speed.py"), file, *threads]
        command += ["--contexts", bench.contexts]
        llama.append(bench.peer(f"llama.cpp, {Path(file).name}", command))
    for dtype in ("float32", "bfloat16") if options.transformers and options.m97_float else ():
        command = [sys.executable, str(PEERS / "transformers_speed.py"), options.m97_float]
        contexts = QUICK if options.quick else TRANSFORMERS_CONTEXTS
        command += ["--dtype", dtype, "--contexts", contexts, *threads]
        others.append(bench.peer(f"transformers, {dtype}", command))
    return llama, others


def compare(bench: Bench, ours: Report, llama: list[Report], others: list[Report]) -> None:
    """M97's rates over the best of each peer."""
    print("\n== M97 over the peers' best format")
    wanted = {"decode": (DECODE_TIMES, LLAMA_DECODE), "prefill": (PREFILL_TIMES, LLAMA_PREFILL)}
    for key, (targets, published) in wanted.items():
        for context, rate in rates(ours, key).items():
            if context in targets:
                now = [rates(report, key).get(context, 0.0) for report in llama]
                best = max(now, default=0.0) or published[context]
                what = f"{key} at {context} over {best:,.0f} tok/s"
                bench.judge(what, rate / best, targets[context])
    for context, rate in rates(ours, "decode").items():
        if best := max(
            (rates(report, "decode").get(context, 0.0) for report in others), default=0.0
        ):
            what = f"decode at {context} over transformers' {best:,.0f} tok/s"
            bench.judge(what, rate / best, OVER_TRANSFORMERS)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--m97", default="m97", help="M97 in the published formats")
    parser.add_argument("--m97-float", help="M97 in float32")
    parser.add_argument("--flash", help="a V4-Flash of four layers")
    parser.add_argument(
        "--llama", nargs="+", help="llama-cpp-python's interpreter, then GGUF files"
    )
    parser.add_argument("--transformers", action="store_true", help="measure it on --m97-float")
    parser.add_argument("--quick", action="store_true", help="short contexts, no products: a trial")
    parser.add_argument("--record", action="store_true", help="append to bench/results")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, and says last which targets were missed."""
    options, began = arguments(), time.monotonic()
    bench = Bench(options)
    print(f"load average before: {os.getloadavg()[0]:.2f} (near 0 is wanted)")
    m97, contexts = options.m97, ["--contexts", bench.contexts]
    ours = bench.model("M97 as served (bfloat16, the release's rounding)", m97, *contexts)
    bench.model("M97, bfloat16, no rounding", m97, "--rounding", "none", *contexts)
    llama, others = peers(bench)
    compare(bench, ours, llama, others)
    exact = ["--dtype", "float32", "--rounding", "none"]
    bench.model("M97, float32 arithmetic", m97, *exact, *contexts)
    if options.m97_float:
        bench.model("M97, float32 weights", options.m97_float, *exact, *contexts)
    nano = ["nano", "--contexts", "512,2048"]
    bench.model("nano as served, one thread", *nano, threads=1)
    bench.model("nano, float32, one thread", *nano, *exact, threads=1)
    long_context(bench, m97)
    if options.flash:
        flash(bench, options.flash)
    if not options.quick:
        kernels(bench)
    print(f"\n{time.monotonic() - began:.0f} s; missed: {'; '.join(bench.missed) or 'nothing'}")


if __name__ == "__main__":
    main()
