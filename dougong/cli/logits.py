"""`dougong logits`: what a model computes for given token ids, to compare engines by."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.cli.values import TokenCounts
from dougong.errors import InputError

if TYPE_CHECKING:
    import torch

    from dougong.api import Model


class Chunks(TokenCounts):
    """Piece sizes such as 1,7,128; a closing `...` is allowed and changes nothing."""

    name = "sizes"

    def convert(
        self, value: str | list[int], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """The sizes, each 1 or more."""
        return super().convert(
            value.removesuffix(",...") if isinstance(value, str) else value, param, ctx
        )


@click.command("logits")
@click.argument("model")
@click.option(
    "--tokens",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Safetensors file with `input_ids`, int64 [B, S].",
)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Safetensors file to write `logits` [B, S, V] to.",
)
@options.backend_option
@options.fallback_option
@options.dtype_option
@options.rounding_option
@click.option(
    "--chunks",
    type=Chunks(),
    default=None,
    help="Cut each sequence into pieces of these sizes, the last one repeating.",
)
@click.option("--mtp", is_flag=True, help="Write `mtp_logits` [B, S-1, V] of MTP block 0 as well.")
@options.threads_option
@options.json_option
def command(
    model: str, tokens: Path, out: Path, backend: str, no_fallback: bool, dtype: str, rounding: str,
    chunks: list[int] | None, mtp: bool, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Write MODEL's logits for every position of the sequences in a file.

    Logits are float32, or float64 with --dtype float64.

    \b
    Example:
      dougong logits nano --tokens ids.safetensors --out logits.safetensors --chunks 1,7,128

    \b
    JSON: model, out, batch, tokens_per_sequence, vocab_size, dtype, mtp, seconds
    """
    check_paths(tokens, out)
    from dougong.api import load

    start_s = time.monotonic()
    ids_BS = read_tokens(tokens)
    fallback = not no_fallback
    loaded = load(model, backend=backend, fallback=fallback, dtype=dtype, rounding=rounding)
    options.choose_threads(threads, loaded)
    tensors = compute(loaded, ids_BS, chunks, mtp)
    write(tensors, out)
    batch, num_tokens, vocab_size = tensors["logits"].shape
    report: dict[str, Any] = {
        "model": model,
        "out": str(out),
        "batch": batch,
        "tokens_per_sequence": num_tokens,
        "vocab_size": vocab_size,
        "dtype": str(tensors["logits"].dtype).removeprefix("torch."),
        "mtp": mtp,
        "seconds": round(time.monotonic() - start_s, 3),
    }
    text = "{out}: {batch} x {tokens_per_sequence} x {vocab_size} logits, {dtype}, {seconds} s"
    options.emit(report, as_json, text.format(**report))


def check_paths(tokens: Path, out: Path) -> None:
    """Refuses what would fail only after a long computation, or overwrite the input."""
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.absolute().parent} does not exist.")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is no ordinary file; name one, or a new name.")
    if out.exists() and tokens.exists() and out.samefile(tokens):
        raise InputError(f"--out {out} is the file with the tokens; name another one.")


def read_tokens(path: Path) -> torch.Tensor:
    """`input_ids` int64 [B, S] of a safetensors file.

    Raises InputError if the file or the tensor is missing, unreadable, or of another kind.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"--tokens {path}: there is no such file.")
    try:
        with safe_open(path, "pt") as file:
            if "input_ids" not in file.keys():  # noqa: SIM118 - not a dict
                raise InputError(f"--tokens {path}: it has no tensor named input_ids.")
            ids_BS: torch.Tensor = file.get_tensor("input_ids")
    except SafetensorError as error:
        raise InputError(f"--tokens {path}: not a safetensors file ({error}).") from error
    if ids_BS.dtype != torch.int64 or ids_BS.dim() != 2 or ids_BS.numel() == 0:
        raise InputError(
            f"--tokens {path}: input_ids is {ids_BS.dtype} {list(ids_BS.shape)}; "
            "expected int64 [B, S] with at least one token."
        )
    return ids_BS


def compute(
    model: Model, ids_BS: torch.Tensor, chunks: list[int] | None, mtp: bool
) -> dict[str, torch.Tensor]:
    """`logits` [B, S, V] and, if asked for, `mtp_logits` [B, S - 1, V]; float32 or float64."""
    import torch

    from dougong.machine import require_memory

    batch, num_tokens = ids_BS.shape
    # Once per sequence and once more stacked.
    itemsize = 8 if next(model.transformer.parameters()).dtype == torch.float64 else 4
    num_bytes = ids_BS.numel() * model.config.vocab_size * itemsize * 2 * (2 if mtp else 1)
    require_memory(num_bytes, f"{batch} x {num_tokens} logits", "give fewer tokens at a time")
    progress = options.Progress("logits")
    main: list[torch.Tensor] = []
    drafted: list[torch.Tensor | None] = []
    for ids_S in ids_BS:
        before = len(main) * num_tokens

        def report(done: int, of: int, before: int = before) -> None:
            progress.update(before + done, batch * num_tokens)

        logits_SV, mtp_SV = model.all_logits(ids_S, chunks, mtp=mtp, report=report)
        main.append(logits_SV)
        drafted.append(mtp_SV)
    progress.close()
    tensors = {"logits": torch.stack(main)}
    if mtp:
        tensors["mtp_logits"] = torch.stack([part for part in drafted if part is not None])
    return tensors


def write(tensors: dict[str, torch.Tensor], out: Path) -> None:
    """Writes the file whole or not at all: a reader never sees half of it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    out = out.resolve()  # a link keeps pointing at the file
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.touch()  # with the permissions of any new file; save_file alone makes it private
        mode = partial.stat().st_mode
        save_file(tensors, partial)
        partial.chmod(mode)
        partial.replace(out)
    except SafetensorError as error:
        raise InputError(f"--out {out} cannot be written: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)
