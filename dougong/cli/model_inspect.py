"""`dougong model inspect`: what a model is made of and what it costs, beside V3.2."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.cli.values import TOKENS

if TYPE_CHECKING:
    from dougong.config import V3Config, V4Config

YARDSTICK = "v3.2"
KINDS = {
    "swa": "sliding window only",
    "csa": "compressed sparse (4:1, top-k)",
    "hca": "heavily compressed (128:1)",
    "mla": "latent attention (dense)",
    "dsa": "latent attention with top-k",
}
ROWS = (
    ("parameters_total", "parameters, total"),
    ("parameters_active", "parameters, active"),
    ("parameters_mtp", "parameters, MTP"),
    ("checkpoint_bytes", "checkpoint"),
    ("kv_bytes_per_token", "KV cache per token"),
    ("kv_bytes", "KV cache at {context}"),
    ("compressor_state_bytes", "compressors' pending tokens"),
    ("decode_flops_fp8_equivalent", "FLOPs per token at {context}, FP8-equivalent"),
    ("decode_flops", "FLOPs per token at {context}, plain"),
)
# What --json gives of the configuration, under config.json's own keys.
SHAPE = (
    "hidden_size",
    "num_attention_heads",
    "head_dim",
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_shared_experts",
    "moe_intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
# Steps of a thousand, by the first word of a figure's unit.
STEPS = {
    "parameters": ("", "K", "M", "B", "T"),
    "B": ("B", "kB", "MB", "GB", "TB"),
    "FLOP": ("F", "kF", "MF", "GF", "TF"),
}


@click.command("inspect")
@click.argument("model")
@click.option(
    "--context",
    type=TOKENS,
    default="1M",
    show_default=True,
    help="Tokens in the context at which cache and FLOPs are counted.",
)
@options.json_option
def command(model: str, context: int, as_json: bool) -> None:
    """Count MODEL's layers, parameters, bytes, KV cache and FLOPs, beside V3.2's.

    MODEL may also be a config.json or a preset: v4-flash, v4-pro, v3, v3.2, nano, mini, m97.
    FP8-equivalent counts a BF16 operation as 2, FP8 as 1, FP4 as 0.5; plain counts every
    multiply-add as 2.

    \b
    Example:
      dougong model inspect v4-pro --context 128k

    \b
    JSON: model, kind, context_tokens, shape (config.json's keys), layers, hash_routed_layers,
    mtp_blocks, figures and yardstick (each figure: value, unit, formula, source), ratios,
    files_bytes
    """  # fmt: skip
    report = examine(model, context)
    options.emit(report, as_json, describe(report))


def examine(model: str, context: int) -> dict[str, Any]:
    """The figures of `model` and of V3.2, under the keys of `--json`."""
    from dougong.config import V3Config, load_config
    from dougong.plan.formulas import layer_kinds, model_figures

    config, files_bytes = find(model)
    figures = model_figures(config, context)
    yardstick = model_figures(load_config(YARDSTICK), context)
    return {
        "model": model,
        "kind": "v3" if isinstance(config, V3Config) else "v4",
        "context_tokens": context,
        "shape": {key: size for key in SHAPE if (size := getattr(config, key, None)) is not None},
        "layers": dict(Counter(layer_kinds(config))),
        "hash_routed_layers": getattr(config, "num_hash_layers", 0),
        "mtp_blocks": config.num_nextn_predict_layers,
        "figures": {name: figure.as_dict() for name, figure in figures.items()},
        "yardstick": {name: figure.as_dict() for name, figure in yardstick.items()},
        "ratios": {
            name: figure.value / base
            for name, figure in figures.items()
            if figure.value is not None and (base := yardstick[name].value)
        },
        "files_bytes": files_bytes,
    }


def find(model: str) -> tuple[V3Config | V4Config, int | None]:
    """The configuration of a preset or a checkpoint, and the bytes of the checkpoint's files."""
    from dougong.checkpoint.locate import find_checkpoint, shipped_names
    from dougong.config import PRESETS, load_config

    if model in PRESETS and model not in shipped_names():
        return load_config(model), None
    if Path(model).is_file():
        return load_config(Path(model)), None
    folder = find_checkpoint(model)
    if not any(folder.glob("*.safetensors")):
        return load_config(folder), None
    from dougong.checkpoint import open_checkpoint

    files_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return open_checkpoint(folder).config, files_bytes


def describe(report: dict[str, Any]) -> str:
    """The report as a table."""
    context = f"{report['context_tokens']:,}"
    kinds = [f"{count} {KINDS[kind]}" for kind, count in report["layers"].items()]
    lines = [f"{report['model']}: {sum(report['layers'].values())} layers: {', '.join(kinds)}"]
    lines += shape_lines(report["shape"])
    if report["hash_routed_layers"]:
        lines.append(f"experts picked by token id in the first {report['hash_routed_layers']}")
    if report["mtp_blocks"]:
        lines.append(f"MTP blocks: {report['mtp_blocks']}")
    lines += ["", f"{'':<46}{report['model'][-16:]:>16}{'V3.2':>16}{'ratio':>9}"]
    for name, label in ROWS:
        ratio = report["ratios"].get(name)
        values = [human(report[side][name]) for side in ("figures", "yardstick")]
        lines.append(
            f"{label.format(context=context):<46}{values[0]:>16}{values[1]:>16}"
            + ("" if ratio is None else f"{ratio:>9.3g}")
        )
    if report["files_bytes"] is not None:
        size = human({"value": report["files_bytes"], "unit": "B"})
        lines.append(f"{'safetensors files':<46}{size:>16}")
    return "\n".join(lines)


def shape_lines(shape: dict[str, int]) -> list[str]:
    """Heads and experts, in words."""
    size = f" of {shape['head_dim']}" if "head_dim" in shape else ""
    heads = f"{shape['num_attention_heads']} heads{size}, hidden size {shape['hidden_size']:,}"
    if "index_topk" in shape:
        heads += (
            f"; indexer: {shape['index_n_heads']} heads of {shape['index_head_dim']}, "
            f"the best {shape['index_topk']:,} entries"
        )
    experts = (
        f"{shape['n_routed_experts']} experts, {shape['num_experts_per_tok']} a token and "
        f"{shape['n_shared_experts']} shared, {shape['moe_intermediate_size']:,} wide"
    )
    reach = f"{shape['vocab_size']:,} token ids, {shape['max_position_embeddings']:,} positions"
    return [heads, experts, reach]


def human(figure: dict[str, Any]) -> str:
    """A figure in steps of a thousand, such as 284.332 B (parameters) or 3.514 kB."""
    value, step = figure["value"], 0
    steps = STEPS[figure["unit"].split("/")[0]]
    while value >= 1000 and step < len(steps) - 1:
        value, step = value / 1000, step + 1
    return f"{value:,.3f} {steps[step]:<2}"
