"""The training loss: next token, the token after next (MTP), and expert balance.

Shapes: T tokens, S streams, D hidden size, E experts, K experts per token, B samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dougong.kernels.experts import counted_clamps
from dougong.kernels.router import router_scores
from dougong.model.moe import Router
from dougong.model.transformer import Transformer
from dougong.train.data.mixture import PackedBatch
from dougong.train.index_alignment import alignment_loss, observed_attention


@dataclass
class Losses:
    """The loss to descend, its parts as numbers, the experts' loads per router, and clamps.

    clamped_3: elements that SwiGLU clamped, as `kernels.experts.CLAMP_COUNTS`.
    """

    total: Tensor
    next_token: float
    mtp: float
    balance: float
    index: float
    loads: dict[str, Tensor]
    clamped_3: Tensor


@dataclass
class Sums:
    """Figures, expert loads and clamps of a batch that is computed in parts."""

    figures: dict[str, float] = field(default_factory=dict)
    loads: dict[str, Tensor] = field(default_factory=dict)
    clamped_3: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.int64))

    def add(self, part: Losses, share: float) -> None:
        """Adds a part that has this share of the batch's trained tokens."""
        for key, value in (
            ("loss", part.next_token),
            ("mtp", part.mtp),
            ("balance", part.balance),
            ("index", part.index),
        ):
            self.figures[key] = self.figures.get(key, 0.0) + share * value
        for name, load_E in part.loads.items():
            self.loads[name] = self.loads.get(name, torch.zeros_like(load_E)) + load_E
        self.clamped_3 = self.clamped_3 + part.clamped_3

    def load_figures(self) -> dict[str, float]:
        """Busiest expert's load over the mean one: averaged over routers, and the worst router's;
        and the number of experts that no token went to.
        """
        busiest = [float(load_E.max() / load_E.float().mean()) for load_E in self.loads.values()]
        idle = sum(int((load_E == 0).sum()) for load_E in self.loads.values())
        mean = sum(busiest) / max(len(busiest), 1)
        return {"load": mean, "load_worst": max(busiest, default=0.0), "idle_experts": idle}

    def clamp_figures(self) -> dict[str, int]:
        """How many elements SwiGLU clamped: gates above, and linear branches above and below."""
        gate, above, below = self.clamped_3.tolist()
        return {"clamp_gate": gate, "clamp_up": above, "clamp_down": below}


@dataclass
class Routing:
    """What one router did in one forward pass."""

    scores_TE: Tensor
    experts_TK: Tensor


@contextmanager
def observed_routing(model: nn.Module) -> Iterator[dict[str, Routing]]:
    """Records what every score-routed router computes inside the block (name -> Routing)."""
    seen: dict[str, Routing] = {}

    def watch(name: str, router: Router) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, Tensor], output: Any) -> None:
            seen[name] = Routing(router_scores(inputs[0], router.weight), output[1])

        return router.register_forward_hook(hook)

    routers = [(n, m) for n, m in model.named_modules() if isinstance(m, Router)]
    handles = [watch(name, router) for name, router in routers if router.bias is not None]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def sequence_balance(routing: Routing, lengths: list[int]) -> Tensor:
    """How unevenly each sample's tokens use the experts, averaged over samples; 1 = even.

    sum over experts of (share of slots x E) * (mean normalized score), as in DeepSeek-V3.
    """
    num_samples, (num_tokens, num_experts) = len(lengths), routing.scores_TE.shape
    length_B = torch.tensor(lengths)
    sample_T = torch.repeat_interleave(torch.arange(num_samples), length_B)
    chosen_TE = torch.zeros(num_tokens, num_experts).scatter_(1, routing.experts_TK, 1.0)
    share_TE = routing.scores_TE / routing.scores_TE.sum(-1, keepdim=True)
    zeros_BE = torch.zeros(num_samples, num_experts)
    slots_BE = zeros_BE.index_add(0, sample_T, chosen_TE) / length_B[:, None]
    mean_BE = zeros_BE.index_add(0, sample_T, share_TE.float()) / length_B[:, None]
    top_k = routing.experts_TK.shape[1]
    return (slots_BE * mean_BE).sum(-1).mean() * num_experts / top_k


def training_loss(
    model: Transformer,
    batch: PackedBatch,
    *,
    mtp_weight: float,
    balance_weight: float,
    align_index: bool = False,
) -> Losses:
    """All losses of one packed batch; `align_index` adds the indexers' own loss.

    Logits are computed only where a token counts; the MTP block runs only if its weight is
    positive.
    """
    with (
        observed_routing(model) as routings,
        observed_attention(model, active=align_index) as attentions,
        counted_clamps() as clamps,
    ):
        cross_entropy = model.build.ops.cross_entropy
        streams_TSD = model(batch.ids_T, batch.lengths)
        rows = batch.weight_T.nonzero()[:, 0]
        next_token = cross_entropy(
            model.logit_input(streams_TSD)[rows],
            model.head.weight,
            batch.target_T[rows],
            batch.weight_T[rows],
        )
        mtp = torch.zeros(())
        if mtp_weight > 0 and len(model.mtp):
            mtp = _mtp_loss(model, streams_TSD, batch)
    balance = torch.stack(
        [sequence_balance(routing, batch.lengths) for routing in routings.values()]
    ).mean() if routings else torch.zeros(())  # fmt: skip
    index = alignment_loss(attentions)
    total = next_token + mtp_weight * mtp + balance_weight * balance + index
    loads = {
        name: torch.bincount(routing.experts_TK.flatten(), minlength=routing.scores_TE.shape[1])
        for name, routing in routings.items()
    }
    clamped_3 = torch.stack(clamps).sum(0) if clamps else torch.zeros(3, dtype=torch.int64)
    return Losses(
        total, next_token.item(), mtp.item(), balance.item(), index.item(), loads, clamped_3
    )


def _mtp_loss(model: Transformer, streams_TSD: Tensor, batch: PackedBatch) -> Tensor:
    streams_TSD = model.mtp_streams(streams_TSD, batch.target_T, batch.lengths)
    rows = batch.second_weight_T.nonzero()[:, 0]
    loss: Tensor = model.build.ops.cross_entropy(
        model.mtp_logit_input(streams_TSD)[rows],
        model.head.weight,
        batch.second_T[rows],
        batch.second_weight_T[rows],
    )
    return loss


@torch.no_grad()
def balance_biases(model: nn.Module, loads: dict[str, Tensor], rate: float) -> None:
    """Moves each router's bias by `rate` towards even loads: up where too few tokens went."""
    for name, load_E in loads.items():
        router = model.get_submodule(name)
        assert isinstance(router, Router)
        assert router.bias is not None
        load_E = load_E.to(router.bias.dtype)
        router.bias.add_(torch.sign(load_E.mean() - load_E), alpha=rate)
