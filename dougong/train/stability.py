"""Loss spikes: noticed before their step is taken, answered by a short roll-back.

A loss is a spike if it lies `spike` deviations above the median of the last `window` losses of its
phase; a deviation is 1.4826 times the median distance from that median (the standard deviation of a
normal distribution), at least 1 % of the median. What follows a roll-back is anticipatory routing
for a while (anticipatory.py). Neither threshold nor period is published.
Source: infrastructure specification 7.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from dougong.train.config import StabilityConfig

NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
SMALLEST_DEVIATION = 0.01  # of the median loss


@dataclass
class LossSpikeError(Exception):
    """The loss of a step that has not been taken, and what it should have stayed below."""

    step: int
    loss: float
    limit: float


@dataclass
class SpikeWatch:
    """Knows the recent losses of one phase."""

    settings: StabilityConfig
    recent: deque[float] = field(default_factory=deque)
    phase: int = -1

    def restart(self, phase: int, losses: Iterable[float]) -> None:
        """Forgets everything but these losses of the phase."""
        self.phase, self.recent = phase, deque(losses, maxlen=self.settings.window)

    @property
    def limit(self) -> float:
        """The largest loss that is no spike; infinite until `window` losses are known."""
        if not self.settings.spike or len(self.recent) < self.settings.window:
            return math.inf
        middle = median(self.recent)
        deviation = NORMAL * median(abs(loss - middle) for loss in self.recent)
        return middle + self.settings.spike * max(deviation, SMALLEST_DEVIATION * middle)

    def take(self, step: int, phase: int, loss: float) -> None:
        """Adds a step's loss.

        Raises:  LossSpikeError instead, if it is one.
        """
        if phase != self.phase:
            self.restart(phase, ())
        if loss > self.limit:
            raise LossSpikeError(step, loss, self.limit)
        self.recent.append(loss)
