"""The lightning indexer's scores, and the selection of the best entries.

Shapes: T flat tokens, N query tokens of one request, J index heads, D index channels,
M compressed entries, K selected entries.
Source: architecture specification 2.4, 2.5 and trap 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.kernels.compressor import round_index_vector
from dougong.kernels.dtypes import widen
from dougong.kernels.paged import Entries, Spans
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
    q_TJD: Tensor, weight_TJ: Tensor, spans: Spans, keys: Entries, *, ratio: int, k: int
) -> Tensor:
    """Scores all entries of each request for its queries and selects the best k: [T, K].

    K is k, or the most entries that a request has where that is less.
    """
    k = min(k, spans.longest // ratio)
    selected = [torch.empty(0, k, dtype=torch.int64, device=q_TJD.device)]
    parts = zip(q_TJD.split(spans.lengths), weight_TJ.split(spans.lengths), strict=True)
    all_keys = each_request(keys, spans, ratio, q_TJD.dtype)
    for span, keys_MD, (q_NJD, weight_NJ) in zip(spans, all_keys, parts, strict=True):
        visible_N = visible_entries(span.start, q_NJD.shape[0], ratio, q_NJD.device)
        blocks = zip(*(x.split(QUERY_BLOCK) for x in (q_NJD, weight_NJ, visible_N)), strict=True)
        for q, weight, visible in blocks:
            best_NK = select_top_k(index_scores(q, weight, keys_MD), visible, k)
            selected.append(F.pad(best_NK, (k - best_NK.shape[1], 0), value=-1))
    return torch.cat(selected)


def each_request(
    entries: Entries, spans: Spans, ratio: int, dtype: torch.dtype
) -> Sequence[Tensor]:
    """Every request's complete compressed entries [M, width], floating point."""
    counts = [span.end // ratio for span in spans]
    if isinstance(entries, Tensor):
        dense: Sequence[Tensor] = entries.split(counts)
        return dense
    parts = zip(spans, counts, strict=True)
    return [span.memory.entries(entries, n, dtype) for span, n in parts if span.memory is not None]
