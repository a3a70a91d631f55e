"""V3 and V3.2 against transformers 5.23.0 on random tiny models: values, gradients, cached runs."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    logging,
)

from dougong.config import RopeScaling, V3Config
from dougong.model.v3 import V3Transformer
from dougong.model.v3_loading import load_v3_model, load_v3_tensors, v3_parameters

logging.set_verbosity_error()  # it warns of YaRN factors that differ from max / original length

# Both sides compute in float32 but order sums differently; measured: 1.1e-6 at most in logits, 6e-6
# in gradients, relative to the largest value.
LOGITS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 5e-5


@dataclass(frozen=True)
class Case:
    """A drawn model and the requests to run through it."""

    config: V3Config
    lengths: list[int]
    seed: int


@st.composite
def scalings(draw: st.DrawFn) -> RopeScaling:
    mscale_all_dim = draw(st.sampled_from([0.0, 0.7, 1.0]))
    return RopeScaling(
        factor=draw(st.sampled_from([1.0, 4.0, 40.0])),
        original_max_position_embeddings=draw(st.sampled_from([16, 64, 4096])),
        mscale=draw(st.sampled_from([mscale_all_dim, 1.0])),
        mscale_all_dim=mscale_all_dim,
    )


@st.composite
def cases(draw: st.DrawFn, *, sparse: bool) -> Case:
    groups, size = draw(st.sampled_from([(1, 4), (2, 4), (4, 2), (4, 3)]))
    top_groups = draw(st.integers(1, groups))
    layers = draw(st.integers(1, 3))
    rope_dim = draw(st.sampled_from([4, 8]))
    index = {}
    if sparse:  # many heads: with few, whole scores are 0 after the ReLU, and tied
        index = {"index_n_heads": 16, "index_head_dim": rope_dim + draw(st.integers(0, 8))}
        index["index_topk"] = draw(st.integers(1, 24))
    config = V3Config(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=draw(st.integers(1, 4)),
        q_lora_rank=draw(st.sampled_from([8, 20])),
        kv_lora_rank=draw(st.sampled_from([8, 24])),
        qk_nope_head_dim=draw(st.sampled_from([4, 12])),
        qk_rope_head_dim=rope_dim,
        v_head_dim=draw(st.sampled_from([4, 12])),
        first_k_dense_replace=draw(st.integers(0, layers)),
        n_routed_experts=groups * size,
        num_experts_per_tok=draw(st.integers(1, top_groups * size)),
        n_shared_experts=draw(st.integers(1, 2)),
        n_group=groups,
        topk_group=top_groups,
        routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
        norm_topk_prob=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([100.0, 10000.0])),
        rope_scaling=draw(st.none() | scalings()),
        max_position_embeddings=512,
        **index,
    )
    lengths = draw(st.lists(st.integers(1, 24), min_size=1, max_size=3))
    return Case(config, lengths, draw(st.integers(0, 2**16)))


def small_config(sparse: bool) -> V3Config:
    index = {"index_n_heads": 16, "index_head_dim": 12, "index_topk": 10} if sparse else {}
    return V3Config(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=3,
        q_lora_rank=20,
        kv_lora_rank=24,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        first_k_dense_replace=1,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
        rope_scaling=RopeScaling(
            factor=40.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=1.0
        ),
        **index,
    )


def foreign_model(config: V3Config, seed: int) -> DeepseekV3ForCausalLM | DeepseekV32ForCausalLM:
    """transformers' model with random weights of a size at which every part matters."""
    values = config.to_dict() | {"num_key_value_heads": config.num_attention_heads}
    for ours in ("model_type", "architectures", "rope_scaling", "rope_theta", "torch_dtype"):
        values.pop(ours, None)
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {"rope_type": "yarn"} | vars(scaling)
    v32 = config.index_topk is not None
    kind, model = (
        (DeepseekV32Config, DeepseekV32ForCausalLM)
        if v32
        else (DeepseekV3Config, DeepseekV3ForCausalLM)
    )
    foreign = model(kind(**values, rope_parameters=rope, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in foreign.state_dict().items():
            if "norm" in name and name.endswith("weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() == 1:  # the router's bias, and that of the index keys' LayerNorm
                tensor.normal_(0, 0.2, generator=generator)
            else:
                tensor.normal_(0, tensor.shape[-1] ** -0.5, generator=generator)
        foreign.model.embed_tokens.weight.normal_(generator=generator)
    return foreign.eval()


def our_model(foreign: torch.nn.Module, config: V3Config, form: str) -> V3Transformer:
    return load_v3_tensors(V3Transformer(config, form), foreign.state_dict())


def reference(oracle, foreign: torch.nn.Module, case: Case) -> torch.Tensor | None:
    """Its logits [T, V], request by request; None if a choice was too close to compare."""
    with oracle.watched(gradients=True) as margins:
        rows = [foreign(row[None]).logits[0] for row in token_ids(case).split(case.lengths)]
    return torch.cat(rows) if margins.are_clear else None


def token_ids(case: Case) -> torch.Tensor:
    generator = torch.Generator().manual_seed(case.seed)
    return torch.randint(case.config.vocab_size, (sum(case.lengths),), generator=generator)


@pytest.mark.parametrize("sparse", [False, True], ids=["v3", "v3.2"])
def test_logits_and_gradients_equal_transformers(oracle, sparse):
    @settings(max_examples=60)
    @given(case=cases(sparse=sparse), form=st.sampled_from(["naive", "absorbed"]))
    def check(case, form):
        foreign = foreign_model(case.config, case.seed)
        want = reference(oracle, foreign, case)
        if want is None:
            return
        ours = our_model(foreign, case.config, form)
        got = ours.logits(ours(token_ids(case), case.lengths))
        assert oracle.error(got, want) < LOGITS_TOLERANCE

        weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(case.seed))
        (want * weight).sum().backward()
        (got * weight).sum().backward()
        foreign_grads = {n: p.grad for n, p in foreign.named_parameters() if p.grad is not None}
        want_grads = v3_parameters(foreign_grads, case.config.num_hidden_layers)
        got_grads = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
        worst = oracle.worst_gradient(got_grads, want_grads)
        assert worst < (GRADIENT_TOLERANCE,)

    check()
    oracle.assert_few_skipped(at_least=60)


@pytest.mark.parametrize("sparse", [False, True], ids=["v3", "v3.2"])
@pytest.mark.parametrize("length", [127, 128, 129, 255, 257])
def test_long_requests_equal_transformers_across_query_blocks(oracle, sparse, length):
    case = Case(small_config(sparse), [length], seed=length)
    foreign = foreign_model(case.config, case.seed)
    with torch.no_grad():
        want = reference(oracle, foreign, case)
        assert want is not None  # the seeds above leave clear margins
        for form in ("naive", "absorbed"):
            ours = our_model(foreign, case.config, form)
            got = ours.logits(ours(token_ids(case), case.lengths))
            assert oracle.error(got, want) < LOGITS_TOLERANCE


@pytest.mark.parametrize("sparse", [False, True], ids=["v3", "v3.2"])
def test_decoding_after_a_chunked_prefill_equals_transformers_cached(oracle, sparse):
    case = Case(small_config(sparse), [40], seed=3)
    foreign, ids = foreign_model(case.config, case.seed), token_ids(case)
    ours = our_model(foreign, case.config, "absorbed")
    state, cache, chunks = ours.new_state(), None, [7, 1, 13, 9] + [1] * 10
    with torch.no_grad(), oracle.watched(gradients=False) as margins:
        for chunk in ids.split(chunks):
            out = foreign(chunk[None], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            got = ours.logits(ours(chunk, [len(chunk)], [state]))
            assert oracle.error(got, out.logits[0]) < LOGITS_TOLERANCE
    assert margins.are_clear


@pytest.mark.parametrize("sparse", [False, True], ids=["v3", "v3.2"])
def test_a_saved_transformers_checkpoint_loads_by_its_published_names(tmp_path, sparse):
    """`save_pretrained` writes one tensor for each expert, as the published checkpoints do."""
    config = small_config(sparse)
    foreign = foreign_model(config, seed=5)
    foreign.save_pretrained(tmp_path)
    published = load_file(tmp_path / "model.safetensors")
    assert "model.layers.1.mlp.experts.7.up_proj.weight" in published
    from_folder = load_v3_model(tmp_path, form="naive")
    from_tensors = load_v3_tensors(V3Transformer(config), published)
    ids = token_ids(Case(config, [9], seed=5))
    want = foreign(ids[None]).logits[0]
    for ours in (from_folder, from_tensors):
        got = ours.logits(ours(ids, [9]))
        torch.testing.assert_close(got, want, rtol=LOGITS_TOLERANCE, atol=LOGITS_TOLERANCE)
