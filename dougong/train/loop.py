"""The training loop: one process, packed batches, a checkpoint every few minutes.

A run is a folder. Started again with the same configuration it goes on from its newest checkpoint
with the losses that it would have had anyway: batches are functions of (seed, step) and everything
else that moves is in the checkpoint.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dougong.config import V4Config, load_config
from dougong.errors import ConfigError, TrainingError
from dougong.model.initialize import initialize
from dougong.model.transformer import Transformer
from dougong.train import schedule
from dougong.train.checkpoint import (
    drop_old_checkpoints,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from dougong.train.config import RunConfig
from dougong.train.data.corpus import load_corpus
from dougong.train.data.mixture import Mixture, PackedBatch, needed_sources
from dougong.train.data.tokenizer import run_tokenizer
from dougong.train.heap import keep_freed_memory
from dougong.train.losses import Sums, balance_biases, training_loss
from dougong.train.optimizer import Optimizer, clip_gradients
from dougong.train.progress import Progress, draw_curve
from dougong.train.quantize_aware import stored_weights


@dataclass
class Run:
    """A run with everything that a step needs; `step` counts the steps done."""

    config: RunConfig
    folder: Path
    model: Transformer
    optimizer: Optimizer
    tokenizer_folder: Path
    mixture: Mixture
    late_mixture: Mixture | None
    progress: Progress
    step: int = 0
    tokens: int = 0

    @property
    def done(self) -> bool:
        """Whether all steps of the schedule are done."""
        return self.step >= self.config.schedule.steps


def open_run(config: RunConfig, *, quiet: bool = False) -> Run:
    """Prepares data, tokenizer and model, and restores the newest checkpoint if there is one.

    Raises:  ConfigError or TrainingError if the run cannot start or go on.
    """
    model_config = load_config(config.model)
    if not isinstance(model_config, V4Config):
        raise ConfigError(f"model = {config.model!r} is not a DeepSeek-V4 configuration")
    folder = Path(config.output.folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    data = config.data
    shares = data.shares | config.late.shares
    corpus = load_corpus(Path(data.folder).expanduser(), needed_sources(shares))
    tokenizer, tokenizer_folder = run_tokenizer(
        folder, data.tokenizer, model_config.vocab_size, corpus, data.seed
    )
    early, late = (
        Mixture(shares, tokenizer, corpus, seed=data.seed, max_length=max_length)
        if shares
        else None
        for shares, max_length in (
            (data.shares, data.max_length),
            (config.late.shares, config.late.max_length),
        )
    )
    assert early is not None
    torch.manual_seed(config.seed)
    model = initialize(Transformer(model_config), config.seed)
    optimizer = Optimizer(dict(model.named_parameters()), model_config.o_groups)
    progress = Progress(folder, config.schedule.steps, quiet=quiet)
    run = Run(config, folder, model, optimizer, tokenizer_folder, early, late, progress)
    if (newest := latest_checkpoint(folder)) is not None:
        run.step = restore_checkpoint(newest, model, optimizer)
        run.tokens = run.step * data.batch_tokens
    progress.resume(run.step)
    return run


def train(config: RunConfig, *, quiet: bool = False) -> Run:
    """Trains until the schedule's last step and returns the finished run."""
    run = open_run(config, quiet=quiet)
    keep_freed_memory()
    while not run.done:
        line, seconds = train_step(run)
        output = config.output
        show = run.step % output.log_every == 0 or run.done
        run.progress.record(line, config.data.batch_tokens, seconds, show=show)
        if run.step % output.save_every == 0 or run.done:
            save(run)
            draw_curve(run.folder)
    return run


def train_step(run: Run) -> tuple[dict[str, Any], float]:
    """One step: its line for the log and its seconds.

    Raises:  TrainingError at a loss that is not finite; nothing is saved then.
    """
    began = time.perf_counter()
    plan, step = run.config.schedule, run.step
    late = run.late_mixture if schedule.is_late(run.config, step) else None
    batch = (late or run.mixture).batch(step, run.config.data.batch_tokens)
    with stored_weights(run.model, active=schedule.is_quantized(plan, step)):
        losses = _accumulate(run, batch, align_index=late is not None)
    norm = clip_gradients(run.optimizer.parameters, plan.clip)
    factor = schedule.lr_factor(plan, step)
    run.optimizer.step(plan.lr_muon * factor, plan.lr_adamw * factor)
    balance_biases(run.model, losses.loads, plan.balance_rate)
    run.step += 1
    run.tokens += run.config.data.batch_tokens
    seconds = time.perf_counter() - began
    line = {
        "step": step,
        "tokens": run.tokens,
        **losses.figures,
        "norm": norm,
        "lr": factor,
        "seconds": round(seconds, 3),
    }
    return line, seconds


def _accumulate(run: Run, batch: PackedBatch, *, align_index: bool) -> Sums:
    """Adds up the gradients of a batch, part by part; each counts by its share of the tokens."""
    plan, sums = run.config.schedule, Sums()
    total_weight = batch.weight_T.sum()
    for part in batch.split(run.config.data.micro_tokens):
        losses = training_loss(
            run.model,
            part,
            mtp_weight=schedule.mtp_weight(plan, run.step),
            balance_weight=plan.balance_weight,
            align_index=align_index,
        )
        share = part.weight_T.sum() / total_weight
        if not math.isfinite(losses.total.item()):
            raise TrainingError(
                f"step {run.step}: the loss is {losses.total.item()}; the last checkpoint is "
                "intact: lower schedule.lr_muon and schedule.lr_adamw and start again"
            )
        (losses.total * share).backward()
        sums.add(losses, share.item())
    return sums


def save(run: Run) -> Path:
    """Writes a checkpoint and drops old ones."""
    path = save_checkpoint(run.folder, run.step, run.model, run.optimizer, run.config.to_dict())
    drop_old_checkpoints(run.folder, run.config.output.keep)
    return path
