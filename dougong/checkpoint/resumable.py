"""Writing a checkpoint a tensor at a time so that a run that was killed goes on where it stopped.

The files grow in `<folder>.partial`; a journal in it says which tensors are on the disk. Nothing is
called `folder` before all is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.checkpoint.journal import Journal
from dougong.checkpoint.writer import CheckpointWriter, open_writer
from dougong.config import ModelConfig

Row = dict[str, Any]
Progress = Callable[[int, int], None]
SYNC_S = 1.0  # how often finished tensors are made safe; a run that is killed loses no more


@dataclass(frozen=True)
class Job:
    """What is to be written, and what tells an unfinished run of it from one of another.

    folder:      where the checkpoint will be.
    journal:     the journal's file name; it stays beside the weights if `keep_journal`.
    identity:    arguments and source, as JSON values.
    shard_bytes: of a file at most; None is a file for each layer, as released.
    """

    folder: Path
    config: ModelConfig
    journal: str
    identity: Row
    shard_bytes: int | None
    companions: Iterable[Path] = ()
    keep_journal: bool = False
    sync_s: float = SYNC_S


@dataclass(frozen=True)
class Finished:
    """The journal's row of each tensor, those of earlier runs first, and the weights' bytes."""

    rows: tuple[Row, ...]
    resumed: int
    nbytes: int


def write_resumably(
    job: Job,
    sizes: Mapping[str, int],
    write: Callable[[CheckpointWriter, str], Row],
    progress: Progress | None = None,
) -> Finished:
    """Has `write` put every tensor of `sizes` into the writer and say a row, with its name, on it.

    progress: told the bytes done and to do, both as `sizes` counts them. Raises CheckpointError if
    `folder` is taken, if an unfinished run of another job is in the way, or if the disk refuses.
    """
    folder = job.folder.absolute()
    partial = folder.with_name(f"{folder.name}.partial")
    with Journal(partial / job.journal, job.identity) as journal:
        resumed = len(journal.rows)
        try:
            with open_writer(
                folder, job.config, "official", shard_bytes=job.shard_bytes,
                companions=job.companions, partial=partial,
            ) as writer:  # fmt: skip
                _fill(writer, journal, dict(sizes), write, progress, job.sync_s)
                if not job.keep_journal:
                    (partial / job.journal).unlink()
        finally:
            if not journal.rows:  # nothing to go on from
                shutil.rmtree(partial, ignore_errors=True)
    return Finished(tuple(journal.rows), resumed, writer.nbytes)


def _fill(
    writer: CheckpointWriter,
    journal: Journal,
    sizes: dict[str, int],
    write: Callable[[CheckpointWriter, str], Row],
    progress: Progress | None,
    sync_s: float,
) -> None:
    """Writes what the journal does not have yet, and notes it there once it is on the disk."""
    finished = [row["name"] for row in journal.rows]
    for name in finished:
        writer.skip(name)
    total, done = sum(sizes.values()), sum(sizes.pop(name) for name in finished)

    def save() -> None:
        writer.sync()
        journal.save()

    try:
        for name, size in sizes.items():
            journal.add(write(writer, name))
            if journal.seconds_unsaved() >= sync_s:
                save()
            done += size
            if progress is not None:
                progress(done, total)
    finally:  # interrupted or out of disk: what is finished stays finished
        save()
