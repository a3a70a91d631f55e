"""Wrong choices that ports of V4 really made, each as a patch of the reference model.

Every entry is one line of the sensitivity table in the architecture specification (section 12), or
a trap of its section 10. `test_mutations.py` proves that the golden vectors catch each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.kernels import attention as attention_op
from dougong.kernels import compressor as compressor_op
from dougong.kernels import experts as experts_op
from dougong.kernels import hyper_connection as mhc_op
from dougong.kernels import index as index_op
from dougong.kernels import norm as norm_op
from dougong.kernels import registry, rotary
from dougong.kernels import router as router_op
from dougong.kernels.dtypes import widen
from dougong.model import attention as attention_model
from dougong.model import batch as batch_model
from dougong.model import compressor as compressor_model
from dougong.model import indexer as indexer_model
from dougong.model.transformer import Transformer

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """One wrong choice: how to make it, and a golden model that shows it."""

    name: str
    apply: Callable[[Patch], None]
    golden: str = "s4_mixed_mtp"
    after: Callable[[Transformer], None] | None = None  # for mistakes in a parameter


def swap_operator(patch: Patch, name: str, wrong: Callable[..., Any]) -> None:
    """Replaces one operator of the reference backend."""
    patch.setattr(registry, "REFERENCE", replace(registry.REFERENCE, **{name: wrong}))


def set_everywhere(patch: Patch, name: str, wrong: Callable[..., Any]) -> None:
    """Replaces a function in every module that imported it by name."""
    modules = (
        attention_op, compressor_op, experts_op, index_op, mhc_op, norm_op, rotary, router_op,
        attention_model, batch_model, compressor_model, indexer_model,
    )  # fmt: skip
    for module in modules:
        if hasattr(module, name):
            patch.setattr(module, name, wrong)


def half_split_rope(patch: Patch) -> None:
    def wrong(x: Tensor, rotation: Tensor, *, inverse: bool = False) -> Tensor:
        size = 2 * rotation.shape[-1]
        paired = x[..., -size:].unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        turned = rotary.rotate(paired, rotation, inverse=inverse)
        return torch.cat(
            [x[..., :-size], turned.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)], -1
        )

    set_everywhere_but_rotary(patch, "rotate", wrong)


def set_everywhere_but_rotary(patch: Patch, name: str, wrong: Callable[..., Any]) -> None:
    right = getattr(rotary, name)
    set_everywhere(patch, name, wrong)
    patch.setattr(rotary, name, right)


def no_derotation(patch: Patch) -> None:
    patch.setattr(attention_op, "rotate", lambda x, rotation, inverse=False: x)


def plain_theta_in_compressing_layers(patch: Patch) -> None:
    def wrong(self: batch_model.Batch, freqs: Tensor) -> Tensor:
        plain = rotary.frequencies(2 * freqs.shape[0], 10000.0, None)
        return rotary.rotations(plain, self.spans.positions)

    patch.setattr(batch_model.Batch, "rotations", wrong)


def yarn_in_window_layers(patch: Patch) -> None:
    def wrong(self: attention_model.Attention) -> Tensor:
        config = self.config
        return rotary.frequencies(
            config.qk_rope_head_dim, config.compress_rope_theta, config.rope_scaling
        )

    patch.setattr(attention_model.Attention, "_frequencies", wrong)


def no_yarn(patch: Patch) -> None:
    patch.setattr(
        attention_model, "frequencies", lambda dim, theta, _: rotary.frequencies(dim, theta, None)
    )


def attend(patch: Patch, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes arguments of the attention operator."""
    right, names = (
        attention_op.attention,
        ("q_THC", "kv_TC", "spans", "entries", "selected_TK", "sink_H", "rotation_TP"),
    )

    def wrong(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(zip(names, args, strict=True)) | kwargs
        change(arguments)
        return right(**arguments)

    swap_operator(patch, "attention", wrong)


def yarn_magnitude(patch: Patch) -> None:
    attend(patch, lambda a: a.update(q_THC=a["q_THC"] * 1.277**2))


def narrow_window(patch: Patch) -> None:
    attend(patch, lambda a: a.update(window=a["window"] - 1))


def no_sink(patch: Patch) -> None:
    attend(patch, lambda a: a.update(sink_H=torch.full_like(a["sink_H"], float("-inf"))))


def entry_position(patch: Patch, wrong: Callable[[Tensor], Tensor]) -> None:
    def moved(self: batch_model.Batch, freqs: Tensor, ratio: int) -> Tensor:
        ends = self.spans.positions + 1
        return rotary.rotations(freqs, wrong(ends[ends % ratio == 0] - ratio))

    patch.setattr(batch_model.Batch, "entry_rotations", moved)


def rope_at_pool_index(patch: Patch) -> None:
    entry_position(patch, lambda at: at // 4)


def rope_at_block_end(patch: Patch) -> None:
    entry_position(patch, lambda at: at + 3)


def visible_too_late(patch: Patch) -> None:
    set_everywhere(
        patch,
        "visible_entries",
        lambda start, num, ratio, device: torch.arange(start, start + num) // ratio,
    )


def no_causal_mask(patch: Patch) -> None:
    patch.setattr(
        attention_op,
        "visible_entries",
        lambda start, num, ratio, device: torch.full((num,), (start + num) // ratio),
    )


def halves_swapped(patch: Patch) -> None:
    right = compressor_op.pool

    def wrong(value: Tensor, score: Tensor, *, overlap: bool, first: bool) -> Tensor:
        if overlap:
            half = value.shape[-1] // 2
            value, score = value.roll(half, -1), score.roll(half, -1)
        return right(value, score, overlap=overlap, first=first)

    patch.setattr(compressor_op, "pool", wrong)


def no_overlap_block(patch: Patch) -> None:
    right = compressor_op.pool

    def wrong(value: Tensor, score: Tensor, *, overlap: bool, first: bool) -> Tensor:
        if not overlap:
            return right(value, score, overlap=False, first=first)
        half = value.shape[-1] // 2
        return right(value[..., half:], score[..., half:], overlap=False, first=first)

    patch.setattr(compressor_op, "pool", wrong)


def index_without_relu(patch: Patch) -> None:
    def wrong(q: Tensor, weight: Tensor, keys: Tensor) -> Tensor:
        return torch.einsum("nj,njd,md->nm", weight, q, keys)

    patch.setattr(index_op, "index_scores", wrong)


def absolute_index_weights(patch: Patch) -> None:
    right = index_op.index_scores
    patch.setattr(index_op, "index_scores", lambda q, w, keys: right(q, w.abs(), keys))


def no_head_norm(patch: Patch) -> None:
    swap_operator(patch, "norm_rope_q", lambda q, rotation, eps: rotary.rotate(q, rotation))


def mixing_not_transposed(patch: Patch) -> None:
    swap_operator(
        patch,
        "mhc_post",
        lambda y, streams, post, comb: mhc_op.mhc_post(y, streams, post, comb.transpose(0, 1)),
    )


def post_without_two(patch: Patch) -> None:
    def wrong(*args: Any, **kwargs: Any) -> Any:
        x, post, comb = mhc_op.mhc_pre(*args, **kwargs)
        return x, post / 2, comb

    swap_operator(patch, "mhc_pre", wrong)


def three_sinkhorn_iterations(patch: Patch) -> None:
    right = mhc_op.sinkhorn
    patch.setattr(mhc_op, "sinkhorn", lambda a, iterations, eps: right(a, 3, eps))


def sinkhorn_ends_with_rows(patch: Patch) -> None:
    right = mhc_op.sinkhorn

    def wrong(a: Tensor, iterations: int, eps: float) -> Tensor:
        p = right(a, iterations, eps)
        return p / (p.sum(1, keepdim=True) + eps)

    patch.setattr(mhc_op, "sinkhorn", wrong)


def no_hc_eps(patch: Patch) -> None:
    def wrong(*args: Any, hc_eps: float, **kwargs: Any) -> Any:
        return mhc_op.mhc_pre(*args, hc_eps=0.0, **kwargs)

    swap_operator(patch, "mhc_pre", wrong)


def mean_instead_of_head(patch: Patch) -> None:
    swap_operator(patch, "mhc_head", lambda streams, *args, **kwargs: streams.mean(1))


def shared_expert_unclamped(patch: Patch) -> None:
    def wrong(*args: Any, limit: float, rounded: bool) -> Tensor:
        return experts_op.expert_mlp(*args, limit=0.0, rounded=rounded)

    swap_operator(patch, "expert_mlp", wrong)


def two_sided_gate_clamp(patch: Patch) -> None:
    right = experts_op.swiglu
    set_everywhere(
        patch, "swiglu", lambda gate, up, limit: right(gate.clamp(min=-limit), up, limit)
    )


def clamp_after_activation(patch: Patch) -> None:
    def wrong(gate: Tensor, up: Tensor, limit: float) -> Tensor:
        return (F.silu(widen(gate)) * widen(up)).clamp(-limit, limit)

    set_everywhere(patch, "swiglu", wrong)


def weights_from_biased_scores(patch: Patch) -> None:
    def wrong(
        x: Tensor, weight: Tensor, bias: Tensor | None, hashed: Tensor | None, **kwargs: Any
    ) -> Any:
        _, experts = router_op.router(x, weight, bias, hashed, **kwargs)
        scores = router_op.router_scores(x, weight)
        scores = scores if bias is None else scores + bias
        picked = scores.gather(-1, experts)
        return picked / picked.sum(-1, keepdim=True) * kwargs["route_scale"], experts

    swap_operator(patch, "router", wrong)


def sigmoid_scores(patch: Patch) -> None:
    patch.setattr(router_op, "router_scores", lambda x, weight: torch.sigmoid(x @ weight.t()))


def no_route_scale(patch: Patch) -> None:
    def wrong(*args: Any, route_scale: float, top_k: int) -> Any:
        return router_op.router(*args, route_scale=1.0, top_k=top_k)

    swap_operator(patch, "router", wrong)


def nothing(patch: Patch) -> None:
    """For mistakes made in a parameter after loading."""


def without_ape(model: Transformer) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".ape"):
            parameter.zero_()


MUTATIONS = [
    Mutation("half-split RoPE", half_split_rope),
    Mutation("no output de-rotation", no_derotation),
    Mutation("theta 10000 for q and kv of compressing layers", plain_theta_in_compressing_layers),
    Mutation("theta 160000 and YaRN in window layers", yarn_in_window_layers),
    Mutation("no YaRN", no_yarn),
    Mutation("logits times YaRN's magnitude squared", yarn_magnitude),
    Mutation("compressed RoPE at the pool index", rope_at_pool_index, "s2_csa"),
    Mutation("compressed RoPE at the block's end", rope_at_block_end, "s2_csa"),
    Mutation("visible only from floor(t / m)", visible_too_late),
    Mutation("no causal mask on compressed entries", no_causal_mask, "s3_hca"),
    Mutation("window of 127", narrow_window),
    Mutation("CSA halves swapped", halves_swapped),
    Mutation("CSA without the overlapping block", no_overlap_block),
    Mutation("indexer without ReLU", index_without_relu, "s2_csa"),
    Mutation("absolute value of the index weights", absolute_index_weights, "s2_csa"),
    Mutation("no ape", nothing, after=without_ape),
    Mutation("no attention sink", no_sink),
    Mutation("no per-head query norm", no_head_norm),
    Mutation("mHC matrix not transposed", mixing_not_transposed),
    Mutation("mHC post without the factor 2", post_without_two),
    Mutation("3 Sinkhorn iterations", three_sinkhorn_iterations),
    Mutation("Sinkhorn ending with rows", sinkhorn_ends_with_rows),
    Mutation("mHC eps left out", no_hc_eps),
    Mutation("streams averaged instead of the mHC head", mean_instead_of_head),
    Mutation("shared expert unclamped", shared_expert_unclamped, "s2_csa"),
    Mutation("two-sided clamp of the gate", two_sided_gate_clamp, "s2_csa"),
    Mutation("clamp behind the activation", clamp_after_activation, "s2_csa"),
    Mutation("routing weights from biased scores", weights_from_biased_scores),
    Mutation("sigmoid router scores", sigmoid_scores),
    Mutation("no routed scaling factor", no_route_scale),
]
