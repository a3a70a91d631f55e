"""The exponential moving average of a run's weights (EMA): often a better model than the last step.

average <- d * average + (1 - d) * weights, with d = min(decay, (1 + n) / (10 + n)) at update n, so
that a short run is not dominated by its starting weights. Averaged are the exact weights; they are
rounded when the average is exported, as the last weights would be. The routers' biases, moved by a
rule, are averaged with the weights that they fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """One average; `state` maps names to float tensors, for checkpoints (empty before step 1)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.state: dict[str, Tensor] = {}

    def _weights(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Takes in the weights after `num_steps` steps (counted from 1)."""
        if not self.state:
            self.state = {name: tensor.clone() for name, tensor in self._weights().items()}
            return
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps))
        weights = self._weights()
        torch._foreach_lerp_(
            list(self.state.values()), [weights[name] for name in self.state], 1 - decay
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; after it, its own again."""
        weights = self._weights() if self.state else {}
        own = {name: tensor.clone() for name, tensor in weights.items()}
        try:
            self._put(self.state)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        weights = self._weights()
        for name, value in values.items():
            weights[name].copy_(value)
