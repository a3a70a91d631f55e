"""From a V3 or V3.2 checkpoint folder or state dict to a `V3Transformer`.

A state dict may have the published names (`mlp.experts.3.gate_proj.weight`) or transformers'
in-memory names (`mlp.experts.gate_up_proj`, gate and up on top of each other). The multi-token
prediction layers, numbered behind the last main layer, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dougong.checkpoint import open_checkpoint
from dougong.config import V3Config
from dougong.errors import CheckpointError, ConfigError
from dougong.model.mla import Form
from dougong.model.v3 import V3Transformer

_STACK = re.compile(r"(?P<prefix>.*\.experts)\.(?P<matrix>\w+_proj)")
_ONE_EXPERT = re.compile(r"(?P<prefix>.*\.experts)\.(?P<index>\d+)\.(?P<matrix>\w+_proj)\.weight")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_FUSED = ".experts.gate_up_proj"


def load_v3_model(
    folder: str | Path,
    *,
    form: Form = "absorbed",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> V3Transformer:
    """The V3 or V3.2 model of a checkpoint folder (published or transformers'), ready to run.

    Raises CheckpointError or ConfigError with one sentence for anything wrong in the folder.
    """
    checkpoint = open_checkpoint(folder)
    if not isinstance(checkpoint.config, V3Config):
        raise ConfigError(f"{folder}: holds a V4 model; load it with dougong.model.loading")
    with torch.device("meta"):
        model = V3Transformer(checkpoint.config, form, dtype=dtype)
    model.to_empty(device=device)
    model.reset_tables()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            stack = _STACK.fullmatch(name)
            for i, target in enumerate(tensor.unbind() if stack else [tensor]):
                one = f"{stack['prefix']}.{i}.{stack['matrix']}.weight" if stack else name
                target.copy_(torch.from_numpy(checkpoint.read(one)))
    return model.eval()


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
