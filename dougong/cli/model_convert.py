"""`dougong model convert`: the same model in another layout or number format."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import click

from dougong.cli import options


@click.command("convert")
@click.argument("source", metavar="MODEL")
@click.argument("target", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["official", "transformers"]),
    default="official",
    show_default=True,
    help="Tensor names and files as published, or transformers'.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default=None,
    help="Number type of what is not quantized. [default: the checkpoint's]",
)
@click.option(
    "--quantize",
    type=click.Choice(["fp4+fp8", "fp8"]),
    default=None,
    help="fp4+fp8: routed experts FP4, other linears FP8, as released; fp8: all FP8.",
)
@options.json_option
def command(
    source: str,
    target: Path,
    layout: Literal["official", "transformers"],
    dtype: str | None,
    quantize: str | None,
    as_json: bool,
) -> None:
    """Write MODEL to the new folder FOLDER in another layout or format.

    Tensors whose format stays are copied bit for bit. With neither --dtype nor --quantize the
    official layout keeps the format; the transformers layout is never quantized and has no place
    for the MTP blocks, so they are left out. A float copy of a quantized model has the same weights
    but no quantization_config: `generate` and `chat` then round nothing at run time, unless
    `--rounding release` says so.

    \b
    Examples:
      dougong model convert nano nano-hf --layout transformers --dtype bfloat16
      dougong model convert ./trained ./small --quantize fp4+fp8

    \b
    JSON: source, folder, layout, dtype, quantize, bytes, left_out, rounding (what generate and chat
    will use), seconds
    """  # fmt: skip
    from dougong.checkpoint import convert
    from dougong.checkpoint.locate import find_checkpoint
    from dougong.config import load_config

    start_s = time.monotonic()
    progress = options.Progress("writing", "bytes")
    try:
        written = convert(
            find_checkpoint(source), target, layout=layout, dtype=dtype, quantize=quantize,
            progress=progress.update,
        )  # fmt: skip
    finally:
        progress.close()
    report: dict[str, Any] = {
        "source": source,
        "folder": str(written.folder),
        "layout": layout,
        "dtype": dtype,
        "quantize": quantize,
        "bytes": written.nbytes,
        "left_out": list(written.left_out),
        "rounding": written.config.serving_rounding,
        "seconds": round(time.monotonic() - start_s, 3),
    }
    text = f"{target}: {written.nbytes / 1e6:,.1f} MB of weights in {report['seconds']} s"
    if written.left_out:
        text += f"\nleft out: {len(written.left_out)} tensors of the MTP blocks"
    if load_config(find_checkpoint(source)).serving_rounding != written.config.serving_rounding:
        text += (
            f"\nrounding: {report['rounding']} by default, other than the source's; generate and "
            "chat answer as there with the same --rounding"
        )
    options.emit(report, as_json, text)
