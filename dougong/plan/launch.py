"""The commands that start a planned deployment, for each engine that runs on its chip.

Flags as in the engines' own guides for DeepSeek-V4 (vLLM recipes and vllm-ascend tutorials,
SGLang cookbook and Ascend best practice, cann-recipes-infer), read in November 2026. They are
starting points: the engine's release decides which of them it knows.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from dougong.plan.predict import Scenario

RELEASED = {"v4-flash": "DeepSeek-V4-Flash", "v4-pro": "DeepSeek-V4-Pro", "v3": "DeepSeek-V3"}
RELEASED |= {"v3.2": "DeepSeek-V3.2"}
CHIPS_PER_NODE = 8


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How one engine is started: shell commands, a line each."""

    engine: str
    commands: tuple[str, ...]
    note: str = ""


def checkpoint_name(model: str) -> str:
    """org/name of a released model, or the folder as it was given."""
    return f"deepseek-ai/{RELEASED[model]}" if model in RELEASED else model


def launches(model: str, scenario: Scenario) -> list[Launch]:
    """The engines that know this chip, Dougong first."""
    chip = scenario.chip
    found = [_dougong(model, scenario)]
    if chip.vendor in ("NVIDIA", "AMD") and chip.kind == "gpu":
        found += [_vllm(model, scenario), _sglang(model, scenario, device="")]
    if chip.vendor == "Huawei":
        found += [
            _vllm_ascend(model, scenario),
            _sglang(model, scenario, device="npu"),
            _mindie(model, scenario),
            _cann_recipes(model, scenario),
        ]
    return found


def _dougong(model: str, scenario: Scenario) -> Launch:
    name = checkpoint_name(model)
    words = ["dougong", "chat", "--model", name]
    note = "one process on this machine"
    if scenario.layout.chips > 1:
        note = "one process: for trying the model; the other engines spread it over the chips"
    return Launch(engine="Dougong", commands=(shlex.join(words),), note=note)


def _parallel_words(scenario: Scenario) -> list[str]:
    layout = scenario.layout
    words = ["--tensor-parallel-size", str(layout.tp)]
    if layout.dp > 1:
        words += ["--data-parallel-size", str(layout.dp)]
    return words + (["--enable-expert-parallel"] if layout.ep > 1 else [])


def _speculative(scenario: Scenario, method: str) -> list[str]:
    if not scenario.drafts:
        return []
    config = {"method": method, "num_speculative_tokens": scenario.drafts}
    return ["--speculative-config", json.dumps(config, separators=(",", ":"))]


def _per_group(scenario: Scenario) -> int:
    return -(-scenario.batch // scenario.layout.dp)


def _vllm(model: str, scenario: Scenario) -> Launch:
    words = ["vllm", "serve", checkpoint_name(model), *_parallel_words(scenario)]
    words += ["--max-model-len", str(scenario.context_len)]
    words += ["--max-num-seqs", str(_per_group(scenario))]
    if scenario.precision.kv_format != "bf16":
        words += ["--kv-cache-dtype", "fp8"]
    if model.startswith("v4"):
        words += ["--block-size", "256", "--tokenizer-mode", "deepseek_v4"]
    words += _speculative(scenario, "mtp")
    return Launch(engine="vLLM", commands=(shlex.join(words),), note=_nodes(scenario))


def _sglang(model: str, scenario: Scenario, device: str) -> Launch:
    layout, chip = scenario.layout, scenario.chip
    dies = 2 if chip.id == "huawei_910c" else 1  # SGLang counts dies on A3
    ranks = layout.chips * dies
    words = ["python", "-m", "sglang.launch_server", "--model-path", checkpoint_name(model)]
    words += ["--tp-size", str(ranks)]
    if layout.dp > 1:
        words += ["--dp-size", str(layout.dp * dies), "--enable-dp-attention"]
        words += ["--moe-a2a-backend", "deepep" if not device else "ascend_fuseep"]
    words += ["--context-length", str(scenario.context_len)]
    words += ["--max-running-requests", str(scenario.batch)]
    if device:
        words += ["--device", device, "--attention-backend", "ascend"]
    if scenario.precision.name == "int8":
        words += ["--quantization", "modelslim"]
    if scenario.drafts:
        words += ["--speculative-algorithm", "EAGLE", "--speculative-eagle-topk", "1"]
        words += ["--speculative-num-steps", str(scenario.drafts)]
        words += ["--speculative-num-draft-tokens", str(scenario.drafts + 1)]
    return Launch(engine="SGLang", commands=(shlex.join(words),), note=_nodes(scenario))


def _vllm_ascend(model: str, scenario: Scenario) -> Launch:
    name = checkpoint_name(model)
    note = _nodes(scenario)
    words = ["vllm", "serve"]
    if scenario.precision.name in ("int8", "w4a8"):
        suffix = "w8a8" if scenario.precision.name == "int8" else "w4a8"
        words += [f"{name.rsplit('/', 1)[-1]}-{suffix}-mtp", "--quantization", "ascend"]
        note = f"weights converted with msModelSlim. {note}".strip()
    else:
        words += [name]
    words += _parallel_words(scenario)
    words += ["--max-model-len", str(scenario.context_len)]
    words += ["--max-num-seqs", str(_per_group(scenario)), "--block-size", "128"]
    words += _speculative(scenario, "deepseek_mtp")
    graph = {"cudagraph_mode": "FULL_DECODE_ONLY"}
    words += ["--compilation-config", json.dumps(graph, separators=(",", ":"))]
    return Launch(engine="vllm-ascend", commands=(shlex.join(words),), note=note)


def _mindie(model: str, scenario: Scenario) -> Launch:
    layout = scenario.layout
    config = {
        "modelName": model,
        "modelWeightPath": checkpoint_name(model),
        "worldSize": layout.chips,
        "tp": layout.tp,
        "dp": layout.dp,
        "moe_ep": layout.ep,
        "maxSeqLen": scenario.context_len,
        "maxBatchSize": _per_group(scenario),
    }
    return Launch(
        engine="MindIE",
        commands=("mindieservice_daemon",),
        note=f"with these values in conf/config.json: {json.dumps(config)}",
    )


def _cann_recipes(model: str, scenario: Scenario) -> Launch:
    layout = scenario.layout
    return Launch(
        engine="cann-recipes-infer",
        commands=("bash models/deepseek-v4/infer.sh",),
        note=(
            f"set in the recipe's YAML: world_size {layout.chips}, attn_dp_size {layout.dp}, "
            f"attn_tp_size {layout.tp}, moe_ep_size {layout.ep}, batch_size {scenario.batch}, "
            f"next_n {scenario.drafts}, input_max_len {scenario.context_len}"
        ),
    )


def _nodes(scenario: Scenario) -> str:
    nodes = -(-scenario.layout.chips // CHIPS_PER_NODE)
    if nodes < 2 or scenario.chip.kind == "cpu":
        return ""
    return (
        f"{nodes} nodes of {CHIPS_PER_NODE}: start it on each, with the engine's multi-node flags"
    )
