"""Checkpoints of a training run: complete, atomic, free of pickle.

A checkpoint is a folder `step-000123` with state.safetensors (weights, both optimizers' state, the
average, the random state) and run.json (step, configuration). It is written beside and renamed into
place, so a kill at any time leaves either the old or the new one. The data position is the step.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dougong.errors import TrainingError

STATE_FILE, RUN_FILE = "state.safetensors", "run.json"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], values: dict[str, Any]
) -> Path:
    """Writes the state after `step` steps; returns the checkpoint's folder.

    Raises:  TrainingError if it cannot be written (disk full, no permission); older ones stay.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-{step:06d}"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / STATE_FILE)
        (partial / RUN_FILE).write_text(json.dumps(values, indent=1))
        for name in (STATE_FILE, RUN_FILE):
            _flush(partial / name)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(
            f"{final}: the checkpoint could not be written ({reason}); older ones are intact"
        ) from error
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run's folder, or None."""
    found = sorted(folder.glob("step-[0-9]*"))
    return found[-1] if found else None


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and values that `save_checkpoint` was given.

    Raises:  TrainingError if a file is missing or damaged.
    """
    try:
        return load_file(path / STATE_FILE), json.loads((path / RUN_FILE).read_text())
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(
            f"{path}: the checkpoint cannot be read ({error}); delete this folder to go on from "
            "the one before it"
        ) from error


def load_values(path: Path) -> dict[str, Any]:
    """The values alone, without the tensors.

    Raises:  TrainingError if the file is missing or damaged.
    """
    try:
        values: dict[str, Any] = json.loads((path / RUN_FILE).read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path / RUN_FILE} cannot be read ({error})") from error
    return values


def drop_checkpoints_after(folder: Path, step: int) -> None:
    """Deletes the checkpoints of later steps, but never the oldest one."""
    for path in sorted(folder.glob("step-[0-9]*"))[:0:-1]:
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def drop_old_checkpoints(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints."""
    for path in sorted(folder.glob("step-[0-9]*"))[:-keep]:
        shutil.rmtree(path)


def _flush(path: Path) -> None:
    """Waits until the file (or folder) is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
