"""Mixture of experts: router, routed experts, and the shared expert every token passes.

Shapes: T tokens, D hidden size, E experts, I expert width, K experts per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from dougong.config import V4Config
from dougong.model.expert_cache import ExpertCache
from dougong.model.layers import Build, Linear, parameter


class Router(nn.Module):
    """Names K experts a token and their weights: by score, or by a token-id table (hash layers)."""

    bias: Tensor | None
    tid2eid: Tensor | None

    def __init__(self, build: Build, config: V4Config, *, hashed: bool) -> None:
        super().__init__()
        self.ops, self.top_k = build.ops, config.num_experts_per_tok
        self.route_scale = config.routed_scaling_factor
        self.imposed_TK: Tensor | None = None  # experts named from outside (training)
        num_experts = config.n_routed_experts
        self.weight = parameter(num_experts, config.hidden_size, dtype=build.wide)
        # The bias balances load and is moved by a rule, not by a gradient: a buffer.
        bias = None if hashed else torch.zeros(num_experts, dtype=build.wide)
        table = torch.zeros(config.vocab_size, self.top_k, dtype=torch.int64) if hashed else None
        self.register_buffer("bias", bias)
        self.register_buffer("tid2eid", table)

    def forward(self, x_TD: Tensor, ids_T: Tensor) -> tuple[Tensor, Tensor]:
        """(weights_TK wide, experts_TK int64)."""
        named_TK = self.imposed_TK
        if self.tid2eid is not None:
            named_TK = self.ops.lookup(self.tid2eid, ids_T)
        weights_TK, experts_TK = self.ops.router(
            x_TD, self.weight, self.bias, named_TK, top_k=self.top_k, route_scale=self.route_scale
        )
        return weights_TK, experts_TK


class RoutedExperts(nn.Module):
    """All routed experts' matrices, stacked: w1, w3 [E, I, D] and w2 [E, D, I].

    `cache`: what brings them into memory if they have a budget, and the layer's place in it.
    """

    cache: tuple[ExpertCache, int] | None = None

    def __init__(self, build: Build, config: V4Config) -> None:
        super().__init__()
        self.build, self.limit = build, config.swiglu_limit
        shape = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.w1 = parameter(*shape, dtype=build.dtype)
        self.w3 = parameter(*shape, dtype=build.dtype)
        self.w2 = parameter(shape[0], shape[2], shape[1], dtype=build.dtype)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        """The weighted sum of each token's experts, wide: [T, D]."""
        y_TD: Tensor = self.build.ops.grouped_experts(
            x_TD,
            weights_TK,
            experts_TK,
            self.w1,
            self.w3,
            self.w2,
            limit=self.limit,
            rounded=self.build.rounded_inputs,
        )
        return y_TD

    def arriving(self, experts_TK: Tensor) -> AbstractContextManager[Iterator[list[int]] | None]:
        """Begins to bring these experts into memory; None where they are."""
        if self.cache is None:
            return nullcontext()
        cache, layer = self.cache
        return cache.groups(layer, experts_TK)

    def by_groups(
        self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, groups: Iterator[list[int]]
    ) -> Tensor:
        """`forward`, computing experts in the order in which they come: the same bits."""
        tokens, top_k = experts_TK.shape
        slots = experts_TK.flatten()  # slot i belongs to token i // K
        by_expert = slots.argsort(stable=True)
        ends = slots.bincount(minlength=self.w1.shape[0]).cumsum(0).tolist()
        runs = [by_expert[low:high] for low, high in pairwise([0, *ends])]
        y_SD = x_TD.new_empty(tokens * top_k, x_TD.shape[-1], dtype=weights_TK.dtype)
        for group in groups:
            mine = torch.cat([runs[expert] for expert in group])
            y_SD[mine] = self(
                x_TD[mine // top_k], weights_TK.flatten()[mine, None], slots[mine, None]
            )
        y_TKD = y_SD.view(tokens, top_k, -1)
        total_TD = y_TKD[:, 0]
        for slot in range(1, top_k):
            total_TD = total_TD + y_TKD[:, slot]
        return total_TD


class SharedExpert(nn.Module):
    """The expert that every token passes, with the same clamp as the routed ones (trap 11)."""

    def __init__(self, build: Build, config: V4Config) -> None:
        super().__init__()
        self.build, self.limit = build, config.swiglu_limit
        hidden, inter = config.hidden_size, config.moe_intermediate_size * config.n_shared_experts
        self.w1 = Linear(build, hidden, inter, quantized=True)
        self.w2 = Linear(build, inter, hidden, quantized=True)
        self.w3 = Linear(build, hidden, inter, quantized=True)

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D]."""
        y_TD: Tensor = self.build.ops.expert_mlp(
            x_TD,
            self.w1.weight,
            self.w3.weight,
            self.w2.weight,
            None,
            limit=self.limit,
            rounded=self.build.rounded_inputs,
        )
        return y_TD


class MoE(nn.Module):
    """Router, routed experts and shared expert. Every V4 layer has one."""

    def __init__(self, build: Build, config: V4Config, *, hashed: bool) -> None:
        super().__init__()
        self.ops = build.ops
        self.gate = Router(build, config, hashed=hashed)
        self.experts = RoutedExperts(build, config)
        self.shared_experts = SharedExpert(build, config)

    def forward(self, x_TD: Tensor, ids_T: Tensor) -> Tensor:
        """[T, D]; hash layers need the token ids."""
        weights_TK, experts_TK = self.gate(x_TD, ids_T)
        with self.experts.arriving(experts_TK) as groups:
            shared_TD: Tensor = self.shared_experts(x_TD)
            if groups is None:
                routed_TD: Tensor = self.experts(x_TD, weights_TK, experts_TK)
            else:
                routed_TD = self.experts.by_groups(x_TD, weights_TK, experts_TK, groups)
        y_TD: Tensor = self.ops.add(routed_TD, shared_TD, x_TD.dtype)
        return y_TD
