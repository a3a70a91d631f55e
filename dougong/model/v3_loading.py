"""From a V3 or V3.2 state dict or checkpoint folder to a `V3Transformer`.

Read are the published names (`mlp.experts.3.gate_proj.weight`) and transformers' in-memory names
(`mlp.experts.gate_up_proj`, gate and up on top of each other). The multi-token prediction layer,
numbered behind the last main layer, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dougong.errors import CheckpointError
from dougong.model.v3 import V3Transformer

_ONE_EXPERT = re.compile(r"(?P<prefix>.*\.experts)\.(?P<index>\d+)\.(?P<matrix>\w+_proj)\.weight")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_FUSED = ".experts.gate_up_proj"


def v3_parameters(tensors: Mapping[str, Tensor], num_hidden_layers: int) -> dict[str, Tensor]:
    """The same tensors under `V3Transformer`'s names: experts stacked, MTP layers left out.

    Raises CheckpointError if a layer's experts are not numbered from 0 without a gap.
    """
    renamed: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        layer = _LAYER.match(name)
        if layer and int(layer[1]) >= num_hidden_layers:
            continue
        if one := _ONE_EXPERT.fullmatch(name):
            experts.setdefault(f"{one['prefix']}.{one['matrix']}", {})[int(one["index"])] = tensor
        elif name.endswith(_FUSED):
            prefix = name.removesuffix("gate_up_proj")
            renamed[prefix + "gate_proj"], renamed[prefix + "up_proj"] = tensor.chunk(2, 1)
        else:
            renamed[name] = tensor
    for name, parts in experts.items():
        if sorted(parts) != list(range(len(parts))):
            raise CheckpointError(
                f"{name}: experts {sorted(parts)} are not numbered from 0 without a gap; "
                "is a shard missing?"
            )
        renamed[name] = torch.stack([parts[i] for i in range(len(parts))])
    return renamed


@torch.no_grad()
def load_v3_tensors(model: V3Transformer, tensors: Mapping[str, Tensor]) -> V3Transformer:
    """Copies a V3 or V3.2 state dict into `model`, cast to its dtypes, and returns it.

    Raises CheckpointError naming the first missing, unknown or misshapen tensor.
    """
    given = v3_parameters(tensors, model.config.num_hidden_layers)
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - given.keys()):
        raise CheckpointError(f"{missing[0]} is missing, and {len(missing) - 1} more tensors")
    if unknown := sorted(given.keys() - wanted.keys()):
        raise CheckpointError(
            f"{unknown[0]} is not part of this model, nor are {len(unknown) - 1} more tensors; "
            "does config.json belong to these weights?"
        )
    for name, target in wanted.items():
        if given[name].shape != target.shape:
            raise CheckpointError(
                f"{name}: shape {list(given[name].shape)}, but the config asks for "
                f"{list(target.shape)}"
            )
        target.copy_(given[name])
    return model
