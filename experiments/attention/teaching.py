"""DSA's indexers, taught as V4's are: by the attention that they stand for.

The loss of a layer is the KL divergence from its attention over tokens (summed over heads,
normalized) to the softmax of the index scores; everything that enters is detached.

Shapes: N queries and M tokens of one document, X channels, H heads, J index
heads, I index channels.
Source: DeepSeek-V3.2-Exp report; dougong/train/index_alignment.py is the same for V4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dougong.kernels.dtypes import widen
from dougong.kernels.index import QUERY_BLOCK, index_scores, select_top_k, visible_entries
from dougong.model.batch import Batch
from dougong.model.mla import LatentAttention

Seen = list[tuple[LatentAttention, Tensor, Batch]]
SHORTEST = 64  # tokens, as for V4
ALL = 1 << 30  # an indexer's top_k that cuts nothing


def set_dense(model: nn.Module, top_k: int | None) -> None:
    """DSA layers attend to every token (None), or to the `top_k` that their indexers select."""
    for module in model.modules():
        if isinstance(module, LatentAttention) and module.indexer is not None:
            module.indexer.top_k = top_k or ALL


@contextmanager
def observed(model: nn.Module, *, active: bool) -> Iterator[Seen]:
    """Collects what enters each DSA layer inside the block; nothing if not `active`."""
    seen: Seen = []

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, LatentAttention)
        seen.append((module, inputs[0].detach(), inputs[1]))

    modules = [m for m in model.modules() if isinstance(m, LatentAttention) and m.indexer]
    handles = [module.register_forward_pre_hook(hook) for module in modules] if active else []
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def latent_alignment_loss(seen: Seen) -> Tensor:
    """Mean KL divergence over layers, documents of at least SHORTEST tokens, and queries."""
    losses = [loss for layer, x_TD, batch in seen for loss in _layer_losses(layer, x_TD, batch)]
    return torch.stack(losses).mean() if losses else torch.zeros(())


def _layer_losses(layer: LatentAttention, x_TD: Tensor, batch: Batch) -> Iterator[Tensor]:
    rotation_TF = batch.rotations(layer.freqs_F) * layer.magnitude
    with torch.no_grad():
        q_latent_TQ, q_THX, latent_TX = layer.project(x_TD, rotation_TF)
    parts = (x_TD, q_latent_TQ, q_THX, latent_TX, rotation_TF)
    for x_ND, q_latent_NQ, q_NHX, latent_NX, rotation_NF in zip(
        *(part.split(batch.lengths) for part in parts), strict=True
    ):
        if x_ND.shape[0] < SHORTEST:
            continue
        assert layer.indexer is not None
        q_NJI, weight_NJ = layer.indexer.queries(q_latent_NQ, x_ND, rotation_NF)
        keys_NI = layer.indexer.keys(x_ND, rotation_NF)
        found = []
        for low in range(0, x_ND.shape[0], QUERY_BLOCK):
            rows = slice(low, low + QUERY_BLOCK)
            seen_I = keys_NI[: rows.stop]  # no later token counts for these queries
            scores_NM = index_scores(q_NJI[rows], weight_NJ[rows], seen_I)
            hidden_NM = _hidden(scores_NM, low, layer.indexer.top_k)
            target_NM = attention_of(layer, q_NHX[rows], latent_NX[: rows.stop], hidden_NM)
            found.append(divergence(target_NM, scores_NM, hidden_NM))
        yield torch.cat(found).mean()


def divergence(target_NM: Tensor, scores_NM: Tensor, hidden_NM: Tensor) -> Tensor:
    """KL(target / sum(target) || softmax(scores)) over what is not hidden, of each query: [N]."""
    target = target_NM / target_NM.sum(-1, keepdim=True)
    log_p = scores_NM.masked_fill(hidden_NM, float("-inf")).log_softmax(-1)
    each = torch.xlogy(target, target) - target * log_p.masked_fill(hidden_NM, 0.0)
    return each.sum(-1)


@torch.no_grad()
def _hidden(scores_NM: Tensor, start: int, top_k: int) -> Tensor:
    """Which tokens the queries from `start` on do not attend to: later and not selected ones."""
    num_queries, num_tokens = scores_NM.shape
    position = torch.arange(num_tokens)
    hidden = position > torch.arange(start, start + num_queries)[:, None]
    if num_tokens <= top_k:
        return hidden
    visible_N = visible_entries(start, num_queries, 1, scores_NM.device)
    selected_NK = select_top_k(scores_NM, visible_N, top_k)
    chosen = torch.zeros(num_queries, num_tokens + 1, dtype=torch.bool)
    chosen.scatter_(1, selected_NK.masked_fill(selected_NK < 0, num_tokens), True)
    return ~chosen[:, :num_tokens]


@torch.no_grad()
def attention_of(
    layer: LatentAttention, q_NHX: Tensor, latent_MX: Tensor, hidden_NM: Tensor
) -> Tensor:
    """Probability that each query gives each token, summed over heads: [N, M]."""
    up_HXC = widen(layer.kv_b_proj.weight).unflatten(0, (layer.num_heads, -1))
    up_key_HPC = up_HXC[:, : layer.nope_dim]
    latent_MC, key_MR = latent_MX.split([layer.latent_dim, layer.rope_dim], -1)
    q_HNP, q_HNR = q_NHX.transpose(0, 1).split([layer.nope_dim, layer.rope_dim], -1)
    logits_HNM = (q_HNP @ up_key_HPC) @ latent_MC.t() + q_HNR @ key_MR.t()
    logits_HNM = (logits_HNM * layer.scale).masked_fill(hidden_NM, float("-inf"))
    return logits_HNM.softmax(-1).sum(0)
