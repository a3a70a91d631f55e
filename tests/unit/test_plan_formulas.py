"""Parameters, bytes, KV and FLOPs against the published files and the report's own ratios.

The goldens are architecture.md 6.1 (released files), 6.3, 9.1 and 9.2: other people's arithmetic.
"""

from __future__ import annotations

import pytest

from dougong.config import load_config
from dougong.plan import formulas
from dougong.plan.flops import CONVENTION
from dougong.plan.parameters import parameters_of
from dougong.plan.quantity import UNITS, Quantity, empty
from dougong.plan.weights import layer_weights

FLASH, PRO = load_config("v4-flash"), load_config("v4-pro")
V3, V32 = load_config("v3"), load_config("v3.2")
MILLION = 1 << 20


@pytest.mark.parametrize(
    ("config", "total", "with_mtp", "active", "with_embedding", "expert"),
    [
        (FLASH, 284_332_240_471, 290_942_289_362, 13_270_101_591, 13_799_632_471, 25_165_824),
        (PRO, 1_572_997_201_763, 1_598_837_347_742, 48_852_402_019, 49_779_081_059, 66_060_288),
    ],
)
def test_parameters_equal_the_published_counts(
    config: formulas.ModelConfig,
    total: int,
    with_mtp: int,
    active: int,
    with_embedding: int,
    expert: int,
) -> None:
    summary = formulas.parameter_summary(config)
    assert summary.total == total
    assert summary.total_with_mtp == with_mtp
    assert summary.active == active
    assert summary.active_with_embedding == with_embedding
    assert summary.routed_per_expert == expert


def test_mtp_block_and_layer_parts_equal_section_6_3() -> None:
    assert formulas.parameters_mtp(FLASH) == 6_610_048_891
    assert formulas.parameters_mtp(PRO) == 25_840_145_979
    for config, attention, csa, indexer, hca, mhc, routed in (
        (FLASH, 106_956_352, 8_393_216, 10_749_056, 4_260_352, 786_486, 6_442_450_944),
        (PRO, 299_894_912, 14_684_672, 16_712_832, 7_406_080, 1_376_310, 25_367_150_592),
    ):
        assert parameters_of(config, "attention", 2) == attention
        assert parameters_of(config, "compressor", 2) == csa
        assert parameters_of(config, "indexer", 2) == indexer
        assert parameters_of(config, "compressor", 3) == hca
        assert parameters_of(config, "hyper_connection", 2) == mhc
        assert parameters_of(config, "routed_expert", 2) == routed


def test_v3_has_671_billion_parameters_of_which_37_are_active() -> None:
    assert round(formulas.parameters_total(V3) / 1e9) == 671
    assert round(formulas.parameters_active(V3) / 1e9) == 37


def test_checkpoint_bytes_equal_the_released_files() -> None:
    assert formulas.checkpoint_bytes(FLASH) == 159_609_485_896
    assert formulas.checkpoint_bytes(PRO) == 864_704_792_696
    # V3's index file says 688,586,727,753; our inventory lacks a few small FP32 copies
    assert formulas.checkpoint_bytes(V3) == pytest.approx(688_586_727_753, rel=1e-4)


def test_bf16_conversion_multiplies_flash_by_3_6() -> None:
    assert round(formulas.bf16_bytes(FLASH) / 1e9) == 569
    assert round(formulas.bf16_bytes(PRO) / 1e12, 2) == 3.15


@pytest.mark.parametrize(
    ("config", "kv", "index", "per_token"),
    [
        (V32, "fp8", "fp8", 48068),
        (V32, "bf16", "bf16", 85888),
        (FLASH, "fp8", "fp4", 3514.25),
        (PRO, "fp8", "fp4", 5031.4375),
        (FLASH, "bf16", "bf16", 6880),
        (PRO, "bf16", "bf16", 9848),
        (V3, "bf16", None, 70272),
        (V3, "fp8", None, 40016),
    ],
)
def test_cache_bytes_per_token_equal_section_9_1(
    config: formulas.ModelConfig, kv: str, index: str | None, per_token: float
) -> None:
    assert formulas.kv_bytes_per_token(config, kv, index) == per_token  # type: ignore[arg-type]


def test_cache_at_a_million_tokens_is_7_and_10_percent_of_v3_2() -> None:
    yardstick = formulas.kv_bytes_per_token(V32) * MILLION
    assert round(yardstick / 1e9, 2) == 50.40
    for config, gigabytes in ((FLASH, 3.688), (PRO, 5.280)):  # with windows, without states
        held = formulas.kv_bytes(config, MILLION) - formulas.compressor_state_bytes(config)
        assert round(held / 1e9, 3) == gigabytes
    assert formulas.kv_bytes_per_token(FLASH) / formulas.kv_bytes_per_token(V32) == pytest.approx(
        0.073, abs=5e-4
    )
    assert formulas.kv_bytes_per_token(PRO) / formulas.kv_bytes_per_token(V32) == pytest.approx(
        0.105, abs=5e-4
    )
    assert round(formulas.kv_bytes_per_token(PRO, "bf16", "bf16") * MILLION / 2**30, 2) == 9.62


def test_other_caches_of_section_9_1() -> None:
    assert formulas.v41_flash_bytes_per_token() == 890
    assert formulas.gqa_bytes_per_token(43) == 176128
    assert formulas.gqa_bytes_per_token(61) == 249856
    assert formulas.kv_entry_bytes(PRO) == 584
    assert formulas.kv_entry_bytes(V32) == 656
    assert formulas.index_key_bytes(PRO) == 68
    assert formulas.index_key_bytes(V32) == 132


def test_a_request_holds_windows_and_states_at_any_context() -> None:
    # 61 layers x 128 x 584 = 4.6 MB (infrastructure.md 4.1) plus fp32 states, and nothing else yet
    states = 31 * 2 * 128 * 512 * 4 + 30 * (2 * 8 * 1024 + 2 * 8 * 256) * 4
    assert formulas.kv_state_bytes(PRO) == 61 * 128 * 584 + states
    assert formulas.kv_bytes(V32, 1000) == 48_068_000


FLOPS_ROWS = [  # context, V3.2, Flash, Pro in GF and the two ratios: architecture.md 9.2
    (4096, 150.7, 33.0, 122.6, 0.219, 0.814),
    (32768, 179.3, 35.4, 128.0, 0.197, 0.714),
    (131072, 277.6, 43.6, 146.5, 0.157, 0.528),
    (1048576, 1194.5, 120.7, 319.4, 0.101, 0.267),
]


@pytest.mark.parametrize(("context", "v32", "flash", "pro", "flash_ratio", "pro_ratio"), FLOPS_ROWS)
def test_decode_flops_equal_section_9_2(
    context: int, v32: float, flash: float, pro: float, flash_ratio: float, pro_ratio: float
) -> None:
    base = formulas.decode_flops_fp8_equivalent(V32, context).total
    ours = {
        config: formulas.decode_flops_fp8_equivalent(config, context).total
        for config in (FLASH, PRO)
    }
    assert round(base / 1e9, 1) == v32
    assert round(ours[FLASH] / 1e9, 1) == flash
    assert round(ours[PRO] / 1e9, 1) == pro
    assert round(ours[FLASH] / base, 3) == flash_ratio
    assert round(ours[PRO] / base, 3) == pro_ratio


def test_parts_at_a_million_tokens_equal_section_9_2() -> None:
    flash = formulas.decode_flops_fp8_equivalent(FLASH, MILLION)
    pro = formulas.decode_flops_fp8_equivalent(PRO, MILLION)
    parts = [flash.linear, flash.attention, flash.index, pro.linear, pro.attention, pro.index]
    assert [round(part / 1e9, 1) for part in parts] == [28.4, 47.2, 45.1, 101.6, 153.3, 64.4]


def test_counting_everything_as_one_gives_the_other_ratios() -> None:
    base = formulas.decode_flops(V32, MILLION).total
    assert formulas.decode_flops(FLASH, MILLION).total / base == pytest.approx(0.121, abs=1e-3)
    assert formulas.decode_flops(PRO, MILLION).total / base == pytest.approx(0.262, abs=1e-3)
    assert "FP8" in CONVENTION


def test_every_model_figure_carries_a_known_unit_and_a_source() -> None:
    for config in (FLASH, PRO, V3, V32, load_config("nano"), load_config("mini")):
        for figure in formulas.model_figures(config, 4096).values():
            assert figure.unit in UNITS
            assert figure.source
            assert figure.formula
            assert figure.value is not None


def test_a_quantity_without_value_is_empty_and_a_wrong_unit_is_refused() -> None:
    assert empty("W", "give the power").as_dict()["mark"] == "empty"
    with pytest.raises(Exception, match="unit 'GB' is unknown"):
        Quantity(value=1.0, unit="GB", formula="f", source="s")
    with pytest.raises(Exception, match="marked 'computed' has value None"):
        Quantity(value=None, unit="B", formula="f", source="s")


def test_hash_layers_have_a_table_and_no_bias() -> None:
    names = {weight.name for weight in layer_weights(FLASH, 0)}
    assert "gate.tid2eid" in names
    assert "gate.bias" not in names
    assert "gate.bias" in {weight.name for weight in layer_weights(FLASH, 3)}
