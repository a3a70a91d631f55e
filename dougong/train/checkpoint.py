"""Checkpoints of a training run: complete, atomic, free of pickle.

A checkpoint is a folder `step-000123` with state.safetensors (weights, both optimizers' state, the
random state) and run.json (step, configuration). It is written beside and renamed into place, so a
kill at any time leaves either the old or the new one. The data position is the step.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dougong.errors import TrainingError
from dougong.model.transformer import Transformer
from dougong.train.optimizer import Optimizer

STATE_FILE, RUN_FILE = "state.safetensors", "run.json"


def save_checkpoint(
    folder: Path, step: int, model: Transformer, optimizer: Optimizer, run: dict[str, Any]
) -> Path:
    """Writes the state after `step` steps; returns the checkpoint's folder.

    Raises:  TrainingError if it cannot be written (disk full, no permission); older ones stay.
    """
    tensors: dict[str, Tensor] = {"random_state": torch.get_rng_state()}
    tensors |= {f"model/{name}": t.contiguous() for name, t in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": t for name, t in optimizer.state.items()}
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-{step:06d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / STATE_FILE)
        (partial / RUN_FILE).write_text(json.dumps({"step": step, "run": run}, indent=1))
        for name in (STATE_FILE, RUN_FILE):
            _flush(partial / name)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"{final}: the checkpoint could not be written ({error.strerror}); "
            "older ones are intact"
        ) from error
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run's folder, or None."""
    found = sorted(folder.glob("step-[0-9]*"))
    return found[-1] if found else None


def restore_checkpoint(path: Path, model: Transformer, optimizer: Optimizer) -> int:
    """Puts weights, optimizer state and random state back; returns the number of steps done.

    Raises:  TrainingError if the checkpoint does not fit this model.
    """
    tensors = load_file(path / STATE_FILE)
    torch.set_rng_state(tensors.pop("random_state"))
    prefix = "model/"
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    own = model.state_dict()
    same = {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in weights.items()}
    if not same:
        raise TrainingError(
            f"{path}: holds another model's weights; choose another output folder, or the model "
            "that this run began with"
        )
    model.load_state_dict(weights)
    optimizer.state.clear()
    prefix = "optimizer/"
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            optimizer.state[name.removeprefix(prefix)] = tensor
    return int(json.loads((path / RUN_FILE).read_text())["step"])


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
