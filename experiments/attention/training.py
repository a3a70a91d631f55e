"""Trains one kind: the same documents in the same order, the same optimizer, for every kind.

The trainer's own parts (packing, losses, Muon and AdamW, schedule, checkpoints) on the artificial
language. A kind's folder holds its checkpoints and log.jsonl; started again, it goes on.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from dougong.kernels.cpu.library import is_built
from dougong.model.transformer import Transformer
from dougong.train.checkpoint import (
    drop_old_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dougong.train.config import ScheduleConfig
from dougong.train.data.mixture import PackedBatch, pack
from dougong.train.losses import balance_biases, training_loss
from dougong.train.optimizer import Optimizer, clip_gradients
from dougong.train.schedule import lr_factor
from experiments.attention.kinds import KINDS, TOP_TOKENS, build
from experiments.attention.stream import document, haystack
from experiments.attention.teaching import latent_alignment_loss, observed, set_dense

BATCH_TOKENS = 2048
LENGTHS = ((32, 128), (128, 2048))  # of documents, in the first and the second part
SECOND_PART = 0.3  # share of the tokens after which it begins
SPARSE_PART = 0.65  # and indexers select; before it, they learn beside dense attention
HAYSTACKS = 0.2  # share of documents with few facts, asked for at the end
SAVE_EVERY = 100  # steps
CURVE_STEPS = 25  # over which the curve of the loss is averaged
SEED = 1  # of the documents, the same for every kind
LOG_FILE = "log.jsonl"


@dataclass
class Training:
    """A kind while it trains: `step` counts the steps done, of `steps`."""

    name: str
    folder: Path
    model: Transformer
    optimizer: Optimizer
    schedule: ScheduleConfig
    step: int = 0

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return math.ceil(self.schedule.tokens / BATCH_TOKENS)


def draw_batch(seed: int, step: int, share_done: float) -> PackedBatch:
    """The documents of one step, a pure function of seed and step; their lengths are log-uniform.

    A long document fills a batch by itself.
    """
    rng = random.Random(f"attention/{seed}/{step}")
    shortest, longest = LENGTHS[share_done >= SECOND_PART]
    documents, room = [], BATCH_TOKENS
    while room >= shortest:
        drawn = math.exp(rng.uniform(math.log(shortest), math.log(longest)))
        length = min(round(drawn), room)
        few = rng.random() < HAYSTACKS
        facts = [n for n in (1, 2, 4, 8, 16) if 8 * n <= length]
        made = haystack(rng, length, rng.choice(facts)) if few else document(rng, length)
        documents.append(made.encoded())
        room -= length
    return pack(documents)


def trainers_backend() -> str:
    """The native operators with gradients, where they are built."""
    return "training" if is_built() else "reference"


def open_training(name: str, folder: Path, tokens: int) -> Training:
    """The kind at its newest checkpoint, or at the beginning."""
    backend = trainers_backend()
    model = build(name, backend=backend, form="naive")
    optimizer = Optimizer(
        dict(model.named_parameters()), model.config.o_groups, native=backend == "training"
    )
    folder.mkdir(parents=True, exist_ok=True)
    schedule = ScheduleConfig(tokens=tokens, decay=0.4)
    training = Training(name, folder, model, optimizer, schedule)
    if (newest := latest_checkpoint(folder)) is not None:
        tensors, values = load_checkpoint(newest)
        kept = {part: {} for part in ("model", "optimizer")}
        for key, tensor in tensors.items():
            part, _, rest = key.partition("/")
            kept[part][rest] = tensor
        model.load_state_dict(kept["model"])
        optimizer.state = kept["optimizer"]
        training.step = int(values["step"])
    return training


def train(name: str, folder: Path, tokens: int) -> Transformer:
    """Trains until `tokens` are read; returns the model."""
    training = open_training(name, folder, tokens)
    began, first = time.perf_counter(), training.step
    while training.step < training.steps:
        line = train_step(training)
        with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if training.step % SAVE_EVERY == 0 or training.step == training.steps:
            save(training)
            speed = (training.step - first) * BATCH_TOKENS / (time.perf_counter() - began)
            sys.stderr.write(
                f"{name}: step {training.step}/{training.steps}  loss {line['loss']:.3f}  "
                f"index {line['index']:.3f}  {speed:,.0f} tokens/s\n"
            )
    return training.model


def train_step(training: Training) -> dict[str, float]:
    """One step; returns its line for the log."""
    model, schedule, step = training.model, training.schedule, training.step
    done = step / training.steps
    batch = draw_batch(SEED, step, done)
    sparse = done >= SPARSE_PART
    model.set_dense_attention(not sparse)
    set_dense(model, TOP_TOKENS if sparse else None)
    align = KINDS[training.name].align and done >= SECOND_PART
    with observed(model, active=align) as seen:
        losses = training_loss(
            model,
            batch,
            mtp_weight=0.0,
            balance_weight=schedule.balance_weight,
            align_index=align,
        )
    index = latent_alignment_loss(seen)
    (losses.total + index).backward()
    norm = clip_gradients(training.optimizer.parameters, schedule.clip)
    factor = lr_factor(schedule, step, step * BATCH_TOKENS, (training.steps - 1) * BATCH_TOKENS)
    training.optimizer.step(schedule.lr * factor)
    balance_biases(model, losses.figures.loads, schedule.balance_rate)
    training.step += 1
    line = losses.figures.line()
    return {
        "step": step,
        "loss": line["loss"],
        "index": line["index"] + index.item(),
        "norm": norm,
        "lr": factor,
    }


def save(training: Training) -> None:
    """Writes a checkpoint and drops older ones."""
    tensors = {f"model/{name}": t for name, t in training.model.state_dict().items()}
    tensors |= {f"optimizer/{name}": t for name, t in training.optimizer.state.items()}
    save_checkpoint(training.folder, training.step, tensors, {"step": training.step})
    drop_old_checkpoints(training.folder, 1)


def learning(folder: Path) -> list[list[float]]:
    """Tokens read and the mean loss of the CURVE_STEPS steps until then, from the log."""
    rows = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    losses = list({row["step"]: row["loss"] for row in rows}.values())  # the last word on a step
    ends = range(CURVE_STEPS, len(losses) + 1, CURVE_STEPS)
    return [[n * BATCH_TOKENS, round(mean(losses[n - CURVE_STEPS : n]), 4)] for n in ends]


def trained(name: str, folder: Path) -> Transformer:
    """The trained model, its indexers selecting, on the trainer's operators."""
    path = latest_checkpoint(folder)
    assert path is not None, f"{folder} holds no checkpoint"
    tensors, _ = load_checkpoint(path)
    model = build(name, backend=trainers_backend(), form="naive")
    weights = {k.removeprefix("model/"): t for k, t in tensors.items() if k.startswith("model/")}
    model.load_state_dict(weights)
    return model.eval()
