"""`dougong model fetch`: a checkpoint from the Hugging Face hub, after saying whether it fits."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from dougong.checkpoint.hub import Offer

PROBE_BYTES = 256 * 2**20  # written and read to learn the disk's rate
KEPT_FREE = 2 * 2**30  # memory left to everything else when a budget is proposed


@click.command("fetch")
@click.argument("name", metavar="ORG/NAME")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option(
    "--out", "folder", default=None, metavar="FOLDER", type=click.Path(path_type=Path),
    help="Where to put it. [default: the local hub cache, where ORG/NAME finds it]",
)  # fmt: skip
@options.memory_option
@click.option("--yes", is_flag=True, help="Fetch it even if it is larger than memory.")
@options.json_option
def command(
    name: str, revision: str, folder: Path | None, memory: int | None, yes: bool, as_json: bool
) -> None:
    """Fetch a checkpoint from the Hugging Face hub, once it is known whether it fits.

    First its configuration and file sizes are looked up and held against this machine: disk,
    memory, and the decode speed that memory's rate (measured now) and, for a checkpoint larger than
    memory, the disk's allow at best. Larger than memory is asked about, or needs --yes. A run that
    was killed goes on at the files that were not whole. HF_TOKEN, HF_ENDPOINT and HF_HUB_CACHE mean
    what they mean to huggingface_hub, which does the transfer (extra `hub`).

    \b
    Example:
      dougong model fetch deepseek-ai/DeepSeek-V4-Flash --memory 16GiB

    \b
    JSON: model, revision, commit, folder, files, bytes, present_bytes, disk_free, memory_available,
    memory (the budget counted with; null: none), fixed_bytes, whole_bytes, least_memory,
    weight_bytes_per_token, disk_bytes_per_token, memory_rate, disk_rate (null: not needed),
    tokens_per_s (at best; null: unknown), seconds
    """  # fmt: skip
    from dougong.checkpoint import open_checkpoint
    from dougong.checkpoint.hub import fetch, look

    start_s = time.monotonic()
    offer = look(name, revision=revision, folder=folder)
    report = survey(offer, memory)
    if not as_json:
        click.echo(describe(report), err=True)
    agree(report, yes=yes)
    progress = options.Progress("fetching", "bytes")
    try:
        place = fetch(offer, progress.update)
    finally:
        progress.close()
    open_checkpoint(place)
    report |= {"folder": str(place), "seconds": round(time.monotonic() - start_s, 3)}
    word = name if folder is None and revision == "main" else place
    options.emit(report, as_json, f"{place}\ntry: dougong generate 'Hello!' --model {word}")


def survey(offer: Offer, memory: int | None) -> dict[str, Any]:
    """The checkpoint against this machine, under the keys of `--json`."""
    from dougong.checkpoint.footprint import footprint
    from dougong.config import V4Config
    from dougong.machine import this_machine

    place = offer.place
    while not place.exists():
        place = place.parent
    available = this_machine().available_bytes
    report: dict[str, Any] = {
        "model": offer.name, "revision": offer.revision, "commit": offer.commit,
        "folder": None, "files": len(offer.files), "bytes": offer.nbytes,
        "present_bytes": offer.present,
        "disk_free": shutil.disk_usage(place).free, "memory_available": available,
        "memory": memory, "fixed_bytes": None, "whole_bytes": None, "least_memory": None,
        "weight_bytes_per_token": None, "disk_bytes_per_token": None, "memory_rate": None,
        "disk_rate": None, "tokens_per_s": None,
    }  # fmt: skip
    if not isinstance(offer.config, V4Config):
        return report  # V3 runs on the reference, to be compared with
    need = footprint(offer.config)
    if memory is None and available is not None and need.whole > available:
        memory = max(available - KEPT_FREE, need.least)
    held = need.whole if memory is None else memory
    report |= {
        "memory": memory, "fixed_bytes": need.fixed, "whole_bytes": need.whole,
        "least_memory": need.least, "weight_bytes_per_token": need.per_token,
        "disk_bytes_per_token": round(need.from_disk(held)), "memory_rate": memory_rate(),
    }  # fmt: skip
    fits_disk = report["disk_free"] > offer.nbytes - report["present_bytes"] + PROBE_BYTES
    if report["disk_bytes_per_token"] and fits_disk:
        report["disk_rate"] = disk_rate(place)
    if report["disk_rate"] or not report["disk_bytes_per_token"]:
        rate = need.tokens_per_s(held, report["memory_rate"], report["disk_rate"] or 1.0)
        report["tokens_per_s"] = rate
    return report


def agree(report: dict[str, Any], *, yes: bool) -> None:
    """Refuses what the disk cannot hold, and asks about what memory cannot."""
    missing, free = report["bytes"] - report["present_bytes"], report["disk_free"]
    if missing > free:
        raise CheckpointError(
            f"{report['model']} needs {missing:,} bytes more on the disk and {free:,} are free; "
            "make room, or choose another place with --out."
        )
    available, whole = report["memory_available"], report["whole_bytes"]
    if yes or available is None or whole is None or whole <= available:
        return
    least = report["least_memory"]
    what = f"{report['model']} has {whole:,} bytes of weights and {available:,} of memory are there"
    if least > available:
        what += f"; even with --memory it needs {least:,}"
    if not sys.stdin.isatty():
        raise InputError(f"{what}; add --yes to fetch it all the same.")
    click.confirm(f"{what}. Fetch it all the same?", abort=True, err=True)


def memory_rate() -> float:
    """Bytes a second that all cores read from memory, measured in less than a second."""
    from dougong.cli.bench_kernels import stream_rate
    from dougong.cli.bench_stream import read_rate
    from dougong.kernels.cpu.library import is_built

    return stream_rate() if is_built() else read_rate(256 * 10**6)


def disk_rate(folder: Path) -> float:
    """Bytes a second of reads past the page cache, of a file written for that and removed."""
    from dougong.checkpoint import Extent
    from dougong.model.expert_slots import Slots, plan_reads

    with tempfile.NamedTemporaryFile(dir=folder, prefix=".dougong-probe-") as file:
        piece = os.urandom(2**24)
        for _ in range(PROBE_BYTES // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        starts = range(0, PROBE_BYTES, len(piece))
        plans = [plan_reads([Extent(Path(file.name), at, at + len(piece))]) for at in starts]
        slots = Slots(4, len(piece))
        for read in [slots.fill(i % 4, plan) for i, plan in enumerate(plans)]:
            read.result()
    return slots.bytes_read / slots.busy_s


def describe(report: dict[str, Any]) -> str:
    """What is known before fetching."""
    here = f", {report['present_bytes'] / 1e9:,.1f} GB of them here" * bool(report["present_bytes"])
    lines = [
        f"{report['model']} at {report['commit'][:12]}: {report['bytes'] / 1e9:,.1f} GB in "
        f"{report['files']} files{here}; {report['disk_free'] / 1e9:,.1f} GB free on the disk"
    ]
    if report["whole_bytes"] is None:
        return lines[0]
    available = report["memory_available"]
    if available is not None:
        lines.append(
            f"memory: {report['whole_bytes'] / 2**30:,.1f} GiB of weights in use, "
            f"{available / 2**30:,.1f} GiB available"
        )
    if report["memory"] is not None:
        lines[-1] += (
            f"; with --memory {report['memory'] / 2**30:,.1f}GiB "
            f"{report['disk_bytes_per_token'] / 1e6:,.0f} MB a token come from the disk "
            f"(all experts used alike; {report['least_memory'] / 2**30:,.1f} GiB is the least)"
        )
    if report["tokens_per_s"] is not None:
        disk = f", disk {report['disk_rate'] / 1e9:.1f} GB/s" if report["disk_rate"] else ""
        lines.append(
            f"decode: {report['weight_bytes_per_token'] / 1e9:,.2f} GB of weights a token; at most "
            f"{report['tokens_per_s']:.2g} tokens/s here (memory "
            f"{report['memory_rate'] / 1e9:.1f} GB/s{disk})"
        )
    return "\n".join(lines)
