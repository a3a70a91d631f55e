"""Teaches the indexer to select what the attention looks at.

The loss of a CSA layer is the KL divergence from the attention over compressed entries (summed over
heads, normalized) to the softmax of the index scores. While the attention is dense (the warm-up)
both run over every visible entry; once it is sparse, over the selected ones. Everything that enters
it is detached, so it moves the indexer alone. The V4 report does not give this loss; it is V3.2's.

Source: architecture specification 8 (inferred there).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dougong.model.attention import Attention, Packed

SHORTEST = 64  # tokens; shorter samples have too few entries to choose from


@contextmanager
def observed_attention(model: nn.Module, *, active: bool) -> Iterator[list[Tensor]]:
    """Collects the loss of each CSA layer that runs inside the block; nothing if not `active`.

    They are computed where the layer runs: so the backward pass takes them layer by layer as well,
    and what a layer drops is not made again before its turn (kernels/recompute.py).
    """
    losses: list[Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, Attention) and m.indexer is not None]
    try:
        for layer in layers if active else []:
            layer.watch = lambda seen: losses.append(_layer_loss(seen))
        yield losses
    finally:
        for layer in layers:
            layer.watch = None


def alignment_loss(losses: list[Tensor]) -> Tensor:
    """Mean KL divergence over layers, samples of at least SHORTEST tokens, and their queries."""
    return torch.stack(losses).mean() if losses else torch.zeros(())


def _layer_loss(seen: Packed) -> Tensor:
    layer, batch, x_TD = seen.layer, seen.batch, seen.x_TD.detach()
    indexer = layer.indexer
    assert indexer is not None
    assert seen.entries_MC is not None
    q_TJD, weight_TJ = indexer.queries(seen.latent_TL.detach(), x_TD, seen.rotation_TP)
    keys_MD = indexer.compressor(x_TD, batch, layer.freqs_P)
    loss: Tensor = layer.build.ops.index_alignment(
        seen.q_THC,
        seen.kv_TC,
        seen.entries_MC,
        layer.attn_sink,
        q_TJD,
        weight_TJ * indexer.scale,
        keys_MD,
        lengths=batch.lengths,
        window=layer.config.sliding_window,
        ratio=layer.ratio,
        top_k=None if layer.dense else indexer.top_k,
        shortest=SHORTEST,
    )
    return loss
