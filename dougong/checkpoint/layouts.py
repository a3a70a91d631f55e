"""Where each canonical parameter lies in a file, for every way of naming that exists.

official               the published names, each expert by itself; FP8 and FP4 with their scales
transformers           the module names of transformers 5.23.0, experts merged, never quantized
transformers_reverted  what its save_pretrained writes: published names behind `model.`, roughly
Source: the released files and transformers 5.23.0; the third was read off files that it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from dougong.checkpoint.tensors import FLOATS, INTEGERS, Parameter, Shape, Storage

Layout = Literal["official", "transformers", "transformers_reverted"]

_TOP_NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_fn": "model.hc_head.hc_fn",
    "hc_head_base": "model.hc_head.hc_base",
    "hc_head_scale": "model.hc_head.hc_scale",
}
# Applied in this order to the name inside a layer.
_RENAMES = (
    (r"^attn_norm\.", "input_layernorm."),
    (r"^ffn_norm\.", "post_attention_layernorm."),
    (r"^hc_(attn|ffn)_(fn|base|scale)$", r"\1_hc.\2"),
    (r"^attn\.indexer\.compressor\.", "self_attn.compressor.indexer."),
    (r"^attn\.indexer\.weights_proj\.", "self_attn.compressor.indexer.scorer.weights_proj."),
    (r"^attn\.indexer\.", "self_attn.compressor.indexer."),
    (r"^attn\.", "self_attn."),
    (r"^ffn\.", "mlp."),
    (r"\.norm\.", ".kv_norm."),
    (r"\.ape$", ".position_bias"),
    (r"\.attn_sink$", ".sinks"),
    (r"\.wq_a\.", ".q_a_proj."),
    (r"\.q_norm\.", ".q_a_norm."),
    (r"\.wq_b\.", ".q_b_proj."),
    (r"\.wkv\.", ".kv_proj."),
    (r"\.wgate\.", ".gate_proj."),
    (r"\.wo_a\.", ".o_a_proj."),
    (r"\.wo_b\.", ".o_b_proj."),
    (r"\.gate\.bias$", ".gate.e_score_correction_bias"),
    (r"\.shared_experts\.w1\.", ".shared_experts.gate_proj."),
    (r"\.shared_experts\.w2\.", ".shared_experts.down_proj."),
    (r"\.shared_experts\.w3\.", ".shared_experts.up_proj."),
)
_LAYER = re.compile(r"(layers\.\d+\.)(.*)")
_EXPERT = re.compile(r"(layers\.\d+\.)ffn\.experts\.(\d+)\.(w[123])\.weight")


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter's values: `shape` of them, from element `start` on of the stored `tensor`."""

    tensor: str
    start: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor that a file must hold, and the dtypes in which it may; the first is published."""

    shape: Shape
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class LayoutPlan:
    """The tensors a checkpoint must hold, and where in them each parameter lies."""

    layout: Layout
    slots: dict[str, Slot]
    pieces: dict[str, Piece]
    scales: dict[str, str]  # parameter -> the tensor with its scales, where it is quantized


def layout_of(names: Collection[str]) -> Layout:
    """Which layout a file with these tensor names is written in; V3 has one, the published."""
    if "head.weight" in names and "model.embed_tokens.weight" in names:
        return "transformers_reverted"
    if any(".self_attn.sinks" in name for name in names):
        return "transformers"
    return "official"


def plan_layout(
    parameters: Iterable[Parameter], storage: Storage, layout: Layout, num_experts: int
) -> LayoutPlan:
    """The tensors of a checkpoint in `layout` that holds `parameters`, in their order.

    Only the official layout is ever quantized: for the others `storage` must not be.
    """
    plan = LayoutPlan(layout, {}, {}, {})
    for parameter in parameters:
        name, shape = parameter.name, parameter.shape
        if layout == "transformers":
            piece, shape = _in_transformers(parameter, num_experts)
        else:
            piece = Piece(name if layout == "official" else _reverted_name(name), 0, shape)
        plan.pieces[name] = piece
        tensor, *scales = storage.stored(parameter)
        if scales:
            plan.slots[tensor.name] = Slot(tensor.shape, (tensor.dtype,))
            plan.slots[scales[0].name] = Slot(scales[0].shape, (scales[0].dtype,))
            plan.scales[name] = scales[0].name
        else:
            plan.slots[piece.tensor] = Slot(shape, _interchangeable(tensor.dtype))
    return plan


def _interchangeable(dtype: str) -> tuple[str, ...]:
    """The dtypes in which a tensor's values can be stored as well; its own comes first."""
    family = INTEGERS if dtype in INTEGERS else FLOATS
    return dtype, *(other for other in family if other != dtype)


def _in_transformers(parameter: Parameter, num_experts: int) -> tuple[Piece, Shape]:
    """Where transformers keeps a parameter, and the shape of the tensor that it is a part of."""
    if expert := _EXPERT.fullmatch(parameter.name):
        layer, index, matrix = expert[1], int(expert[2]), expert[3]
        rows, columns = parameter.shape
        is_down = matrix == "w2"
        shape = (num_experts, rows if is_down else 2 * rows, columns)
        row = index * shape[1] + (rows if matrix == "w3" else 0)
        merged = "down_proj" if is_down else "gate_up_proj"  # the gate w1, then w3
        tensor = f"model.{layer}mlp.experts.{merged}"
        return Piece(tensor, row * columns, parameter.shape), shape
    if parameter.name in _TOP_NAMES:
        return Piece(_TOP_NAMES[parameter.name], 0, parameter.shape), parameter.shape
    layer, name = _split_layer(parameter.name)
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return Piece(f"model.{layer}{name}", 0, parameter.shape), parameter.shape


def _reverted_name(name: str) -> str:
    if name == "head.weight":
        return name
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    layer, rest = _split_layer(name)
    return f"model.{layer}{rest.replace('attn.kv_norm.', 'attn.norm.')}"


def _split_layer(name: str) -> tuple[str, str]:
    match = _LAYER.fullmatch(name)
    assert match, f"{name} belongs to no layer; MTP blocks have no names in transformers"
    return match[1], match[2]
