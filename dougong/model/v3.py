"""DeepSeek-V3 and V3.2 as a whole: the models that V4's attention and experts are measured against.

Parameters carry the names of the published V3 checkpoints, except that a layer's routed experts
are stacked (`model.layers.N.mlp.experts.gate_proj` [E, I, D]). The multi-token prediction layer is
left out.

Shapes: T flat tokens, D hidden_size, E routed experts, G expert groups, K experts per token,
I expert width, V vocabulary.
Source: the DeepSeek-V3 and V3.2-Exp reports; architecture specification 1.3, 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.config import V3Config
from dougong.errors import ConfigError, InputError
from dougong.kernels.registry import operators
from dougong.kernels.router import top_k_lowest_index
from dougong.model.batch import Batch, check_tokens
from dougong.model.layers import Build, Embedding, Linear, RMSNorm, WideLinear, parameter
from dougong.model.log import Log
from dougong.model.mla import Form, LatentAttention, LatentCache


class V3State:
    """The memory of one request: `length` tokens, and each layer's latents of them."""

    def __init__(self, layers: list[LatentCache], length: int = 0) -> None:
        self.layers, self.length = layers, length

    def advance(self, num_tokens: int) -> None:
        """Called by the model after the layers took `num_tokens` more tokens."""
        self.length += num_tokens

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last `num_tokens` tokens; latents are per token, so any number will do.

        Raises InputError if the request does not have that many.
        """
        if not 0 <= num_tokens <= self.length:
            raise InputError(
                f"rollback: {num_tokens} tokens cannot be taken back, only 0 to {self.length}"
            )
        self.length -= num_tokens
        for log in self.logs():
            log.cut(self.length)

    def fork(self) -> V3State:
        """An independent request with the same past."""
        return V3State([cache.copy() for cache in self.layers], self.length)

    def logs(self) -> list[Log]:
        """Every log of every layer."""
        return [log for cache in self.layers for log in cache.logs()]

    @property
    def num_bytes(self) -> int:
        """Bytes of all logs, spare room included."""
        return sum(log.num_bytes for log in self.logs())


class GroupLimitedRouter(nn.Module):
    """Sigmoid router (`noaux_tc`): the best groups of experts, then the best experts in them.

    The bias balances load: it changes which experts win, never how much each one counts.
    """

    e_score_correction_bias: Tensor

    def __init__(self, build: Build, config: V3Config) -> None:
        super().__init__()
        self.top_k, self.num_groups = config.num_experts_per_tok, config.n_group
        self.top_groups, self.normalized = config.topk_group, config.norm_topk_prob
        self.route_scale = config.routed_scaling_factor
        num_experts = config.n_routed_experts
        self.weight = parameter(num_experts, config.hidden_size, dtype=build.wide)
        # Moved by a rule, not by a gradient: a buffer.
        bias = torch.zeros(num_experts, dtype=build.wide)
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(weights_TK wide, experts_TK int64)."""
        scores_TE = torch.sigmoid(F.linear(x_TD.to(self.weight.dtype), self.weight))
        experts_TK = self.select(scores_TE.detach() + self.e_score_correction_bias)
        weights_TK = scores_TE.gather(-1, experts_TK)
        if self.normalized:
            weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
        return weights_TK * self.route_scale, experts_TK

    def select(self, biased_TE: Tensor) -> Tensor:
        """The `top_k` experts [T, K] inside the `topk_group` best groups; ties: lowest index.

        A group is as good as the sum of its two best experts (of its only one, if so small).
        """
        grouped = biased_TE.unflatten(-1, (self.num_groups, -1))  # [T, G, E / G]
        group_TG = grouped.topk(min(2, grouped.shape[-1]), -1).values.sum(-1)
        winners = top_k_lowest_index(group_TG, self.top_groups)
        loses_TG = torch.ones_like(group_TG, dtype=torch.bool).scatter(-1, winners, False)
        allowed_TE = grouped.masked_fill(loses_TG[..., None], float("-inf")).flatten(-2)
        return top_k_lowest_index(allowed_TE, self.top_k)


class DenseMLP(nn.Module):
    """SwiGLU without V4's clamp: the first layers' MLP, and the shared expert."""

    def __init__(self, build: Build, hidden: int, width: int) -> None:
        super().__init__()
        self.ops = build.ops
        self.gate_proj = Linear(build, hidden, width, quantized=False)
        self.up_proj = Linear(build, hidden, width, quantized=False)
        self.down_proj = Linear(build, width, hidden, quantized=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D]."""
        gate, up, down = self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight
        y_TD: Tensor = self.ops.expert_mlp(x_TD, gate, up, down, None, limit=0.0, rounded=False)
        return y_TD


class StackedExperts(nn.Module):
    """All routed experts' matrices: gate_proj, up_proj [E, I, D] and down_proj [E, D, I]."""

    def __init__(self, build: Build, config: V3Config) -> None:
        super().__init__()
        self.ops = build.ops
        shape = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_proj = parameter(*shape, dtype=build.dtype)
        self.up_proj = parameter(*shape, dtype=build.dtype)
        self.down_proj = parameter(shape[0], shape[2], shape[1], dtype=build.dtype)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """The weighted sum of each token's experts, wide: [T, D]."""
        matrices = self.gate_proj, self.up_proj, self.down_proj
        y_TD: Tensor = self.ops.grouped_experts(
            x_TD, weights_TK, experts_TK, *matrices, limit=0.0, rounded=False
        )
        return y_TD


class V3MoE(nn.Module):
    """Router, routed experts, and the shared expert that every token passes."""

    def __init__(self, build: Build, config: V3Config) -> None:
        super().__init__()
        shared_width = config.moe_intermediate_size * config.n_shared_experts
        self.gate = GroupLimitedRouter(build, config)
        self.experts = StackedExperts(build, config)
        self.shared_experts = DenseMLP(build, config.hidden_size, shared_width)

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D]."""
        weights_TK, experts_TK = self.gate(x_TD)
        routed_TD: Tensor = self.experts(x_TD, weights_TK, experts_TK)
        shared_TD: Tensor = self.shared_experts(x_TD)
        return (routed_TD + shared_TD).to(x_TD.dtype)


class V3Block(nn.Module):
    """One layer: attention and MLP, dense in the first layers, each added to the residual."""

    def __init__(self, build: Build, config: V3Config, form: Form, *, dense: bool) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(build, hidden, eps)
        self.self_attn = LatentAttention(build, config, form)
        self.post_attention_layernorm = RMSNorm(build, hidden, eps)
        width = config.intermediate_size
        self.mlp = DenseMLP(build, hidden, width) if dense else V3MoE(build, config)

    def forward(
        self, x_TD: Tensor, batch: Batch, caches: Sequence[LatentCache] | None = None
    ) -> Tensor:
        """The hidden states behind this layer [T, D]."""
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), batch, caches)
        y_TD: Tensor = self.mlp(self.post_attention_layernorm(x_TD))
        return x_TD + y_TD


class V3Decoder(nn.Module):
    """Embedding, layers and final norm: what the checkpoint calls `model`."""

    def __init__(self, build: Build, config: V3Config, form: Form) -> None:
        super().__init__()
        self.embed_tokens = Embedding(build, config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            V3Block(build, config, form, dense=i < config.first_k_dense_replace)
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(build, config.hidden_size, config.rms_norm_eps)


class V3Transformer(nn.Module):
    """DeepSeek-V3, or V3.2 where the config names an `index_topk`: token ids to logits.

    Args: config: shapes and constants; form: how MLA is computed, "naive" or "absorbed";
          dtype: of activations and matrices: float64, float32 or bfloat16.
    """

    def __init__(
        self,
        config: V3Config,
        form: Form = "absorbed",
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ConfigError(f"form: '{form}' is unknown; choose one of {get_args(Form)}")
        build = Build(operators(), dtype, rounded=False)
        self.config, self.build = config, build
        self.model = V3Decoder(build, config, form)
        self.lm_head = WideLinear(build, config.hidden_size, config.vocab_size)

    @property
    def attentions(self) -> list[LatentAttention]:
        """Every layer's attention, first layer first."""
        return [module for module in self.modules() if isinstance(module, LatentAttention)]

    def reset_tables(self) -> None:
        """Recomputes the RoPE frequencies, after `to_empty` left them undefined."""
        for attention in self.attentions:
            attention.reset_tables()

    def new_state(self) -> V3State:
        """An empty memory for one request."""
        return V3State([attention.new_cache() for attention in self.attentions])

    def forward(
        self, ids_T: Tensor, lengths: Sequence[int], states: Sequence[V3State] | None = None
    ) -> Tensor:
        """Hidden states behind the last layer [T, D] for requests laid end to end.

        Args:
            ids_T: int64 token ids; `lengths`: how many belong to each request.
            states: one per request, continued and advanced; None starts every request at
                position 0 and remembers nothing (training).
        Raises:  InputError for ids outside the vocabulary, lengths that do not add up, contexts
            beyond max_position_embeddings.
        """
        starts = [0] * len(lengths) if states is None else [state.length for state in states]
        check_tokens(self.config, ids_T, lengths, starts)
        batch = Batch.flatten(ids_T, lengths, starts)
        x_TD: Tensor = self.model.embed_tokens(ids_T)
        for i, layer in enumerate(self.model.layers):
            caches = None if states is None else [state.layers[i] for state in states]
            x_TD = layer(x_TD, batch, caches)
        for state, length in zip(states or [], lengths, strict=False):
            state.advance(length)
        return x_TD

    def logits(self, x_TD: Tensor) -> Tensor:
        """Next-token scores [T, V] in the wide dtype."""
        scores_TV: Tensor = self.build.ops.logits(self.model.norm(x_TD), self.lm_head.weight)
        return scores_TV
