"""What a step tells besides its gradient: losses, loads of the experts, clamped elements.

Shapes: F losses, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.kernels.experts import CLAMP_COUNTS
from dougong.model.transformer import Transformer
from dougong.train.anticipatory import scored_routers

LOSSES = ("loss", "mtp", "balance", "index")


@dataclass
class Figures:
    """Of a batch, or of one part of it.

    losses_F: float64, as LOSSES. loads: tokens of each expert, int64 [E], by router. clamped_3:
    elements that SwiGLU clamped, int64, as `kernels.experts.CLAMP_COUNTS`.
    """

    losses_F: Tensor
    loads: dict[str, Tensor]
    clamped_3: Tensor

    @classmethod
    def empty(cls, model: Transformer) -> Figures:
        """Nothing added yet."""
        zero = torch.zeros((), dtype=torch.int64, device=model.device)
        routers = scored_routers(model)
        loads = {name: zero.repeat(r.weight.shape[0]) for name, r in routers.items()}
        return cls(zero.double().repeat(len(LOSSES)), loads, zero.repeat(len(CLAMP_COUNTS)))

    def add(self, part: Figures, share: float) -> None:
        """Adds a part that has this share of the batch's trained tokens."""
        self.losses_F = self.losses_F + share * part.losses_F
        self.loads = {name: load_E + part.loads[name] for name, load_E in self.loads.items()}
        self.clamped_3 = self.clamped_3 + part.clamped_3

    def clone(self) -> Figures:
        """A copy with tensors of its own."""
        loads = {name: load_E.clone() for name, load_E in self.loads.items()}
        return Figures(self.losses_F.clone(), loads, self.clamped_3.clone())

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [self.losses_F, *self.loads.values(), self.clamped_3]

    def line(self) -> dict[str, float]:
        """The log's entries (docs/training.md). Routers that did not run count nowhere."""
        loads = [load_E.float() for load_E in self.loads.values() if load_E.any()]
        busiest = [float(load_E.max() / load_E.mean()) for load_E in loads]
        gate, above, below = self.clamped_3.tolist()
        return {
            **dict(zip(LOSSES, self.losses_F.tolist(), strict=True)),
            "load": sum(busiest) / max(len(busiest), 1),
            "load_worst": max(busiest, default=0.0),
            "idle_experts": sum(int((load_E == 0).sum()) for load_E in loads),
            "clamp_gate": gate,
            "clamp_up": above,
            "clamp_down": below,
        }
