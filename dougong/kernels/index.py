"""The lightning indexer's scores, and the selection of the best entries.

Shapes: N query tokens of one request, J index heads, D index channels, M compressed entries,
K selected entries.
Source: architecture specification 2.4, 2.5 and trap 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.kernels.compressor import round_index_vector
from dougong.kernels.dtypes import widen
from dougong.kernels.rotary import rotate

QUERY_BLOCK = 128  # bounds the [N, J, M] intermediate


def rope_index_q(q_NJD: Tensor, rotation_NP: Tensor, *, rounded: bool) -> Tensor:
    """The indexer's queries with RoPE; `rounded` adds the Hadamard and FP4 round trip."""
    q_NJD = rotate(q_NJD, rotation_NP)
    return round_index_vector(q_NJD) if rounded else q_NJD


def visible_entries(start: int, num_queries: int, ratio: int, device: torch.device) -> Tensor:
    """How many compressed entries each query at start, start + 1, ... may see: int64 [N].

    A query at the last token of a block does see that block's entry: floor((t + 1) / ratio).
    """
    return (torch.arange(start, start + num_queries, device=device) + 1) // ratio


def index_scores(q_NJD: Tensor, weight_NJ: Tensor, keys_MD: Tensor) -> Tensor:
    """I[t, s] = sum_h weight[t, h] * relu(q[t, h] . key[s]), wide: [N, M]."""
    products_NJM = torch.relu(widen(q_NJD) @ widen(keys_MD).t())
    return torch.bmm(widen(weight_NJ)[:, None], products_NJM)[:, 0]


def select_top_k(scores_NM: Tensor, visible_N: Tensor, k: int) -> Tensor:
    """The k best visible entries of each query in ascending order, -1 where there are fewer.

    Of equal scores the lowest index wins. `torch.topk` leaves ties open, so the rows where the
    k-th place is tied are sorted again, stably.
    """
    num_entries = scores_NM.shape[1]
    k = min(k, num_entries)
    hidden_NM = torch.arange(num_entries, device=scores_NM.device) >= visible_N[:, None]
    scores_NM = scores_NM.masked_fill(hidden_NM, float("-inf"))
    best = scores_NM.topk(k, -1)
    last_N1 = best.values[:, -1:]
    tied_N = (scores_NM == last_N1).sum(-1) > (best.values == last_N1).sum(-1)
    chosen_NK = best.indices
    if bool(tied_N.any()):
        ordered = scores_NM[tied_N].sort(dim=-1, descending=True, stable=True).indices
        chosen_NK[tied_N] = ordered[:, :k]
    picked_NK = scores_NM.gather(1, chosen_NK)
    return chosen_NK.masked_fill(picked_NK == float("-inf"), -1).sort(-1).values


def index_select(
    q_NJD: Tensor, weight_NJ: Tensor, keys_MD: Tensor, *, start: int, ratio: int, k: int
) -> Tensor:
    """Scores all entries for queries at positions start, start + 1, ... and selects: [N, K]."""
    visible_N = visible_entries(start, q_NJD.shape[0], ratio, q_NJD.device)
    blocks = zip(
        q_NJD.split(QUERY_BLOCK),
        weight_NJ.split(QUERY_BLOCK),
        visible_N.split(QUERY_BLOCK),
        strict=True,
    )
    return torch.cat(
        [select_top_k(index_scores(q, w, keys_MD), visible, k) for q, w, visible in blocks]
    )
