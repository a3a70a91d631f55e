"""The schedule of a run as a table, one entry a step: phase, batch size, rate, loss weights.

Linear warm-up, flat, then decay; batches that grow; phases by their share of the tokens.
Source: architecture specification 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dougong.train.config import RunConfig, ScheduleConfig


@dataclass(frozen=True)
class Step:
    """What one step does: `index` counts from 0, `tokens` those read before it.

    phase: index into the configuration's phases; lr: both learning rates' factor, 0 to 1.
    """

    index: int
    phase: int
    batch_tokens: int
    tokens: int
    lr: float
    mtp_weight: float


def plan_steps(config: RunConfig) -> list[Step]:
    """Every step of the run, in order."""
    schedule = config.schedule
    batches = list(_batches(config))
    last = batches[-1][2]
    return [
        Step(
            index,
            phase,
            batch_tokens,
            tokens,
            lr_factor(schedule, index, tokens, last),
            mtp_weight(schedule, tokens) if config.phases[phase].mtp else 0.0,
        )
        for index, (phase, batch_tokens, tokens) in enumerate(batches)
    ]


def _batches(config: RunConfig) -> list[tuple[int, int, int]]:
    """(phase, tokens of the batch, tokens before it) of every step."""
    schedule, tokens, end = config.schedule, 0, 0.0
    batches: list[tuple[int, int, int]] = []
    for phase, settings in enumerate(config.phases):
        end += settings.share * schedule.tokens
        while tokens + 0.5 < end or not batches:
            size = round(settings.batch_tokens * batch_factor(schedule, tokens))
            size = max(size, settings.max_length)
            batches.append((phase, size, tokens))
            tokens += size
    return batches


def batch_factor(schedule: ScheduleConfig, tokens: int) -> float:
    """Share of the phase's batch size that is used after `tokens`; grows linearly to 1."""
    growth = schedule.batch_growth * schedule.tokens
    if tokens >= growth:
        return 1.0
    return schedule.batch_start + (1 - schedule.batch_start) * tokens / growth


def decay_start(schedule: ScheduleConfig) -> float:
    """Tokens after which the learning rate decays."""
    return schedule.tokens * (1 - schedule.decay)


def lr_factor(schedule: ScheduleConfig, index: int, tokens: int, last: int) -> float:
    """The factor of step `index`, before which `tokens` were read (`last` before the last step)."""
    warm = min(1.0, (index + 1) / schedule.warmup) if schedule.warmup else 1.0
    start = decay_start(schedule)
    if tokens < start:
        return warm
    progress = min((tokens - start) / max(last - start, 1.0), 1.0)
    if schedule.decay_shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return warm * (1 - progress * (1 - schedule.final_lr))


def mtp_weight(schedule: ScheduleConfig, tokens: int) -> float:
    """The weight of the MTP loss: lower from the beginning of the decay."""
    decayed = tokens >= decay_start(schedule)
    return schedule.mtp_weight_decay if decayed else schedule.mtp_weight
