"""What a release asks of a machine, against its published size; speed by hand."""

import pytest

from dougong.checkpoint import schema
from dougong.checkpoint.footprint import Footprint, footprint
from dougong.config import V4Config, load_config


# total_size of the releases' index files; bytes of an expert: 3 x width x hidden, 4.25 bits each.
@pytest.mark.parametrize(
    ("name", "total_size", "expert"),
    [
        ("v4-flash", 159_609_485_896, 3 * 2048 * 4096 * 17 // 32),
        ("v4-pro", 864_704_792_696, 3 * 3072 * 7168 * 17 // 32),
    ],
)
def test_whole_embedding_tables_and_mtp_make_up_the_release(
    name: str, total_size: int, expert: int
) -> None:
    config = load_config(name)
    assert isinstance(config, V4Config)
    need = footprint(config)
    others = sum(
        spec.nbytes
        for spec in schema(config)
        if spec.name.startswith(("mtp.", "embed.")) or spec.name.endswith("tid2eid")
    )
    assert need.whole + others == total_size
    assert need.expert == expert
    assert (need.layers, need.experts, need.top_k) == (
        config.num_hidden_layers, config.n_routed_experts, 6,
    )  # fmt: skip


def test_speed_is_set_by_the_slower_of_memory_and_disk() -> None:
    need = Footprint(fixed=100, expert=10, layers=2, experts=8, top_k=3)
    assert (need.whole, need.least, need.per_token) == (260, 130, 160)
    assert need.from_disk(260) == need.from_disk(1000) == 0
    assert need.from_disk(100) == 60
    assert need.from_disk(180) == 30  # half of the experts are held
    assert need.tokens_per_s(260, memory_rate=320, disk_rate=1) == pytest.approx(2)
    assert need.tokens_per_s(180, memory_rate=320, disk_rate=120) == pytest.approx(2)
    assert need.tokens_per_s(180, memory_rate=320, disk_rate=15) == pytest.approx(0.5)
