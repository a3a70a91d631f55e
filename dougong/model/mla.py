"""DeepSeek-V3's multi-head latent attention (MLA), with V3.2's sparse indexer on top.

A token is cached as one normed latent and one rotated key that all heads share: 512 + 64 values
at the release's shapes. The naive form up-projects every cached latent to per-head keys and
values. The absorbed form moves those two projections onto the query and the output, so that every
head reads the latent itself, as V4's heads read their one shared vector. Both are one function.

Shapes: T flat tokens, D hidden_size, H heads, Q q_lora_rank, C kv_lora_rank, R qk_rope_head_dim,
P qk_nope_head_dim, V v_head_dim, X channels side by side (P + R in a query, C + R in the cache),
F = R / 2 rope frequencies; of one request: N tokens of this call, S tokens so far, K selected
ones; of the indexer: J heads, I index_head_dim.
Source: the DeepSeek-V3 and V3.2-Exp reports; architecture specification 1.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.config import RopeScaling, V3Config
from dougong.kernels.dtypes import widen
from dougong.kernels.paged import Span, Spans
from dougong.kernels.rotary import frequencies, rotate
from dougong.model.batch import Batch
from dougong.model.layers import Build, Linear, RMSNorm, WideLinear
from dougong.model.log import Log

Form = Literal["naive", "absorbed"]
QUERY_BLOCK = 128  # queries scored together: bounds the [H, N, S] intermediates
INDEX_NORM_EPS = 1e-6  # of the indexer's LayerNorm, whatever rms_norm_eps may be


class LatentCache:
    """What one layer keeps of one request: latents with their key, and V3.2's index keys."""

    def __init__(self, latent: Log, index: Log | None) -> None:
        self.latent, self.index = latent, index

    def logs(self) -> list[Log]:
        """Every log of the layer."""
        return [self.latent] if self.index is None else [self.latent, self.index]

    def copy(self) -> LatentCache:
        """An independent cache with the same rows."""
        return LatentCache(self.latent.copy(), self.index and self.index.copy())


def softmax_scale(config: V3Config) -> float:
    """(P + R)^-0.5, times YaRN's magnitude squared: once for q, once for k."""
    scale: float = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    scaling = config.rope_scaling
    return scale if scaling is None else scale * _magnitude(scaling, scaling.mscale_all_dim) ** 2


def rotation_magnitude(config: V3Config) -> float:
    """What YaRN multiplies rotated channels by: 1 in V3, whose two mscales are equal.

    `softmax_scale` covers all channels by `mscale_all_dim`, so its share is divided out; a config
    without the pair means YaRN's own default, 0.1 ln(factor) + 1.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return 1.0
    if not scaling.mscale or not scaling.mscale_all_dim:
        return _magnitude(scaling, 1.0)
    return _magnitude(scaling, scaling.mscale) / _magnitude(scaling, scaling.mscale_all_dim)


def _magnitude(scaling: RopeScaling, mscale: float) -> float:
    return 0.1 * mscale * math.log(scaling.factor) + 1  # factor is at least 1


class LayerNorm(nn.Module):
    """(x - mean) / std * weight + bias, wide inside: the one true LayerNorm of the V3 family."""

    def __init__(self, build: Build, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, dtype=build.wide))
        self.bias = nn.Parameter(torch.zeros(size, dtype=build.wide))

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes the last dim."""
        shape = tuple(self.weight.shape)
        return F.layer_norm(widen(x), shape, self.weight, self.bias, self.eps).to(x.dtype)


class TokenIndexer(nn.Module):
    """V3.2's sparse attention (DSA): scores every earlier token and keeps the best `index_topk`.

    Unlike V4's indexer it has one key per token, a LayerNorm on the keys, and RoPE on the *first*
    channels in half-split pairs. The release's Hadamard transform of queries and keys cancels
    without rounding and is left out.
    """

    def __init__(
        self, build: Build, config: V3Config, num_heads: int, dim: int, top_k: int
    ) -> None:
        super().__init__()
        self.ops, self.rope_dim = build.ops, config.qk_rope_head_dim
        self.num_heads, self.dim, self.top_k = num_heads, dim, top_k
        self.wq_b = Linear(build, config.q_lora_rank, num_heads * dim, quantized=False)
        self.wk = Linear(build, config.hidden_size, dim, quantized=False)
        self.k_norm = LayerNorm(build, dim, INDEX_NORM_EPS)
        self.weights_proj = WideLinear(build, config.hidden_size, num_heads)

    def forward(
        self, x_ND: Tensor, q_latent_NQ: Tensor, rotation_NF: Tensor, cached: Log | None
    ) -> Tensor | None:
        """Which tokens each of a request's newest N attends to: indices [N, K], -1 for none.

        None: nothing to cut, every earlier token counts. Appends the new tokens' index keys to
        `cached`, if given. A selection carries no gradient: the language-model loss does not train
        the indexer.
        """
        keys_SI = _extend(cached, self.keys(x_ND, rotation_NF))
        num_tokens = keys_SI.shape[0]
        if num_tokens <= self.top_k:
            return None
        q_NJI, weight_NJ = self.queries(q_latent_NQ, x_ND, rotation_NF)
        span = Span(0, x_ND.shape[0], num_tokens - x_ND.shape[0])
        selected_NK: Tensor = self.ops.index_select(
            q_NJI.detach(),
            weight_NJ.detach(),
            Spans([span], x_ND.device),
            keys_SI.detach(),
            ratio=1,  # one key per token
            k=self.top_k,
        )
        return selected_NK

    def keys(self, x_ND: Tensor, rotation_NF: Tensor) -> Tensor:
        """One index key per token [N, I]."""
        return self._rotate(self.k_norm(self.wk(x_ND)), rotation_NF)

    def queries(
        self, q_latent_NQ: Tensor, x_ND: Tensor, rotation_NF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Index queries [N, J, I] and the weights of their heads [N, J]."""
        q_NJI: Tensor = self.wq_b(q_latent_NQ).unflatten(-1, (self.num_heads, self.dim))
        scale = self.num_heads**-0.5 * self.dim**-0.5
        return self._rotate(q_NJI, rotation_NF), self.weights_proj(x_ND) * scale

    def _rotate(self, x: Tensor, rotation_NF: Tensor) -> Tensor:
        """RoPE whose pair f is channels (f, f + R / 2): interleaves them, turns, splits again."""
        first, rest = x[..., : self.rope_dim], x[..., self.rope_dim :]
        pairs = first.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        halves = rotate(pairs, rotation_NF).unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return torch.cat([halves, rest], -1)


class LatentAttention(nn.Module):
    """MLA in the naive or the absorbed form: the same parameters, cache and result."""

    freqs_F: Tensor

    def __init__(self, build: Build, config: V3Config, form: Form) -> None:
        super().__init__()
        hidden, heads, eps = config.hidden_size, config.num_attention_heads, config.rms_norm_eps
        self.build, self.form, self.num_heads = build, form, heads
        self.scale = softmax_scale(config)
        self.nope_dim, self.rope_dim = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.value_dim, self.latent_dim = config.v_head_dim, config.kv_lora_rank

        def linear(size_in: int, size_out: int) -> Linear:
            return Linear(build, size_in, size_out, quantized=False)

        self.q_a_proj = linear(hidden, config.q_lora_rank)
        self.q_a_layernorm = RMSNorm(build, config.q_lora_rank, eps)
        self.q_b_proj = linear(config.q_lora_rank, heads * (self.nope_dim + self.rope_dim))
        self.kv_a_proj_with_mqa = linear(hidden, self.latent_dim + self.rope_dim)
        self.kv_a_layernorm = RMSNorm(build, self.latent_dim, eps)
        self.kv_b_proj = linear(self.latent_dim, heads * (self.nope_dim + self.value_dim))
        self.o_proj = linear(heads * self.value_dim, hidden)
        self.indexer: TokenIndexer | None = None
        if config.index_n_heads and config.index_head_dim and config.index_topk:  # V3.2
            sizes = config.index_n_heads, config.index_head_dim, config.index_topk
            self.indexer = TokenIndexer(build, config, *sizes)
        self.config, self.magnitude = config, rotation_magnitude(config)
        self.register_buffer("freqs_F", self._frequencies(), persistent=False)

    def _frequencies(self) -> Tensor:
        config = self.config
        return frequencies(config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)

    def reset_tables(self) -> None:
        """Computes the RoPE frequencies on the device of the parameters."""
        with torch.device("cpu"):  # the same bits whatever device the model is on
            self.freqs_F = self._frequencies().to(self.kv_a_layernorm.weight.device)

    def new_cache(self) -> LatentCache:
        """An empty cache for one request."""

        def log(width: int) -> Log:
            return Log(width, self.build.dtype, self.freqs_F.device)

        index = None if self.indexer is None else log(self.indexer.dim)
        return LatentCache(log(self.latent_dim + self.rope_dim), index)

    def forward(
        self, x_TD: Tensor, batch: Batch, caches: Sequence[LatentCache] | None = None
    ) -> Tensor:
        """Attends each request's tokens to its own past [T, D]; appends to the caches, if any."""
        rotation_TF = batch.rotations(self.freqs_F) * self.magnitude
        q_latent_TQ, q_THX, latent_TX = self.project(x_TD, rotation_TF)
        # split, not slices: its backward joins the gradients once, not once per request
        flat = x_TD, q_latent_TQ, q_THX, latent_TX, rotation_TF
        per_request = zip(*(part.split(batch.lengths) for part in flat), strict=True)
        outputs = []
        for i, (x_ND, q_latent_NQ, q_NHX, latent_NX, rotation_NF) in enumerate(per_request):
            cache = None if caches is None else caches[i]
            latent_SX = _extend(None if cache is None else cache.latent, latent_NX)
            selected_NK = None
            if self.indexer is not None:
                index = None if cache is None else cache.index
                selected_NK = self.indexer(x_ND, q_latent_NQ, rotation_NF, index)
            outputs.append(self._attend(q_NHX, latent_SX, selected_NK))
        out: Tensor = self.o_proj(torch.cat(outputs).flatten(1))
        return out

    def project(self, x_TD: Tensor, rotation_TF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query latents [T, Q], rotated queries [T, H, P + R], what is cached [T, C + R]."""
        q_latent_TQ: Tensor = self.q_a_layernorm(self.q_a_proj(x_TD))
        q_THX: Tensor = self.q_b_proj(q_latent_TQ).unflatten(-1, (self.num_heads, -1))
        latent_TX: Tensor = rotate(self.kv_a_proj_with_mqa(x_TD), rotation_TF)
        content_TC, key_TR = latent_TX.split([self.latent_dim, self.rope_dim], -1)
        latent_TX = torch.cat([self.kv_a_layernorm(content_TC), key_TR], -1)
        return q_latent_TQ, rotate(q_THX, rotation_TF), latent_TX

    def _attend(self, q_NHX: Tensor, latent_SX: Tensor, selected_NK: Tensor | None) -> Tensor:
        """One request's newest N queries over its S tokens: mixed values [N, H, V]."""
        assert isinstance(self.kv_b_proj.weight, nn.Parameter)
        up_HXC = widen(self.kv_b_proj.weight).unflatten(0, (self.num_heads, -1))
        up_key_HPC, up_value_HVC = up_HXC.split([self.nope_dim, self.value_dim], 1)
        latent_SX = widen(latent_SX)
        latent_SC, key_SR = latent_SX.split([self.latent_dim, self.rope_dim], -1)
        q_HNX = (widen(q_NHX) * self.scale).transpose(0, 1)
        if self.form == "naive":
            key_HSR = key_SR.expand(self.num_heads, -1, -1)
            keys_HSX = torch.cat([latent_SC @ up_key_HPC.mT, key_HSR], -1)
            mixed_HNV = _mix(q_HNX, keys_HSX, latent_SC @ up_value_HVC.mT, selected_NK)
        else:
            q_HNP, q_HNR = q_HNX.split([self.nope_dim, self.rope_dim], -1)
            q_HNX = torch.cat([q_HNP @ up_key_HPC, q_HNR], -1)
            mixed_HNV = _mix(q_HNX, latent_SX, latent_SC, selected_NK) @ up_value_HVC.mT
        return mixed_HNV.transpose(0, 1).to(q_NHX.dtype)


def _extend(log: Log | None, rows: Tensor) -> Tensor:
    """All rows of a request so far: the log's and these, or these alone without a log."""
    if log is None:
        return rows
    log.append(rows)
    return log.rows()


def _mix(q_HNX: Tensor, keys: Tensor, values: Tensor, selected_NK: Tensor | None) -> Tensor:
    """softmax(q . key) @ value over the tokens each query may see: [H, N, V].

    Keys and values are per head, [H, S, X] and [H, S, V], or shared by all heads, [S, X], [S, V].
    The queries are the newest N of S tokens; `selected_NK` narrows them to some earlier tokens.
    """
    num_queries, num_tokens = q_HNX.shape[1], keys.shape[-2]
    positions_S = torch.arange(num_tokens, device=q_HNX.device)
    outputs = []
    for low in range(0, num_queries, QUERY_BLOCK):
        q = q_HNX[:, low : low + QUERY_BLOCK]
        first = num_tokens - num_queries + low
        end = first + q.shape[1]  # later tokens are hidden from all of these queries
        if selected_NK is None:
            hidden_NS = positions_S[:end] > positions_S[first:end, None]
        else:
            hidden_NS = _not_chosen(selected_NK[low : low + QUERY_BLOCK], end)
        scores_HNS = (q @ keys[..., :end, :].mT).masked_fill(hidden_NS, float("-inf"))
        outputs.append(torch.softmax(scores_HNS, -1) @ values[..., :end, :])
    return torch.cat(outputs, 1)


def _not_chosen(selected_NK: Tensor, num_tokens: int) -> Tensor:
    """True where a token is not among a query's selected ones: bool [N, S]."""
    hidden = torch.ones(
        selected_NK.shape[0], num_tokens + 1, dtype=torch.bool, device=selected_NK.device
    )
    spare = selected_NK.where(selected_NK >= 0, num_tokens)  # the spare column takes the -1s
    return hidden.scatter(1, spare, False)[:, :num_tokens]
