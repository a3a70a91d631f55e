"""Teaches the indexer to select what the attention looks at.

The loss of a CSA layer is the KL divergence from the attention over compressed entries (summed over
heads, normalized) to the softmax of the index scores. Everything that enters it is detached, so it
moves the indexer alone. The V4 report does not give this loss; it is V3.2's.

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

from dougong.kernels.index import visible_entries
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
    indexer, freqs_P = layer.indexer, layer.freqs_P
    assert indexer is not None
    latent_TL, q_THC, kv_TC, entries = _main_side(seen)
    index_q_TJD, weight_TJ = indexer.queries(latent_TL, seen.x_TD, batch.rotations(freqs_P))
    keys = indexer.compressor(seen.x_TD, batch, freqs_P)
    flat = q_THC, kv_TC, index_q_TJD, weight_TJ
    per_sample = zip(*(part.split(lengths) for part in flat), entries, keys, strict=True)
    for q_NHC, kv_NC, index_q_NJD, weight_NJ, entries_MC, keys_MD in per_sample:
        if q_NHC.shape[0] < SHORTEST:
            continue
        target_NM, hidden_NM = _attention_to_entries(layer, q_NHC, kv_NC, entries_MC)
        scores_NM = indexer.scores(index_q_NJD, weight_NJ, keys_MD)
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
def _main_side(seen: Seen) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Latents, queries, window keys and each sample's entries, as the layer computes them."""
    layer = seen.layer
    assert layer.compressor is not None
    entries = layer.compressor(seen.x_TD, seen.batch, layer.freqs_P)
    return *layer.project(seen.x_TD, seen.batch.rotations(layer.freqs_P)), entries


@torch.no_grad()
def _attention_to_entries(
    layer: Attention, q_NHC: Tensor, kv_NC: Tensor, entries_MC: Tensor
) -> tuple[Tensor, Tensor]:
    """Probability that a sample's queries give each entry, summed over heads [N, M]; the mask."""
    num_queries, num_entries = q_NHC.shape[0], entries_MC.shape[0]
    visible_N = visible_entries(0, num_queries, layer.ratio, q_NHC.device)
    hidden_NM = torch.arange(num_entries, device=q_NHC.device) >= visible_N[:, None]
    position = torch.arange(num_queries, device=q_NHC.device)
    distance_NN = position[:, None] - position
    outside_NN = (distance_NN < 0) | (distance_NN >= layer.config.sliding_window)
    q_NHC = q_NHC * q_NHC.shape[-1] ** -0.5
    logits = torch.cat(
        [
            (q_NHC @ kv_NC.t()).masked_fill(outside_NN[:, None], float("-inf")),
            layer.attn_sink[None, :, None].expand(num_queries, -1, 1),
            (q_NHC @ entries_MC.t()).masked_fill(hidden_NM[:, None], float("-inf")),
        ],
        -1,
    )
    return logits.softmax(-1)[..., num_queries + 1 :].sum(1), hidden_NM
