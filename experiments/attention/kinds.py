"""The models that are compared: V4's blocks at nano's width, with one or the other attention.

Everything that is not attention is V4's and alike: mHC, router and experts, embedding, norms,
initialization. Ranks and heads are chosen so that whole models have equal parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from dougong.config import V3Config, V4Config, load_config
from dougong.kernels.paged import BlockPool
from dougong.model.batch import Batch
from dougong.model.initialize import initialize
from dougong.model.mla import Form, LatentAttention, LatentCache
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer

VOCAB_SIZE = 512
NUM_LAYERS = 4
WINDOW = 16  # a 512th of 8k; one of 128 answers so much that nothing is learned beyond it
CONTEXT_TOKENS = 65536
THETA = 10000.0  # V3's own, without YaRN
TOP_TOKENS = 256  # attended by a sparse layer beside its window: 64 entries of 4, or 256 tokens


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of attention.

    ratios: of V4's layers, None for MLA. latent: MLA's sizes. sizes: V4's sizes that differ from
    nano's. align: whether the indexers are taught. about: in words, for tables.
    """

    about: str
    ratios: tuple[int, ...] | None = None
    latent: dict[str, int] | None = None
    sizes: dict[str, int] | None = None
    align: bool = True
    ablation: bool = False


_INDEX = {"index_n_heads": 4, "index_head_dim": 64, "index_topk": TOP_TOKENS}
KINDS: dict[str, Kind] = {
    "window": Kind(
        about="window of 16 tokens only",
        ratios=(0, 0, 0, 0),
        sizes={"num_attention_heads": 4, "q_lora_rank": 128, "o_lora_rank": 64},
    ),
    "mla": Kind(about="V3's MLA", latent={"kv_lora_rank": 118}),
    "dsa": Kind(about="V3.2's MLA with DSA", latent={"kv_lora_rank": 78, **_INDEX}),
    "v4": Kind(about="V4's CSA and HCA", ratios=(0, 4, 128, 4)),
    "v4-unaligned": Kind(
        about="V4, indexers not taught", ratios=(0, 4, 128, 4), align=False, ablation=True
    ),
    "v4-ratio4": Kind(
        about="V4, ratio 4 only",
        ratios=(0, 4, 4, 4),
        sizes={"index_n_heads": 4},
        ablation=True,
    ),
    "v4-ratio128": Kind(
        about="V4, ratio 128 only",
        ratios=(0, 128, 128, 128),
        sizes={"q_lora_rank": 152, "o_lora_rank": 64},
        ablation=True,
    ),
}


class CachedAttention(LatentAttention):
    """MLA that is told beforehand which caches the next call's requests have."""

    caches: list[LatentCache] | None = None

    def forward(self, x_TD: Tensor, batch: Batch) -> Tensor:  # type: ignore[override]
        """Attends each request's tokens to its own past [T, D]."""
        return super().forward(x_TD, batch, self.caches)


class LatentState(RequestState):
    """A request's memory in which each layer has MLA's cache."""

    caches: list[LatentCache]


class LatentTransformer(Transformer):
    """V4's transformer with MLA in the place of its attention."""

    def __init__(self, config: V4Config, latent: V3Config, *, form: Form, **options: Any) -> None:
        super().__init__(config, **options)
        for layer in self.layers:
            layer.attn = CachedAttention(self.build, latent, form)

    def new_state(self, pool: BlockPool | None = None) -> LatentState:
        """An empty memory for one request."""
        state = LatentState(self.layout, pool)
        state.caches = [layer.attn.new_cache() for layer in self.layers]
        return state

    def forward(
        self, ids_T: Tensor, lengths: Sequence[int], states: Sequence[Any] | None = None
    ) -> Tensor:
        """The streams behind the last layer [T, S, D]."""
        for i, layer in enumerate(self.layers):
            layer.attn.caches = None if states is None else [state.caches[i] for state in states]
        return super().forward(ids_T, lengths, states)


def config_of(kind: Kind) -> V4Config:
    """The V4 configuration around this kind's attention."""
    ratios = kind.ratios or (0,) * NUM_LAYERS
    nano = load_config("nano")
    assert isinstance(nano, V4Config)
    return replace(
        nano,
        vocab_size=VOCAB_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_hash_layers=1,
        num_nextn_predict_layers=0,
        compress_ratios=ratios,
        sliding_window=WINDOW,
        max_position_embeddings=CONTEXT_TOKENS,
        **(kind.sizes or {}),
    )


def latent_config_of(config: V4Config, sizes: dict[str, int]) -> V3Config:
    """MLA in V3's proportions (value and nope 64, rope 32, four heads), the rest from `config`."""
    values: dict[str, Any] = {
        "num_attention_heads": 4,
        "q_lora_rank": 64,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        **sizes,
    }
    return V3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.hidden_size,  # of dense layers, which are not built
        moe_intermediate_size=config.moe_intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        first_k_dense_replace=0,
        n_routed_experts=config.n_routed_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        routed_scaling_factor=config.routed_scaling_factor,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=THETA,
        max_position_embeddings=config.max_position_embeddings,
        **values,
    )


def build(name: str, *, backend: str = "reference", form: Form = "absorbed") -> Transformer:
    """A model of this kind, its weights drawn from seed 0."""
    kind = KINDS[name]
    config = config_of(kind)
    if kind.latent is None:
        return initialize(Transformer(config, backend=backend), seed=0)
    latent = latent_config_of(config, kind.latent)
    return initialize(LatentTransformer(config, latent, form=form, backend=backend), seed=0)


def num_parameters(model: nn.Module) -> int:
    """Trained values."""
    return sum(parameter.numel() for parameter in model.parameters())
