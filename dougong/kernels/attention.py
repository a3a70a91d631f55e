"""Sparse attention over shared key-values: window, compressed entries and sink in one softmax.

Shapes: T flat tokens, N query tokens of one request at consecutive positions, H heads, C channels
(keys are also the values), M compressed entries, K selected entries, W keys in reach of a window.
Source: architecture specification 2.2, 2.4, 2.7.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dougong.kernels.dtypes import wide, widen
from dougong.kernels.index import each_request, visible_entries
from dougong.kernels.paged import Entries, Place, Span, Spans
from dougong.kernels.rotary import rotate

QUERY_BLOCK = 128  # queries scored together: bounds every intermediate, whatever the prompt
DENSE_FACTOR = 8  # up to this many entries per selected one, masking beats gathering


def attention(
    q_THC: Tensor,
    kv_TC: Tensor,
    spans: Spans,
    entries: Entries | None,
    selected_TK: Tensor | None,
    sink_H: Tensor,
    rotation_TP: Tensor,
    *,
    ring: Place | None,
    window: int,
    ratio: int,
) -> Tensor:
    """Attention output [T, H, C] in q's dtype, RoPE undone by each query's position.

    Args:
        q_THC: queries, normed and rotated.  kv_TC: the same tokens' window entries.
        entries: compressed entries from each request's beginning; None without compression.
        selected_TK: indices into them per query, -1 for none; None: every visible entry counts.
        sink_H: logit per head that enlarges the denominator and carries no value.
        ring: where earlier tokens' window entries are; None if no span has a memory.
    """
    lengths = spans.lengths
    # split, not slices: its backward joins the gradients once, not once per request
    parts = zip(q_THC.split(lengths), kv_TC.split(lengths), rotation_TP.split(lengths), strict=True)
    none: Sequence[Tensor | None] = [None] * len(lengths)
    dense = none if entries is None else each_request(entries, spans, ratio, kv_TC.dtype)
    chosen = none if selected_TK is None else selected_TK.split(lengths)
    outputs = [q_THC[:0]]
    for i, (span, (q_NHC, kv_NC, rotation_NP)) in enumerate(zip(spans, parts, strict=True)):
        recent_WC = _recent(kv_NC, span, ring, window)
        out_NHC = _attend_request(
            q_NHC, recent_WC, dense[i], chosen[i], sink_H,
            start=span.start, window=window, ratio=ratio,
        )  # fmt: skip
        outputs.append(rotate(out_NHC, rotation_NP, inverse=True))
    return torch.cat(outputs)


def _recent(kv_NC: Tensor, span: Span, ring: Place | None, window: int) -> Tensor:
    """Window entries of these tokens and of as many before them as the first one can see."""
    if ring is None or span.memory is None:
        return kv_NC
    oldest = max(span.start - window + 1, span.oldest)
    rows = span.memory.ring(ring, min(oldest, span.start), span.start)
    return torch.cat([ring.format.unpack(rows, kv_NC.dtype), kv_NC])


def _attend_request(
    q_NHC: Tensor,
    recent_WC: Tensor,
    entries_MC: Tensor | None,
    selected_NK: Tensor | None,
    sink_H: Tensor,
    *,
    start: int,
    window: int,
    ratio: int,
) -> Tensor:
    """One request's queries, a block at a time; recent_WC ends with the last query's entry."""
    outputs = []
    for low in range(0, q_NHC.shape[0], QUERY_BLOCK):
        q = q_NHC[low : low + QUERY_BLOCK]
        first, last = start + low, start + low + q.shape[0]  # positions of this block
        oldest = start + q_NHC.shape[0] - recent_WC.shape[0]  # position of recent_WC[0]
        reach = max(first - window + 1, oldest)
        keys_WC = recent_WC[reach - oldest : last - oldest]
        entries = None
        if entries_MC is not None and last // ratio > 0:
            chosen = None if selected_NK is None else selected_NK[low : low + QUERY_BLOCK]
            entries = _Entries(entries_MC[: last // ratio], chosen, first, ratio)
        outputs.append(_attend(q, keys_WC, reach, entries, sink_H, first, window))
    return torch.cat(outputs).to(q_NHC.dtype)


class _Entries:
    """The compressed entries a block of queries attends to: shared and masked, or gathered."""

    def __init__(self, entries_MC: Tensor, selected_NK: Tensor | None, first: int, ratio: int):
        num_entries = entries_MC.shape[0]
        self.selected_NK, self.first, self.ratio = selected_NK, first, ratio
        self.gathered = (
            selected_NK is not None and num_entries > DENSE_FACTOR * selected_NK.shape[1]
        )
        if self.gathered and selected_NK is not None:
            self.keys = widen(entries_MC)[selected_NK.clamp_min(0)]  # [N, K, C]
        else:
            self.keys = widen(entries_MC)  # [M, C]

    def logits(self, q_NHC: Tensor) -> Tensor:
        """q . key [N, H, K or M], -inf where the entry is not for this query."""
        if self.gathered and self.selected_NK is not None:
            scores = torch.bmm(q_NHC, self.keys.transpose(1, 2))
            return scores.masked_fill(self.selected_NK[:, None] < 0, float("-inf"))
        num_queries, num_entries = q_NHC.shape[0], self.keys.shape[0]
        if self.selected_NK is None:
            visible = visible_entries(self.first, num_queries, self.ratio, q_NHC.device)
            hidden = torch.arange(num_entries, device=q_NHC.device) >= visible[:, None]
        else:  # the spare last column takes the -1s
            hidden = torch.ones(num_queries, num_entries + 1, dtype=torch.bool, device=q_NHC.device)
            index = self.selected_NK.masked_fill(self.selected_NK < 0, num_entries)
            hidden = hidden.scatter(1, index.clamp_max(num_entries), False)[:, :num_entries]
        return (q_NHC @ self.keys.t()).masked_fill(hidden[:, None], float("-inf"))

    def mix(self, p: Tensor) -> Tensor:
        """sum p * value: [N, H, C]."""
        return torch.bmm(p, self.keys) if self.gathered else p @ self.keys


def _attend(
    q_NHC: Tensor,
    keys_WC: Tensor,
    reach: int,
    entries: _Entries | None,
    sink_H: Tensor,
    first: int,
    window: int,
) -> Tensor:
    """One block of queries at positions from `first`; keys_WC start at position `reach`."""
    dtype = wide(q_NHC.dtype)
    num_queries, num_heads, head_dim = q_NHC.shape
    q = widen(q_NHC) * head_dim**-0.5
    keys_WC = widen(keys_WC)
    query_pos = torch.arange(first, first + num_queries, device=q.device)[:, None]
    key_pos = torch.arange(reach, reach + keys_WC.shape[0], device=q.device)
    outside = (key_pos > query_pos) | (key_pos <= query_pos - window)
    parts = [(q @ keys_WC.t()).masked_fill(outside[:, None], float("-inf"))]
    if entries is not None:
        parts.append(entries.logits(q))
    parts.append(sink_H.to(dtype)[None, :, None].expand(num_queries, num_heads, 1))
    p = torch.softmax(torch.cat(parts, -1), -1)
    p = p.to(q_NHC.dtype).to(dtype)  # the release multiplies values by probabilities in BF16
    out = p[..., : keys_WC.shape[0]] @ keys_WC
    if entries is not None:
        out = out + entries.mix(p[..., keys_WC.shape[0] : -1])
    return out
