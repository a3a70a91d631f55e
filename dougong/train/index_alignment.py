"""Teaches the indexer to select what the attention looks at.

The loss of a CSA layer is the KL divergence from the attention over compressed entries (summed over
heads, normalized) to the softmax of the index scores. While the attention is dense (the warm-up)
both run over every visible entry; once it is sparse, over the selected ones. Everything that enters
it is detached, so it moves the indexer alone. The V4 report does not give this loss; it is V3.2's.

Shapes: T flat tokens, N tokens of one sample, D hidden size, H heads, C head_dim, M entries.
Source: architecture specification 8 (inferred there).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dougong.kernels.index import QUERY_BLOCK, select_top_k, visible_entries
from dougong.model.attention import Attention
from dougong.model.batch import Batch

SHORTEST = 64  # tokens; shorter samples have too few entries to choose from


@dataclass
class Seen:
    """A CSA layer with what entered it."""

    layer: Attention
    x_TD: Tensor
    batch: Batch


@contextmanager
def observed_attention(model: nn.Module, *, active: bool) -> Iterator[list[Seen]]:
    """Collects what enters each CSA layer inside the block; nothing if not `active`."""
    seen: list[Seen] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        seen.append(Seen(module, inputs[0].detach(), inputs[1]))

    layers = [m for m in model.modules() if isinstance(m, Attention) and m.indexer is not None]
    handles = [layer.register_forward_pre_hook(hook) for layer in layers] if active else []
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def alignment_loss(seen: list[Seen]) -> Tensor:
    """Mean KL divergence over layers, samples of at least SHORTEST tokens, and their queries."""
    losses = [loss for one in seen for loss in _layer_losses(one)]
    return torch.stack(losses).mean() if losses else torch.zeros(())


def _layer_losses(seen: Seen) -> Iterator[Tensor]:
    layer, batch, lengths = seen.layer, seen.batch, seen.batch.lengths
    indexer = layer.indexer
    assert indexer is not None
    latent_TL, q_THC, kv_TC, entry_tokens_TX = _main_side(seen)
    index_q_TJD, weight_TJ = indexer.queries(latent_TL, seen.x_TD, batch.rotations(layer.freqs_P))
    index_tokens_TX = indexer.compressor.tokens(seen.x_TD, batch.positions_T)
    per_sample = zip(
        *(
            part.split(lengths)
            for part in (q_THC, kv_TC, entry_tokens_TX, index_q_TJD, weight_TJ, index_tokens_TX)
        ),
        strict=True,
    )
    for q_NHC, kv_NC, entry_tokens, index_q_NJD, weight_NJ, index_tokens in per_sample:
        if q_NHC.shape[0] < SHORTEST:
            continue
        keys_MD = indexer.compressor.entries(index_tokens, 0, None, layer.freqs_P)
        scores_NM = indexer.scores(index_q_NJD, weight_NJ, keys_MD)
        hidden_NM = _hidden_entries(layer, scores_NM)
        target_NM = _attention_to_entries(layer, q_NHC, kv_NC, entry_tokens, hidden_NM)
        yield divergence(target_NM, scores_NM, hidden_NM)


def divergence(target_NM: Tensor, scores_NM: Tensor, hidden_NM: Tensor) -> Tensor:
    """Mean over queries of KL(target / sum(target) || softmax(scores)) over what is not hidden.

    Queries that see no entry are left out.
    """
    rows = (~hidden_NM).any(-1)
    target, hidden = target_NM[rows], hidden_NM[rows]
    target = target / target.sum(-1, keepdim=True).clamp_min(1e-30)
    log_p = scores_NM[rows].masked_fill(hidden, float("-inf")).log_softmax(-1)
    each = torch.xlogy(target, target) - target * log_p.masked_fill(hidden, 0.0)
    return each.sum(-1).mean()


@torch.no_grad()
def _hidden_entries(layer: Attention, scores_NM: Tensor) -> Tensor:
    """Which entries the layer's attention does not look at: later ones, and those not selected."""
    num_queries, num_entries = scores_NM.shape
    visible_N = visible_entries(0, num_queries, layer.ratio, scores_NM.device)
    assert layer.indexer is not None
    if layer.dense or num_entries <= layer.indexer.top_k:
        return torch.arange(num_entries, device=scores_NM.device) >= visible_N[:, None]
    selected_NK = select_top_k(scores_NM, visible_N, layer.indexer.top_k)
    spare = torch.ones_like(scores_NM[:, :1])  # takes the -1s of queries with fewer entries
    hidden = torch.cat([torch.ones_like(scores_NM), spare], 1).bool()
    index = selected_NK.masked_fill(selected_NK < 0, num_entries)
    return hidden.scatter(1, index, False)[:, :num_entries]


@torch.no_grad()
def _main_side(seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, queries, window keys and the compressor's tokens, as the layer computes them."""
    layer, config, ops = seen.layer, seen.layer.config, seen.layer.build.ops
    rotation_TP = seen.batch.rotations(layer.freqs_P)
    latent_TL: Tensor = layer.q_norm(layer.wq_a(seen.x_TD))
    q_THC: Tensor = layer.wq_b(latent_TL).unflatten(-1, (config.num_attention_heads, -1))
    q_THC = ops.norm_rope_q(q_THC, rotation_TP, config.rms_norm_eps)
    kv_TC: Tensor = ops.norm_rope_kv(
        layer.wkv(seen.x_TD),
        layer.kv_norm.weight,
        rotation_TP,
        config.rms_norm_eps,
        rounded=layer.build.rounded,
    )
    assert layer.compressor is not None
    return latent_TL, q_THC, kv_TC, layer.compressor.tokens(seen.x_TD, seen.batch.positions_T)


@torch.no_grad()
def _attention_to_entries(
    layer: Attention, q_NHC: Tensor, kv_NC: Tensor, entry_tokens_NX: Tensor, hidden_NM: Tensor
) -> Tensor:
    """Probability that a sample's queries give each entry, summed over heads: [N, M]."""
    assert layer.compressor is not None
    entries_MC = layer.compressor.entries(entry_tokens_NX, 0, None, layer.freqs_P)
    window, scale = layer.config.sliding_window, q_NHC.shape[-1] ** -0.5
    target = []
    for low in range(0, q_NHC.shape[0], QUERY_BLOCK):
        q = q_NHC[low : low + QUERY_BLOCK] * scale
        num_queries, high = q.shape[0], low + q.shape[0]
        reach = max(low - window + 1, 0)
        query = torch.arange(low, high, device=q.device)[:, None]
        key = torch.arange(reach, high, device=q.device)
        outside = (key > query) | (key <= query - window)
        hidden = hidden_NM[low:high]
        logits = torch.cat(
            [
                (q @ kv_NC[reach:high].t()).masked_fill(outside[:, None], float("-inf")),
                layer.attn_sink[None, :, None].expand(num_queries, -1, 1).to(q.dtype),
                (q @ entries_MC.t()).masked_fill(hidden[:, None], float("-inf")),
            ],
            -1,
        )
        target.append(logits.softmax(-1)[..., high - reach + 1 :].sum(1))
    return torch.cat(target)
