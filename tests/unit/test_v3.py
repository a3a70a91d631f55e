"""V3 and V3.2: what is cached, how ties and groups fall, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dougong.config import V3Config, load_config
from dougong.errors import CheckpointError, ConfigError, InputError
from dougong.kernels.registry import operators
from dougong.model.layers import Build
from dougong.model.mla import LatentAttention, TokenIndexer
from dougong.model.v3 import GroupLimitedRouter, V3Transformer
from dougong.model.v3_loading import load_v3_model, load_v3_tensors

BUILD = Build(operators(), torch.float32, rounded=False)


def tiny_config(**changes: object) -> V3Config:
    small = {
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 24,
        "moe_intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "q_lora_rank": 8,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "num_nextn_predict_layers": 0,
        "quantization_config": None,
        "max_position_embeddings": 64,
    }
    return replace(load_config("v3"), **small | changes)


def tiny_model(dtype: torch.dtype = torch.float32, **changes: object) -> V3Transformer:
    model = V3Transformer(tiny_config(**changes), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_(0, tensor.shape[-1] ** -0.5, generator=generator)
    return model


@pytest.mark.parametrize(("preset", "index_values"), [("v3", 0), ("v3.2", 128)])
def test_a_token_costs_576_cached_values_in_every_layer(preset, index_values):
    config = load_config(preset)
    with torch.device("meta"):
        cache = LatentAttention(BUILD, config, "absorbed").new_cache()
    widths = [log.rows().shape[1] for log in cache.logs()]
    assert sum(widths) == 576 + index_values


def test_the_state_holds_one_row_of_latents_for_each_token():
    model = tiny_model()
    state = model.new_state()
    model(torch.arange(9), [9], [state])
    rows = [log.rows() for log in state.logs()]
    assert [tuple(row.shape) for row in rows] == [(9, 12 + 4)] * 2


def test_of_equal_index_scores_the_earliest_tokens_are_attended():
    config = tiny_config(index_n_heads=4, index_head_dim=8, index_topk=3)
    indexer = TokenIndexer(BUILD, config, 4, 8, 3)
    for tensor in indexer.state_dict().values():
        tensor.zero_()  # every score is 0
    rotation_NF = torch.polar(torch.ones(6, 2), torch.zeros(6, 2))
    selected = indexer(torch.ones(6, 16), torch.ones(6, 8), rotation_NF, None)
    assert [sorted(row) for row in selected.tolist()] == [
        [-1, -1, 0],
        [-1, 0, 1],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
    ]


def test_the_two_best_experts_of_a_group_decide_whether_it_is_open():
    router = GroupLimitedRouter(BUILD, tiny_config(topk_group=1))
    #          group 0     group 1     group 2     group 3
    biased = [[0.9, 0.1, 0.6, 0.5, 0.5, 0.6, 0.7, 0.3]]  # sums 1.0, 1.1, 1.1, 1.0
    assert router.select(torch.tensor(biased)).tolist() == [[2, 3]]  # the tie: the lower group


def test_a_closed_group_loses_even_to_negative_scores():
    router = GroupLimitedRouter(BUILD, tiny_config(topk_group=1))
    biased = [[-0.5, -0.5, -0.1, -0.2, -0.5, -0.5, -0.5, -0.5]]
    assert router.select(torch.tensor(biased)).tolist() == [[2, 3]]


def test_the_bias_chooses_experts_but_does_not_weigh_them():
    router = GroupLimitedRouter(BUILD, tiny_config(norm_topk_prob=False))
    with torch.no_grad():
        router.weight.zero_()
    router.e_score_correction_bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 3.0, 0, 2.0]))
    weights, experts = router(torch.ones(1, 16))
    assert experts.tolist() == [[5, 7]]
    assert weights.tolist() == [[0.5 * 2.5] * 2]  # sigmoid(0) * routed_scaling_factor


def test_bfloat16_stays_near_float32():
    wide = tiny_model(index_n_heads=16, index_head_dim=8, index_topk=40)
    narrow = load_v3_tensors(V3Transformer(wide.config, dtype=torch.bfloat16), wide.state_dict())
    ids = torch.arange(30)
    want, got = (model.logits(model(ids, [30])) for model in (wide, narrow))
    # two layers of 8-bit mantissas: 2**-8 a product, a few dozen products in a row
    assert ((got - want).norm() / want.norm()).item() < 0.05


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda m: m(torch.tensor([30]), [1]), InputError, "vocabulary of 30"),
        (lambda m: m(torch.arange(5), [2, 2]), InputError, "add up to the 5"),
        (lambda m: m(torch.zeros(65, dtype=torch.int64), [65]), InputError, "exceed max_position"),
        (lambda m: m(torch.arange(5), [5], []), InputError, "0 given for 1 requests"),
        (lambda m: m.new_state().rollback(1), InputError, "only 0 to 0"),
        (lambda m: V3Transformer(m.config, "fused"), ConfigError, "'naive', 'absorbed'"),
    ],
)
def test_misuse_is_refused_in_one_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(tiny_model())


def test_tensors_that_do_not_fit_are_named():
    model = tiny_model()
    whole = dict(model.state_dict())
    broken = {name: tensor for name, tensor in whole.items() if name != "model.norm.weight"}
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is missing"):
        load_v3_tensors(model, broken)
    with pytest.raises(CheckpointError, match=r"extra is not part"):
        load_v3_tensors(model, whole | {"extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: shape \[2, 2\]"):
        load_v3_tensors(model, whole | {"lm_head.weight": torch.zeros(2, 2)})
    second_only = {"model.layers.1.mlp.experts.1.up_proj.weight": torch.zeros(8, 16)}
    with pytest.raises(CheckpointError, match="without a gap"):
        load_v3_tensors(model, whole | second_only)


def test_the_multi_token_prediction_layer_is_left_out():
    model = tiny_model()
    extra = {"model.layers.2.eh_proj.weight": torch.zeros(16, 32)}
    load_v3_tensors(model, dict(model.state_dict()) | extra)


def test_a_v4_checkpoint_is_not_loaded_as_v3():
    folder = Path(__file__).parents[1] / "parity" / "golden" / "s1_sliding"
    with pytest.raises(ConfigError, match="holds a V4 model"):
        load_v3_model(folder)
