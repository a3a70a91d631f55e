"""Is the reference model at least as fast as transformers on M97, in less memory?

    python bench/reference_speed.py [--rounds 3] [--threads 2] [--record]

Both read one random checkpoint (96.9 M parameters, preset m97), batch 1, float32. They run in turn,
each in a process of its own, so that a drifting machine hits both. Per process: prefill of 2,048
tokens in chunks of 1,024 (best for transformers) and in one call, then 20 cached decode steps; the
best prefill and the median step count. Quoted: the median over the rounds of the paired ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT, CHUNK, STEPS, WARM_UP = 2048, 1024, 20, 4
SYSTEMS = ("dougong", "transformers")
UNITS = {"prefill_chunked": "token/s", "prefill_one_call": "token/s", "decode": "token/s"}


def make_checkpoint(folder: Path) -> None:
    """A random M97 in the published names, float32."""
    from dougong.checkpoint import write_checkpoint
    from dougong.config import load_config
    from dougong.model.initialize import initialize
    from dougong.model.loading import published_tensors
    from dougong.model.transformer import Transformer

    model = initialize(Transformer(load_config("m97")), seed=0)
    write_checkpoint(folder, model.config, published_tensors(model), layout="official")


def dougong_runner(folder: str) -> tuple[Callable[[Any, Any], Any], Callable[[], Any]]:
    """(feed(ids [1, n], memory) -> memory, fresh memory) for our reference."""
    from dougong.model.loading import load_model

    model = load_model(folder)

    def feed(ids: Any, memory: Any) -> Any:
        model.logits(model(ids[0], [ids.shape[1]], [memory])[-1:])
        return memory

    return feed, model.new_state


def transformers_runner(folder: str) -> tuple[Callable[[Any, Any], Any], Callable[[], Any]]:
    """The same for transformers' DeepseekV4ForCausalLM."""
    import torch
    from transformers import DeepseekV4ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = DeepseekV4ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def feed(ids: Any, memory: Any) -> Any:
        out = model(ids, past_key_values=memory, use_cache=True, logits_to_keep=1)
        return out.past_key_values

    return feed, lambda: None


def measure(system: str, folder: str, threads: int) -> dict[str, float]:
    """One process's figures."""
    import torch

    torch.set_num_threads(threads)
    feed, fresh = (dougong_runner if system == "dougong" else transformers_runner)(folder)
    ids = torch.randint(2, 32000, (1, CONTEXT + 100), generator=torch.Generator().manual_seed(0))

    def prefill(chunk: int) -> tuple[float, Any]:
        memory, start = fresh(), time.perf_counter()
        for low in range(0, CONTEXT, chunk):
            memory = feed(ids[:, low : low + chunk], memory)
        return time.perf_counter() - start, memory

    with torch.inference_mode():
        runs = [prefill(CHUNK) for _ in range(3)]
        memory, steps = runs[-1][1], []
        for at in range(CONTEXT, CONTEXT + WARM_UP + STEPS):
            start = time.perf_counter()
            memory = feed(ids[:, at : at + 1], memory)
            steps.append(time.perf_counter() - start)
        one_call = min(prefill(CONTEXT)[0] for _ in range(2))
    return {
        "prefill_chunked": CONTEXT / min(seconds for seconds, _ in runs),
        "prefill_one_call": CONTEXT / one_call,
        "decode": 1 / statistics.median(steps[WARM_UP:]),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def in_own_process(system: str, folder: str, threads: int) -> dict[str, float]:
    """`measure` in a fresh interpreter."""
    command = [sys.executable, __file__, "--child", system, folder, "--threads", str(threads)]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Parses the command line; measures, prints a table, records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append to bench/results")
    parser.add_argument("--child", nargs=2, metavar=("SYSTEM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child, options.threads)))
        return
    print(f"load average before: {os.getloadavg()[0]:.2f} (near 0 is wanted)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder) / "m97")
        rounds = [
            {name: in_own_process(name, f"{folder}/m97", options.threads) for name in SYSTEMS}
            for _ in range(options.rounds)
        ]
    report(rounds, options)


def report(rounds: list[dict[str, dict[str, float]]], options: argparse.Namespace) -> None:
    """Prints medians and paired ratios; appends records if asked."""
    print(f"{'':18}{'dougong':>10}{'transformers':>14}{'ratio':>8}")
    command = f"python bench/reference_speed.py --threads {options.threads}"
    records = []
    for key in (*UNITS, "peak_memory"):
        ours, theirs = (statistics.median(r[name][key] for r in rounds) for name in SYSTEMS)
        ratio = statistics.median(r["dougong"][key] / r["transformers"][key] for r in rounds)
        unit = UNITS.get(key, "MB")
        print(f"{key:18}{ours:10.1f}{theirs:14.1f}{ratio:8.2f}  {unit}")
        for system, value in zip(SYSTEMS, (ours, theirs), strict=True):
            records.append((f"reference.m97.{key}.{system}", value, unit))
        records.append((f"reference.m97.{key}.ratio", ratio, "1"))
    if options.record:
        from dougong.plan.records import append_records, make_record

        rows = [make_record(name, value, unit, command) for name, value, unit in records]
        append_records(rows, "reference-speed")


if __name__ == "__main__":
    main()
