"""The training loop: packed batches, a line in the log each step, a checkpoint every few minutes.

A run is a folder. Started again with the same configuration it goes on from its newest checkpoint
with the losses that it would have had anyway: batches are functions of (seed, step) and everything
else that moves is in the checkpoint.
"""

from __future__ import annotations

import math
import time
from typing import Any

from dougong.errors import TrainingError
from dougong.train.config import RunConfig
from dougong.train.data.mixture import PackedBatch
from dougong.train.heap import keep_freed_memory
from dougong.train.losses import Sums, balance_biases, training_loss
from dougong.train.optimizer import clip_gradients
from dougong.train.progress import draw_curve
from dougong.train.quantize_aware import as_served, wide_tiles
from dougong.train.run import Run, open_run


def train(config: RunConfig, *, quiet: bool = False) -> Run:
    """Trains until the schedule's last step and returns the finished run."""
    run = open_run(config, quiet=quiet)
    keep_freed_memory()
    while not run.done:
        num_tokens = run.steps[run.step].batch_tokens
        line, seconds = train_step(run)
        output = config.output
        show = run.step % output.log_every == 0 or run.done
        run.progress.record(line, num_tokens, seconds, show=show)
        if run.step % output.save_every == 0 or run.done:
            run.save()
            draw_curve(run.folder)
    return run


def train_step(run: Run) -> tuple[dict[str, Any], float]:
    """One step: its line for the log and its seconds.

    Raises:  TrainingError at a loss that is not finite; nothing is saved then.
    """
    began = time.perf_counter()
    plan, step, phase = run.config.schedule, run.steps[run.step], run.phase
    batch = run.mixtures[step.phase].batch(step.index, step.batch_tokens)
    with as_served(run.model, active=phase.quantized):
        losses = _accumulate(run, batch)
    norm = clip_gradients(run.optimizer.parameters, plan.clip)
    run.optimizer.step(plan.lr * step.lr)
    balance_biases(run.model, losses.loads, plan.balance_rate)
    run.step += 1
    if plan.average:
        run.average.update(run.step)
    seconds = time.perf_counter() - began
    line = {
        "step": step.index,
        "phase": step.phase,
        "tokens": run.tokens,
        **losses.figures,
        **losses.load_figures(),
        **losses.clamp_figures(),
        "wide_tiles": wide_tiles(run.model) if phase.quantized else 0,
        "norm": norm,
        "lr": step.lr,
        "seconds": round(seconds, 3),
    }
    return line, seconds


def _accumulate(run: Run, batch: PackedBatch) -> Sums:
    """Adds up the gradients of a batch, part by part; each counts by its share of the tokens."""
    step, phase, sums = run.steps[run.step], run.phase, Sums()
    run.model.set_dense_attention(phase.attention == "dense")
    total_weight = batch.weight_T.sum()
    for part in batch.split(run.config.data.micro_tokens):
        losses = training_loss(
            run.model,
            part,
            mtp_weight=step.mtp_weight,
            balance_weight=run.config.schedule.balance_weight,
            align_index=phase.align_index,
        )
        share = part.weight_T.sum() / total_weight
        if not math.isfinite(losses.total.item()):
            raise TrainingError(
                f"step {run.step}: the loss is {losses.total.item()}; the last checkpoint is "
                "intact: lower schedule.lr and start again"
            )
        (losses.total * share).backward()
        sums.add(losses, share.item())
    return sums
