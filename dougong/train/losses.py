"""The training loss: next token, the token after next (MTP), and expert balance.

Shapes: T tokens, S streams, D hidden size, E experts, K experts per token, B samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dougong.kernels.experts import counted_clamps
from dougong.kernels.router import router_scores
from dougong.model.moe import Router
from dougong.model.transformer import Transformer
from dougong.train.anticipatory import scored_routers
from dougong.train.data.mixture import PackedBatch
from dougong.train.figures import Figures
from dougong.train.index_alignment import alignment_loss, observed_attention


@dataclass
class Losses:
    """The loss to descend, and what is told of it."""

    total: Tensor
    figures: Figures


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

    handles = [watch(name, router) for name, router in scored_routers(model).items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def sequence_balance(routing: Routing, lengths: list[int]) -> Tensor:
    """How unevenly each sample's tokens use the experts, averaged over samples; 1 = even.

    sum over experts of (share of slots x E) * (mean normalized score), as in DeepSeek-V3.
    """
    num_experts = routing.scores_TE.shape[1]
    length_B = torch.tensor(lengths, device=routing.scores_TE.device)
    sample_T = torch.repeat_interleave(length_B)
    share_TE = routing.scores_TE / routing.scores_TE.sum(-1, keepdim=True)
    chosen_TE = torch.zeros_like(share_TE).scatter_(1, routing.experts_TK, 1.0)
    zeros_BE = share_TE.new_zeros(len(lengths), num_experts, dtype=torch.float32)
    slots_BE = zeros_BE.index_add(0, sample_T, chosen_TE.float()) / length_B[:, None]
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
    zero = torch.zeros((), device=model.device)
    with (
        observed_routing(model) as routings,
        observed_attention(model, active=align_index) as divergences,
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
        mtp = zero
        if mtp_weight > 0 and len(model.mtp):
            mtp = _mtp_loss(model, streams_TSD, batch)
    balance = torch.stack(
        [sequence_balance(routing, batch.lengths) for routing in routings.values()]
    ).mean() if routings else zero  # fmt: skip
    index = alignment_loss(divergences).to(model.device)
    total = next_token + mtp_weight * mtp + balance_weight * balance + index
    figures = Figures.empty(model)
    figures.losses_F = torch.stack([p.detach().double() for p in (next_token, mtp, balance, index)])
    for name, routing in routings.items():
        num_experts = routing.scores_TE.shape[1]
        figures.loads[name] = routing.experts_TK.flatten().bincount(minlength=num_experts)
    if clamps:
        figures.clamped_3 = torch.stack(clamps).sum(0)
    return Losses(total, figures)


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
