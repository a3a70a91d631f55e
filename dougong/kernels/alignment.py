"""The indexer's loss: how far its scores are from the attention that they choose entries for.

Shapes: T flat tokens, N tokens of one sample, H heads, C channels, J index heads, D index channels,
M compressed entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dougong.kernels.index import QUERY_BLOCK, index_scores, select_top_k, visible_entries


def index_alignment(
    q_THC: Tensor,
    kv_TC: Tensor,
    entries_MC: Tensor,
    sink_H: Tensor,
    index_q_TJD: Tensor,
    weight_TJ: Tensor,
    keys_MD: Tensor,
    *,
    lengths: Sequence[int],
    window: int,
    ratio: int,
    top_k: int | None,
    shortest: int,
) -> Tensor:
    """Mean `divergence` over the samples of at least `shortest` tokens; 0 if there is none.

    Args:
        q_THC, kv_TC, entries_MC, sink_H: what the layer's attention works on; they get no gradient.
        index_q_TJD, weight_TJ, keys_MD: what the indexer's scores are made of.
        top_k: how many entries of a query count; None: every visible one.
    """
    counts = [length // ratio for length in lengths]
    flat = (q_THC.detach(), kv_TC.detach(), index_q_TJD, weight_TJ)
    per_sample = zip(
        *(part.split(list(lengths)) for part in flat),
        *(part.split(counts) for part in (entries_MC.detach(), keys_MD)),
        strict=True,
    )
    losses = []
    for q, kv, index_q, weight, entries, keys in per_sample:
        if q.shape[0] < shortest:
            continue
        scores_NM = index_scores(index_q, weight, keys)
        hidden_NM = hidden_entries(scores_NM, ratio, top_k)
        target_NM = entry_probabilities(q, kv, entries, sink_H.detach(), hidden_NM, window)
        losses.append(divergence(target_NM, scores_NM, hidden_NM))
    return torch.stack(losses).mean() if losses else torch.zeros((), device=q_THC.device)


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
def hidden_entries(scores_NM: Tensor, ratio: int, top_k: int | None) -> Tensor:
    """Which entries a sample's queries do not look at: later ones, and those not selected."""
    num_queries, num_entries = scores_NM.shape
    visible_N = visible_entries(0, num_queries, ratio, scores_NM.device)
    if top_k is None or num_entries <= top_k:
        return torch.arange(num_entries, device=scores_NM.device) >= visible_N[:, None]
    selected_NK = select_top_k(scores_NM, visible_N, top_k)
    spare = torch.ones_like(scores_NM[:, :1])  # takes the -1s of queries with fewer entries
    hidden = torch.cat([torch.ones_like(scores_NM), spare], 1).bool()
    index = selected_NK.masked_fill(selected_NK < 0, num_entries)
    return hidden.scatter(1, index, False)[:, :num_entries]


@torch.no_grad()
def entry_probabilities(
    q_NHC: Tensor, kv_NC: Tensor, entries_MC: Tensor, sink_H: Tensor, hidden_NM: Tensor, window: int
) -> Tensor:
    """Probability that a sample's queries give each entry, summed over heads: [N, M]."""
    scale = q_NHC.shape[-1] ** -0.5
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
                sink_H[None, :, None].expand(num_queries, -1, 1).to(q.dtype),
                (q @ entries_MC.t()).masked_fill(hidden[:, None], float("-inf")),
            ],
            -1,
        )
        target.append(logits.softmax(-1)[..., high - reach + 1 :].sum(1))
    return torch.cat(target)
