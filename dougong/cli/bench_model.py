"""`dougong bench model`: prefill and decode speed, beside the limit that memory sets."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.cli.values import TokenCounts
from dougong.errors import InputError

if TYPE_CHECKING:
    from dougong.model.expert_cache import Traffic
    from dougong.model.state import RequestState
    from dougong.model.transformer import Transformer

WARM_UP_STEPS = 4


@click.command("model")
@click.argument("model", metavar="MODEL|PRESET", default="m97")
@click.option(
    "--contexts",
    type=TokenCounts(),
    default="512,2k,8k",
    show_default=True,
    help="Tokens held when decoding is measured; the prefill leads from one to the next.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=40, show_default=True,
    help="Decode steps at each context; their median counts.",
)  # fmt: skip
@options.backend_option
@options.dtype_option
@options.memory_option
@options.threads_option
@click.option("--record", is_flag=True, help="Append the figures to bench/results.")
@options.json_option
def command(
    model: str, contexts: list[int], steps: int, backend: str, dtype: str, memory: int | None,
    threads: int | None, record: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure a checkpoint, or random weights of a preset in the published formats.

    Prefill is in chunks of 1,024 tokens, from an empty state. Decoding touches a known number of
    weight bytes a token; over the rate of reading memory that is the least time it can take. With
    --memory a step takes no less than reading its missing experts at the disk's rate, which is
    measured first, and no less than its arithmetic; prefill is then in chunks of 4,096.

    \b
    Examples:
      dougong bench model m97 --backend cpu --dtype bfloat16 --contexts 512,8192 --threads 2
      dougong bench model ./flash4 --backend cpu --dtype bfloat16 --contexts 512 --memory 8GiB

    \b
    JSON: model, backend, dtype, threads, memory, weight_bytes_per_token, stream (B/s), figures
    (context, prefill_tokens_per_s, decode_tokens_per_s, of_limit; with --memory also
    prefill_bytes_read, bytes_read_per_token, disk (B/s), waited_s_per_token, of_disk_limit),
    recorded (files)
    """  # fmt: skip
    sizes = sorted(set(contexts))
    options.set_threads(threads)
    import torch

    from dougong.api import DTYPES
    from dougong.checkpoint.locate import find_checkpoint, shipped_names
    from dougong.cli.bench_kernels import stream_rate
    from dougong.config import PRESETS
    from dougong.model.loading import load_model

    with tempfile.TemporaryDirectory() as folder:
        made = model in PRESETS and model not in shipped_names()
        place = random_checkpoint(model, Path(folder) / model) if made else find_checkpoint(model)
        loaded = load_model(place, dtype=DTYPES[dtype], backend=backend, memory_bytes=memory)
        figures = measure(loaded, sizes, steps)
    weight_bytes = touched_bytes(loaded)
    report: dict[str, Any] = {
        "model": model, "backend": backend, "dtype": dtype, "threads": torch.get_num_threads(),
        "memory": memory, "weight_bytes_per_token": weight_bytes, "stream": stream_rate(),
        "figures": figures,
    }  # fmt: skip
    for row in figures:
        row["of_limit"] = row["decode_tokens_per_s"] * weight_bytes / report["stream"]
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def random_checkpoint(preset: str, folder: Path) -> Path:
    """Random weights of a preset in the published formats: FP4 experts, FP8 linears, BF16 rest."""
    from dougong.checkpoint.make import make_checkpoint
    from dougong.config import V4Config, load_config

    config = load_config(preset)
    if not isinstance(config, V4Config):
        raise InputError(f"{preset} is no V4 preset; backends are measured on V4 models.")
    return make_checkpoint(config, folder).folder


def measure(model: Transformer, contexts: list[int], steps: int) -> list[dict[str, Any]]:
    """Figures at each context."""
    import torch

    from dougong.model.generation import pieces, prefill_tokens

    cache = model.expert_cache
    disk = None if cache is None else cache.disk_rate()
    generator = torch.Generator().manual_seed(0)
    count = contexts[-1] + steps + WARM_UP_STEPS
    ids = torch.randint(0, model.config.vocab_size, (count,), generator=generator)

    def seconds(low: int, high: int, state: RequestState) -> float:
        start = time.perf_counter()
        model.logits(model(ids[low:high], [high - low], [state])[-1:])
        return time.perf_counter() - start

    figures = []
    with torch.inference_mode():
        seconds(0, 8, model.new_state())  # pages and tables
        for context in contexts:
            state, empty = model.new_state(), cache and cache.traffic
            chunks = pieces(context, [prefill_tokens(model)])
            prefill_s = sum(seconds(low, high, state) for low, high in chunks)
            read = cache and cache.traffic
            times = [seconds(at, at + 1, state) for at in range(context, context + WARM_UP_STEPS)]
            warm, first = cache and cache.traffic, context + WARM_UP_STEPS
            times = [seconds(at, at + 1, state) for at in range(first, first + steps)]
            row = {
                "context": context,
                "prefill_tokens_per_s": context / prefill_s,
                "decode_tokens_per_s": 1 / median(times),
            }
            if cache and empty and read and warm and disk:
                row["prefill_bytes_read"] = read.since(empty).bytes_read
                row |= from_disk(cache.traffic.since(warm), times, disk)
            figures.append(row)
    return figures


def from_disk(traffic: Traffic, times: list[float], disk: float) -> dict[str, float]:
    """Figures of steps that had to wait for experts: a mean, because steps differ."""
    count, total_s = len(times), sum(times)
    computing_s = total_s - traffic.waited_s
    return {
        "decode_tokens_per_s": count / total_s,
        "bytes_read_per_token": traffic.bytes_read / count,
        "disk": disk,
        "waited_s_per_token": traffic.waited_s / count,
        "of_disk_limit": max(traffic.bytes_read / disk, computing_s) / total_s,
    }


def touched_bytes(model: Transformer) -> float:
    """Weight bytes that one token reads: of the routed experts its top_k, of the embedding none."""
    from dougong.model.loading import stored_matrices

    config = model.config
    share = config.num_experts_per_tok / config.n_routed_experts
    total = 0.0
    sizes = [(name, matrix.nbytes) for name, matrix in stored_matrices(model)]
    sizes += [(name, tensor.nbytes) for name, tensor in model.named_parameters()]
    for name, nbytes in sizes:
        if name == "embed.weight" or name.startswith("mtp."):
            continue
        total += nbytes * (share if ".experts.w" in name else 1)
    return total


def describe(report: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"{report['model']}, backend {report['backend']}, {report['dtype']}, "
        f"{report['threads']} threads; {report['weight_bytes_per_token'] / 1e6:.1f} MB of weights "
        f"a token, memory {report['stream'] / 1e9:.1f} GB/s",
        f"{'context':>8}{'prefill tok/s':>15}{'decode tok/s':>14}{'of the limit':>14}",
    ]
    lines += [
        f"{row['context']:>8}{row['prefill_tokens_per_s']:>15.0f}"
        f"{row['decode_tokens_per_s']:>14.1f}{row['of_limit']:>14.0%}"
        for row in report["figures"]
    ]
    for row in report["figures"]:
        if "disk" in row:
            lines.append(
                f"{row['context']:>8}: {row['bytes_read_per_token'] / 1e6:.1f} MB read a token, "
                f"disk {row['disk'] / 1e9:.2f} GB/s, waited {row['waited_s_per_token'] * 1e3:.1f} "
                f"ms; {row['of_disk_limit']:.0%} of the limit that disk and arithmetic set"
            )
    return "\n".join(lines)


def keep(report: dict[str, Any]) -> list[str]:
    """Appends the figures to bench/results; returns the files."""
    from dougong.plan.records import append_records, make_record

    contexts = ",".join(str(row["context"]) for row in report["figures"])
    typed = (
        f"dougong bench model {report['model']} --backend {report['backend']} "
        f"--dtype {report['dtype']} --threads {report['threads']} --contexts {contexts}"
    )
    name = Path(report["model"]).name.lower()
    start = f"model.{name}.{report['backend']}.{report['dtype']}.t{report['threads']}"
    if report["memory"] is not None:
        typed += f" --memory {report['memory']}B"
        start += f".{report['memory'] / 2**30:.3g}gib"
    made = [
        make_record(
            f"{start}.{kind}_{row['context']}", row[f"{kind}_tokens_per_s"], "token/s", typed
        )
        for row in report["figures"]
        for kind in ("prefill", "decode")
    ]
    return [path.as_posix() for path in append_records(made, "model")]
