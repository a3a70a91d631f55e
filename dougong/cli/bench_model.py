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
    from dougong.model.transformer import Transformer

CHUNK_TOKENS = 1024
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
@options.threads_option
@click.option("--record", is_flag=True, help="Append the figures to bench/results.")
@options.json_option
def command(
    model: str, contexts: list[int], steps: int, backend: str, dtype: str, threads: int | None,
    record: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure a checkpoint, or random weights of a preset in the published formats.

    Prefill is in chunks of 1,024 tokens, from an empty state. Decoding touches a known number of
    weight bytes a token; over the rate of reading memory that is the least time it can take.

    \b
    Example:
      dougong bench model m97 --backend cpu --dtype bfloat16 --contexts 512,8192 --threads 2

    \b
    JSON: model, backend, dtype, threads, weight_bytes_per_token, stream (B/s), figures (context,
    prefill_tokens_per_s, decode_tokens_per_s, of_limit), recorded (files)
    """  # fmt: skip
    sizes = sorted(set(contexts))
    options.set_threads(threads)
    import torch

    from dougong.checkpoint.locate import find_checkpoint, shipped_names
    from dougong.cli.bench_kernels import stream_rate
    from dougong.config import PRESETS

    with tempfile.TemporaryDirectory() as folder:
        made = model in PRESETS and model not in shipped_names()
        place = make_checkpoint(model, Path(folder) / model) if made else find_checkpoint(model)
        figures, weight_bytes = measure(place, sizes, steps, backend, dtype)
    report: dict[str, Any] = {
        "model": model, "backend": backend, "dtype": dtype, "threads": torch.get_num_threads(),
        "weight_bytes_per_token": weight_bytes, "stream": stream_rate(),
        "figures": figures,
    }  # fmt: skip
    for row in figures:
        row["of_limit"] = row["decode_tokens_per_s"] * weight_bytes / report["stream"]
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def make_checkpoint(preset: str, folder: Path) -> Path:
    """Random weights of a preset in the published formats: FP4 experts, FP8 linears, BF16 rest."""
    from dougong.checkpoint import write_checkpoint
    from dougong.config import V4Config, load_config
    from dougong.model.initialize import initialize
    from dougong.model.loading import published_tensors
    from dougong.model.transformer import Transformer

    config = load_config(preset)
    if not isinstance(config, V4Config):
        raise InputError(f"{preset} is no V4 preset; backends are measured on V4 models.")
    model = initialize(Transformer(config), seed=0)
    write_checkpoint(folder, config, published_tensors(model), quantize="fp4+fp8")
    return folder


def measure(
    folder: Path, contexts: list[int], steps: int, backend: str, dtype: str
) -> tuple[list[dict[str, Any]], float]:
    """Figures at each context, and the weight bytes a decode step touches."""
    import torch

    from dougong.api import DTYPES
    from dougong.model.loading import load_model

    model = load_model(folder, dtype=DTYPES[dtype], backend=backend)
    vocab = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (contexts[-1] + steps + WARM_UP_STEPS,), generator=generator)
    figures = []
    with torch.inference_mode():
        model(ids[:8], [8], [model.new_state()])  # pages and tables
        for context in contexts:
            state, start = model.new_state(), time.perf_counter()
            for low in range(0, context, CHUNK_TOKENS):
                chunk = ids[low : min(low + CHUNK_TOKENS, context)]
                streams = model(chunk, [len(chunk)], [state])
            model.logits(streams[-1:])
            prefill_s, times = time.perf_counter() - start, []
            for at in range(context, context + steps + WARM_UP_STEPS):
                start = time.perf_counter()
                model.logits(model(ids[at : at + 1], [1], [state]))
                times.append(time.perf_counter() - start)
            figures.append({
                "context": context,
                "prefill_tokens_per_s": context / prefill_s,
                "decode_tokens_per_s": 1 / median(times[WARM_UP_STEPS:]),
            })  # fmt: skip
    return figures, touched_bytes(model)


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
    made = [
        make_record(
            f"{start}.{kind}_{row['context']}", row[f"{kind}_tokens_per_s"], "token/s", typed
        )
        for row in report["figures"]
        for kind in ("prefill", "decode")
    ]
    return [path.as_posix() for path in append_records(made, "model")]
