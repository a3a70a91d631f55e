"""Rates as functions of the step: linear warm-up, flat, linear decay; MTP weight; rounding."""

from __future__ import annotations

from dougong.train.config import RunConfig, ScheduleConfig


def decay_start(schedule: ScheduleConfig) -> int:
    """The first step of the decay."""
    return round(schedule.steps * (1 - schedule.decay))


def lr_factor(schedule: ScheduleConfig, step: int) -> float:
    """Both learning rates' factor at `step` (counted from 0), from 0 to 1."""
    warm = min(1.0, (step + 1) / schedule.warmup) if schedule.warmup else 1.0
    start = decay_start(schedule)
    if step < start:
        return warm
    progress = (step - start) / max(schedule.steps - 1 - start, 1)
    return warm * (1 - progress * (1 - schedule.final_lr))


def mtp_weight(schedule: ScheduleConfig, step: int) -> float:
    """The weight of the MTP loss: lower from the beginning of the decay (specification 8)."""
    decayed = step >= decay_start(schedule)
    return schedule.mtp_weight_decay if decayed else schedule.mtp_weight


def is_quantized(schedule: ScheduleConfig, step: int) -> bool:
    """Whether this step's weights are rounded to their stored formats."""
    return step >= schedule.steps * schedule.quantize_from


def is_late(config: RunConfig, step: int) -> bool:
    """Whether this step belongs to the late part: longer samples, indexers trained."""
    return step >= config.schedule.steps * config.late.start
