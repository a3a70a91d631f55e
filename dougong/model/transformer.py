"""The whole DeepSeek-V4 model.

Parameters carry the published checkpoint's names, except that routed experts are stacked
(`layers.N.ffn.experts.w1` [E, I, D]) and mHC parameters sit in modules (`hc_attn.fn` for
`hc_attn_fn`); model/loading.py maps both.

Shapes: T flat tokens, S streams, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dougong.config import V4Config
from dougong.errors import BackendError, ConfigError, InputError
from dougong.kernels.paged import BlockPool
from dougong.kernels.registry import operators
from dougong.model.attention import Attention
from dougong.model.batch import Batch, check_tokens
from dougong.model.decode import RecordedSteps
from dougong.model.expert_cache import ExpertCache
from dougong.model.hyper_connection import HyperConnection, HyperHead
from dougong.model.layers import Build, Embedding, Linear, RMSNorm, WideLinear
from dougong.model.layout import LayerPlaces, StateLayout
from dougong.model.moe import MoE
from dougong.model.state import RequestState

ROUNDINGS = ("none", "release")
BACKEND_DTYPES = {"cpu": (torch.float32, torch.bfloat16), "training": (torch.float32,)}


class Block(nn.Module):
    """One layer: attention and mixture of experts, each inside a hyper-connection."""

    def __init__(
        self, build: Build, config: V4Config, places: LayerPlaces, *, hashed: bool
    ) -> None:
        super().__init__()
        self.attn = Attention(build, config, places)
        self.ffn = MoE(build, config, hashed=hashed)
        self.attn_norm = RMSNorm(build, config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(build, config.hidden_size, config.rms_norm_eps)
        self.hc_attn = HyperConnection(build, config)
        self.hc_ffn = HyperConnection(build, config)

    def forward(self, streams_TSD: Tensor, batch: Batch) -> Tensor:
        """The streams behind this layer [T, S, D]."""
        x_TD, post, comb = self.hc_attn.collapse(streams_TSD)
        y_TD: Tensor = self.attn(self.attn_norm(x_TD), batch)
        streams_TSD = self.hc_attn.expand(y_TD, streams_TSD, post, comb)
        x_TD, post, comb = self.hc_ffn.collapse(streams_TSD)
        y_TD = self.ffn(self.ffn_norm(x_TD), batch.ids_T)
        return self.hc_ffn.expand(y_TD, streams_TSD, post, comb)


class MTPBlock(Block):
    """Multi-token prediction: from the streams at position i and token i + 1 towards token i + 2.

    Two separate projections, the hidden norm per stream; embedding and head are the main model's.
    """

    def __init__(self, build: Build, config: V4Config, places: LayerPlaces) -> None:
        super().__init__(build, config, places, hashed=False)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.e_proj = Linear(build, size, size, quantized=True)
        self.h_proj = Linear(build, size, size, quantized=True)
        self.enorm = RMSNorm(build, size, eps)
        self.hnorm = RMSNorm(build, size, eps)
        self.norm = RMSNorm(build, size, eps)
        self.hc_head = HyperHead(build, config)

    def mix(self, streams_TSD: Tensor, embedded_TD: Tensor) -> Tensor:
        """The block's input streams: e_proj(norm(embedding)) + h_proj(norm(stream)), per stream."""
        e_T1D: Tensor = self.e_proj(self.enorm(embedded_TD))[:, None]
        h_TSD: Tensor = self.h_proj(self.hnorm(streams_TSD))
        return e_T1D + h_TSD


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Transformer(nn.Module):
    """DeepSeek-V4: token ids to streams to logits, with or without request states.

    Args:
        config: shapes and constants.
        backend: the operator table (`kernels.registry`).
        rounding: "none", or "release" for the release's run-time rounding of cache entries, index
            vectors and, in a quantized checkpoint, of what enters its FP8 and FP4 matrices.
        dtype: of activations and matrices: float64, float32 or bfloat16.
    """

    def __init__(
        self,
        config: V4Config,
        *,
        backend: str = "reference",
        rounding: str = "none",
        dtype: torch.dtype = torch.float32,
        fallback: bool = True,
    ) -> None:
        super().__init__()
        if rounding not in ROUNDINGS:
            raise ConfigError(f"rounding: '{rounding}' is unknown; choose {' or '.join(ROUNDINGS)}")
        if dtype not in (torch.float64, torch.float32, torch.bfloat16):
            raise ConfigError(f"dtype: {dtype} is not supported; use float64, float32 or bfloat16")
        if dtype not in BACKEND_DTYPES.get(backend, (dtype,)):
            known = " or ".join(map(_name, BACKEND_DTYPES[backend]))
            raise BackendError(
                f"backend {backend} computes in {known}; use the reference for {_name(dtype)}"
            )
        ops, rounded = operators(backend, fallback=fallback), rounding == "release"
        build = Build(ops, dtype, rounded, rounded and config.quantized)
        self.config, self.build = config, build
        self._steps: RecordedSteps | None = None  # once they are needed
        self.records_steps = False  # set by the loader, where weights never move
        self.expert_cache: ExpertCache | None = None  # by the loader, under a memory budget
        self.embed = Embedding(build, config.vocab_size, config.hidden_size)
        self.layout = StateLayout(config, dtype, rounded=rounded)
        main, places = config.num_hidden_layers, self.layout.layers
        self.layers = nn.ModuleList(
            Block(build, config, places[i], hashed=i < config.num_hash_layers) for i in range(main)
        )
        self.mtp = nn.ModuleList(MTPBlock(build, config, place) for place in places[main:])
        self.hc_head = HyperHead(build, config)
        self.norm = RMSNorm(build, config.hidden_size, config.rms_norm_eps)
        self.head = WideLinear(build, config.hidden_size, config.vocab_size)
        self.reset_tables()

    def reset_tables(self) -> None:
        """Recomputes the RoPE frequencies, after `to_empty` left them undefined."""
        tables: dict[bool, Tensor] = {}
        for module in self.modules():
            if isinstance(module, Attention):  # layers that compress share one, the others another
                module.reset_tables()
                module.freqs_P = tables.setdefault(module.ratio > 0, module.freqs_P)

    def set_dense_attention(self, dense: bool) -> None:
        """Whether CSA layers attend to every visible entry instead of the selected ones."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.dense = dense

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.norm.weight.device

    def new_state(self, pool: BlockPool | None = None) -> RequestState:
        """An empty memory for one request; its blocks come from `pool`, or a pool of its own."""
        return RequestState(self.layout, pool, self.device)

    def forward(
        self,
        ids_T: Tensor,
        lengths: Sequence[int],
        states: Sequence[RequestState] | None = None,
    ) -> Tensor:
        """The streams behind the last layer [T, S, D] for requests laid end to end.

        Args:
            ids_T: int64 token ids; `lengths`: how many belong to each request.
            states: one per request, continued and advanced; None starts every request at
                position 0 and remembers nothing (training).
        Raises:  InputError for ids outside the vocabulary, lengths that do not add up, contexts
            beyond max_position_embeddings.
        """
        starts = [0] * len(lengths) if states is None else [state.length for state in states]
        check_tokens(self.config, ids_T, lengths, starts)
        for state, length in zip(states or [], lengths, strict=False):
            state.reserve(length)
        batch = Batch.of(ids_T, lengths, states)
        if self.expert_cache is not None:
            self.expert_cache.begin(ids_T)
        streams_TSD = self._layers(batch)
        for state, length in zip(states or [], lengths, strict=False):
            state.advance(length)
        return streams_TSD

    def _layers(self, batch: Batch) -> Tensor:
        embedded_TD: Tensor = self.embed(batch.ids_T)
        if self.records_steps and batch.spans.remembered:
            self._steps = self._steps or RecordedSteps(self)
            recorded_TSD = self._steps.run(batch, embedded_TD)
            if recorded_TSD is not None:
                return recorded_TSD
        streams_TSD = embedded_TD[:, None].repeat(1, self.config.hc_mult, 1)
        for layer in self.layers:
            streams_TSD = layer(streams_TSD, batch)
        return streams_TSD

    def logits(self, streams_TSD: Tensor) -> Tensor:
        """Next-token scores [T, V] in the wide dtype."""
        return self._head(self.logit_input(streams_TSD))

    def logit_input(self, streams_TSD: Tensor) -> Tensor:
        """What the head multiplies [T, D]: the streams collapsed and normalized."""
        x_TD: Tensor = self.norm(self.hc_head(streams_TSD))
        return x_TD

    def mtp_streams(
        self,
        streams_TSD: Tensor,
        next_ids_T: Tensor,
        lengths: Sequence[int],
        states: Sequence[RequestState] | None = None,
        block: int = 0,
    ) -> Tensor:
        """MTP block `block` on streams at positions i and the ids of positions i + 1: [T, S, D].

        Feed its own result back (with the next ids) to draft further ahead.
        """
        if not 0 <= block < len(self.mtp):
            raise InputError(f"MTP block {block} does not exist: this model has {len(self.mtp)}")
        starts = [0] * len(lengths)
        if states is not None:
            starts = [state.mtp_lengths[block] for state in states]
        check_tokens(self.config, next_ids_T, lengths, starts)
        batch = Batch.of(next_ids_T, lengths, states, block)
        mtp = self.mtp[block]
        assert isinstance(mtp, MTPBlock)
        streams_TSD = mtp.mix(streams_TSD, self.embed(next_ids_T))
        streams_TSD = mtp(streams_TSD, batch)
        for state, length in zip(states or [], lengths, strict=False):
            state.advance_mtp(block, length)
        return streams_TSD

    def mtp_logits(self, streams_TSD: Tensor, block: int = 0) -> Tensor:
        """Scores of the token after next [T, V], from `mtp_streams`."""
        return self._head(self.mtp_logit_input(streams_TSD, block))

    def mtp_logit_input(self, streams_TSD: Tensor, block: int = 0) -> Tensor:
        """`logit_input` of an MTP block's streams."""
        mtp = self.mtp[block]
        assert isinstance(mtp, MTPBlock)
        x_TD: Tensor = mtp.norm(mtp.hc_head(streams_TSD))
        return x_TD

    def _head(self, x_TD: Tensor) -> Tensor:
        scores_TV: Tensor = self.build.ops.logits(x_TD, self.head.weight)
        return scores_TV
