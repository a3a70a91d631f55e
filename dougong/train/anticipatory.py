"""Anticipatory routing: a step's experts are chosen by the weights of `lag` steps before.

In the mode, step t computes with weights theta_t, but the expert *indices* of its batch come from
theta_(t - lag): batch t is drawn at step t - lag and sent through the model once, without
gradients, and its indices are kept. The routing weights are theta_t's. The first `lag` steps of the
mode use the weights that it began with. With lag 0 every bit is that of ordinary routing.
Source: infrastructure specification 7 (the lag is not published).

Shapes: T tokens, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dougong.model.moe import Router
from dougong.model.transformer import Transformer
from dougong.train.data.mixture import PackedBatch

Indices = dict[str, Tensor]  # router's name -> experts_TK


def scored_routers(model: nn.Module) -> dict[str, Router]:
    """The routers that choose by score; those of hash layers need no anticipation."""
    routers = ((n, m) for n, m in model.named_modules() if isinstance(m, Router))
    return {name: router for name, router in routers if router.bias is not None}


@contextmanager
def imposed(model: nn.Module, indices: Indices | None) -> Iterator[None]:
    """Inside, routers take these experts instead of choosing; None changes nothing."""
    routers = scored_routers(model)
    try:
        for name, experts_TK in (indices or {}).items():
            routers[name].imposed_TK = experts_TK.long()
        yield
    finally:
        for router in routers.values():
            router.imposed_TK = None


@torch.no_grad()
def chosen_experts(model: Transformer, part: PackedBatch, *, mtp: bool) -> Indices:
    """The experts that the model's routers choose now for these tokens."""
    chosen: Indices = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            chosen[name] = output[1].int()

        return hook

    handles = [
        router.register_forward_hook(watch(name)) for name, router in scored_routers(model).items()
    ]
    try:
        streams_TSD = model(part.ids_T, part.lengths)
        if mtp and len(model.mtp):
            model.mtp_streams(streams_TSD, part.target_T, part.lengths)
    finally:
        for handle in handles:
            handle.remove()
    return chosen


def no_experts(model: Transformer, part: PackedBatch, *, mtp: bool) -> Indices:
    """Zeros in the shapes of `chosen_experts`, to be filled by the process that knows them."""
    shape = len(part.ids_T), model.config.num_experts_per_tok
    names = [name for name in scored_routers(model) if mtp or not name.startswith("mtp.")]
    return {name: torch.zeros(shape, dtype=torch.int32, device=model.device) for name in names}


class Anticipation:
    """The indices kept for coming steps; `state` maps `step/part/router` to them, for checkpoints.

    The mode is on before step `until`.
    """

    def __init__(self, lag: int) -> None:
        self.lag, self.until = lag, 0
        self.state: dict[str, Tensor] = {}

    def missing(self, step: int, num_steps: int) -> list[int]:
        """The steps whose indices `step` has to find with its weights; none outside the mode."""
        if step >= self.until:
            self.state.clear()
            return []
        kept = {int(key.partition("/")[0]) for key in self.state}
        last = min(step + self.lag, num_steps - 1, self.until - 1)
        return [s for s in range(step, last + 1) if s not in kept]

    def keep(self, step: int, part: int, indices: Indices) -> None:
        """Keeps what a part of the batch of `step` will be routed by."""
        self.state |= {f"{step}/{part}/{name}": tensor for name, tensor in indices.items()}

    def of(self, step: int, part: int) -> Indices | None:
        """What `keep` was given; None outside the mode."""
        prefix = f"{step}/{part}/"
        keys = [key for key in self.state if key.startswith(prefix)]
        return {key.removeprefix(prefix): self.state[key] for key in keys} or None

    def forget(self, step: int) -> None:
        """Drops what a step that is done was routed by."""
        self.state = {key: t for key, t in self.state.items() if not key.startswith(f"{step}/")}
