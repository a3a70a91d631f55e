"""Recomputation: equal gradients from fewer bytes, and no call is made again more than once."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dougong.config import V4Config, load_config
from dougong.errors import ConfigError
from dougong.kernels.recompute import (
    CHEAP,
    POLICIES,
    Call,
    block_length,
    recomputation,
)
from dougong.kernels.registry import operator_names
from dougong.model.initialize import initialize
from dougong.model.transformer import Transformer
from dougong.train.config import RECOMPUTE, run_config_from_dict
from dougong.train.data.encode import Encoded
from dougong.train.data.mixture import pack
from dougong.train.losses import training_loss
from dougong.train.memory import LiveBytes
from dougong.train.progress import LOG_FILE, read_log
from dougong.train.quantize_aware import as_served
from tests.support import training

DROPPING = ["tensor", "module"]
BATCH = pack(
    [
        Encoded([(i * 7 + j * j) % 500 for j in range(n)], [0.0] + [1.0] * (n - 1))
        for i, n in enumerate((90, 5, 40))
    ]
)


@pytest.fixture(scope="module", params=["training", "reference"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    path = tmp_path_factory.mktemp("recompute") / "config.json"
    values = training.MODEL | {"num_hidden_layers": 4, "compress_ratios": [4, 128, 0, 4, 0]}
    path.write_text(json.dumps(values | {"index_topk": 8}))
    config = load_config(path)
    assert isinstance(config, V4Config)
    return initialize(Transformer(config, backend=request.param), seed=3)


@pytest.fixture
def reruns(monkeypatch: pytest.MonkeyPatch) -> "Counter[tuple[int, str]]":
    """How often each call was made again, by its identity and its operator."""
    counts: Counter[tuple[int, str]] = Counter()
    alive: list[Call] = []  # so that no identity comes twice
    run = Call.run

    def counted(self: Call) -> None:
        alive.append(self)
        counts[id(self), self.function.__name__] += 1
        run(self)

    monkeypatch.setattr(Call, "run", counted)
    return counts


def loss_of(model: Transformer, policy: str) -> Tensor:
    """The loss with all its parts, ready for its backward pass."""
    with recomputation(policy, model.config):
        return training_loss(
            model, BATCH, mtp_weight=0.3, balance_weight=0.01, align_index=True
        ).total


def gradients(model: Transformer, policy: str) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss_of(model, policy).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("policy", DROPPING)
def test_gradients_are_the_same_bits(model: Transformer, policy: str, quantized: bool) -> None:
    with as_served(model, active=quantized):
        want, got = gradients(model, "none"), gradients(model, policy)
    assert len(want) > 100
    assert set(got) == set(want)
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("policy", DROPPING)
def test_no_call_is_made_again_twice(
    model: Transformer, policy: str, reruns: "Counter[tuple[int, str]]"
) -> None:
    gradients(model, policy)
    assert set(reruns.values()) == {1}


def test_tensor_policy_repeats_no_large_product(
    model: Transformer, reruns: "Counter[tuple[int, str]]"
) -> None:
    gradients(model, "tensor")
    names = Counter(name for _, name in reruns)
    assert set(names) <= CHEAP
    assert names["mhc_pre"] == 2 * (len(model.layers) + len(model.mtp))


def test_module_policy_repeats_every_layer_once(
    model: Transformer, reruns: "Counter[tuple[int, str]]"
) -> None:
    gradients(model, "module")
    names = Counter(name for _, name in reruns)
    num_layers = len(model.layers) + len(model.mtp)
    assert [names[n] for n in ("attention", "grouped_experts", "router")] == [num_layers] * 3


def test_live_bytes_counts_memory_once_and_until_it_is_freed() -> None:
    outside = torch.zeros(1000)
    with LiveBytes() as live:
        first = outside + 1  # 4,000 bytes
        view = first.view(10, 100)[1:].t()
        second = view.double()  # 900 numbers of 8 bytes
        assert (live.now, live.peak) == (11_200, 11_200)
        del first, view
        assert (live.now, live.peak) == (7_200, 11_200)
        outside.add_(1)
        outside[3:]
    assert (live.now, live.peak) == (7_200, 11_200)
    del second
    assert live.now == 0


def test_peak_memory_falls_from_policy_to_policy(model: Transformer) -> None:
    peaks, kept = {}, {}
    for policy in POLICIES:
        model.zero_grad(set_to_none=True)
        with LiveBytes() as live:
            loss = loss_of(model, policy)
            kept[policy] = live.now
            loss.backward()
        peaks[policy] = live.peak
    assert kept["none"] > kept["tensor"] > kept["module"]
    assert peaks["none"] > peaks["tensor"] > peaks["module"]


def test_a_run_has_the_same_log_whatever_it_recomputes(tmp_path: Path) -> None:
    """All losses on, both phases, experts chosen by earlier weights."""
    inputs, logs = training.write_inputs(tmp_path / "inputs"), []
    for policy in POLICIES:
        values = training.values(inputs, tmp_path / policy, steps=3) | {"recompute": policy}
        values["stability"] = {"anticipate": "always", "lag": 1}
        training.trained(run_config_from_dict(values))
        lines = read_log(tmp_path / policy / LOG_FILE)
        logs.append([{k: v for k, v in line.items() if k != "seconds"} for line in lines])
    assert len(logs[0]) == 3
    assert logs[1] == logs[0]
    assert logs[2] == logs[0]


def test_every_policy_names_operators_and_can_be_configured() -> None:
    assert all(names <= set(operator_names()) for names in POLICIES.values())
    assert set(RECOMPUTE) == set(POLICIES)


def test_unknown_policy_is_refused(model: Transformer) -> None:
    with pytest.raises(ConfigError, match="'some' is unknown; choose none, module, tensor"):
        loss_of(model, "some")


def test_distance_of_kept_streams_is_the_papers() -> None:
    # mHC paper: about sqrt(n L / (n + 2)) for n streams and L sublayers
    assert [block_length(sublayers, 4) for sublayers in (60, 86, 122)] == [6, 8, 9]
