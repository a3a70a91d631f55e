"""The training loop: packed batches, a line in the log each step, a checkpoint every few minutes.

A run is a folder. Started again with the same configuration it goes on from its newest checkpoint
with the losses that it would have had anyway: batches are functions of (seed, step) and everything
else that moves is in the checkpoint.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from dougong.errors import TrainingError
from dougong.kernels.recompute import recomputation
from dougong.train.anticipatory import Indices, chosen_experts, imposed, no_experts
from dougong.train.checkpoint import drop_checkpoints_after, latest_checkpoint
from dougong.train.data.mixture import PackedBatch
from dougong.train.figures import Figures
from dougong.train.heap import keep_freed_memory
from dougong.train.losses import Losses, balance_biases, training_loss
from dougong.train.optimizer import clip_gradients
from dougong.train.parallel import Gradients, Group
from dougong.train.progress import draw_curve
from dougong.train.quantize_aware import as_served, wide_tiles
from dougong.train.run import Run
from dougong.train.stability import LossSpikeError


def train(run: Run) -> None:
    """Trains until the schedule's last step."""
    keep_freed_memory()
    if run.config.stability.spike and latest_checkpoint(run.folder) is None:
        run.save()  # to roll back to
    while not run.done:
        advance(run)
    run.reader.close()


def advance(run: Run) -> None:
    """One step with its line in the log and its checkpoint; or, at a spike, a roll-back.

    Raises:  TrainingError if the run cannot go on; its last checkpoint is intact.
    """
    num_tokens, output = run.steps[run.step].batch_tokens, run.config.output
    try:
        line, seconds = train_step(run)
    except LossSpikeError as spike:
        roll_back(run, spike)
        return
    saves = run.step % output.save_every == 0 or run.done
    if run.group.leads:
        show = run.step % output.log_every == 0 or run.done
        run.progress.record(line, num_tokens, seconds, show=show)
    if saves:
        run.save()
    if saves and run.group.leads:
        draw_curve(run.folder)


def roll_back(run: Run, spike: LossSpikeError) -> None:
    """Returns to a checkpoint before the spike and turns anticipatory routing on for a while.

    Raises:  TrainingError if this has happened too often.
    """
    settings = run.config.stability
    what = f"step {spike.step}: the loss is {spike.loss:.3f}, above {spike.limit:.3f}"
    if run.rollbacks >= settings.rollbacks:
        raise TrainingError(
            f"{what}; {run.rollbacks} roll-backs did not help: lower schedule.lr or raise "
            "stability.spike; the last checkpoint is intact"
        )
    rollbacks = run.rollbacks + 1
    run.model.zero_grad(set_to_none=True)
    if run.group.leads:
        drop_checkpoints_after(run.folder, spike.step - settings.rollback)
    run.group.wait()
    path = latest_checkpoint(run.folder)
    assert path is not None, "one is always kept"
    run.restore(path)
    run.rollbacks = rollbacks
    if settings.anticipate == "spikes":
        run.anticipation.until = spike.step + settings.period
    run.recall()
    if not run.progress.quiet:
        sys.stderr.write(f"{what}: back to step {run.step}\n")


def train_step(run: Run) -> tuple[dict[str, Any], float]:
    """One step: its line for the log and its seconds.

    Raises:  TrainingError at a loss or gradient that is not finite, LossSpikeError at a loss that
             the watch refuses; weights and files are as before then.
    """
    began = time.perf_counter()
    plan, step, phase = run.config.schedule, run.steps[run.step], run.phase
    for later in run.anticipation.missing(step.index, len(run.steps)):
        _anticipate(run, later)
    anticipated = step.index < run.anticipation.until
    with as_served(run.model, active=phase.quantized):
        figures = _accumulate(run)
    line = figures.line()
    norm = clip_gradients(run.optimizer.parameters, plan.clip)
    _check_finite(step.index, line["loss"] + line["mtp"] + line["index"], norm)
    run.watch.take(step.index, step.phase, line["loss"])
    run.optimizer.step(plan.lr * step.lr)
    balance_biases(run.model, figures.loads, plan.balance_rate)
    run.step += 1
    if plan.average:
        run.average.update(run.step)
    seconds = time.perf_counter() - began
    return {
        "step": step.index,
        "phase": step.phase,
        "tokens": run.tokens,
        **line,
        "wide_tiles": wide_tiles(run.model) if phase.quantized else 0,
        "norm": norm,
        "lr": step.lr,
        "anticipated": anticipated,
        "rollbacks": run.rollbacks,
        "seconds": round(seconds, 3),
    }, seconds


def _check_finite(step: int, loss: float, norm: float) -> None:
    for name, value in (("loss", loss), ("gradient's norm", norm)):
        if not math.isfinite(value):
            raise TrainingError(
                f"step {step}: the {name} is {value}; the last checkpoint is intact: lower "
                "schedule.lr and start again"
            )


def _parts(run: Run, batch: PackedBatch) -> list[PackedBatch]:
    return list(batch.split(run.config.data.micro_tokens))


def _accumulate(run: Run) -> Figures:
    """Adds up the gradients of a batch, part by part; each counts by its share of the tokens.

    With several processes each computes one part of a round; see parallel.py.
    """
    batch, group = run.batch(run.step), run.group
    parts, total_weight = _parts(run, batch), float(batch.weight_T.sum())
    shares = [float(part.weight_T.sum()) / total_weight for part in parts]
    sums = Figures.empty(run.model)
    gradients = Gradients(group, list(run.optimizer.parameters.values()))
    run.model.set_dense_attention(run.phase.attention == "dense")
    for first in range(0, len(parts), group.size):
        turn = range(first, min(first + group.size, len(parts)))
        own = Figures.empty(run.model)
        for i in filter(group.computes, turn):
            own = _descend(run, i, parts[i], shares[i]).figures
        for i in turn:
            gradients.add_part(i)
            sums.add(_shared(group, own, i), shares[i])
    gradients.finish()
    run.anticipation.forget(run.step)
    return sums


def _shared(group: Group, own: Figures, part: int) -> Figures:
    """The figures of a part, on every process."""
    if group.size == 1:
        return own
    copy = own.clone()
    group.send(copy.tensors(), part)
    return copy


def _descend(run: Run, index: int, part: PackedBatch, share: float) -> Losses:
    """Losses of one part; its gradient, times its share, is added to the parameters'."""
    with imposed(run.model, run.anticipation.of(run.step, index)):
        with recomputation(run.config.recompute, run.model.config):
            losses = training_loss(
                run.model,
                part.to(run.model.device),
                mtp_weight=run.steps[run.step].mtp_weight,
                balance_weight=run.config.schedule.balance_weight,
                align_index=run.phase.align_index,
            )
        (losses.total * share).backward()
    return losses


def _anticipate(run: Run, step: int) -> None:
    """Finds out with today's weights where the batch of a later step will be sent."""
    plan = run.steps[step]
    phase = run.config.phases[plan.phase]
    run.model.set_dense_attention(phase.attention == "dense")
    parts = _parts(run, run.batch(step))
    own: dict[int, Indices] = {}
    with as_served(run.model, active=phase.quantized):
        for i in filter(run.group.computes, range(len(parts))):
            part = parts[i].to(run.model.device)
            own[i] = chosen_experts(run.model, part, mtp=plan.mtp_weight > 0)
    for i, part in enumerate(parts):
        indices = own[i] if i in own else no_experts(run.model, part, mtp=plan.mtp_weight > 0)
        run.group.send(list(indices.values()), i)
        run.anticipation.keep(step, i, indices)
