"""Between checkpoints and modules: published tensor names to parameters and back.

A parameter carries the published name, but for two cases: routed experts are stacked along a
leading expert dim, and mHC parameters sit in modules (`hc_attn_fn` is `hc_attn.fn`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dougong.checkpoint import open_checkpoint
from dougong.config import V4Config
from dougong.errors import ConfigError
from dougong.model.transformer import Transformer

_EXPERTS = re.compile(r"(?P<prefix>.*\.experts)\.(?P<matrix>w[123])")
_MHC = re.compile(r"\bhc_(attn|ffn|head)\.(fn|base|scale)$")


def published_names(name: str, tensor: Tensor) -> list[str]:
    """The checkpoint tensors that make up parameter `name`: one, or one for each expert."""
    if stacked := _EXPERTS.fullmatch(name):
        prefix, matrix = stacked["prefix"], stacked["matrix"]
        return [f"{prefix}.{i}.{matrix}.weight" for i in range(tensor.shape[0])]
    return [_MHC.sub(r"hc_\1_\2", name)]


def load_model(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    backend: str = "reference",
    rounding: str = "none",
    device: torch.device | str = "cpu",
    fallback: bool = True,
) -> Transformer:
    """The V4 model of a checkpoint folder (published or transformers layout), ready to run.

    Raises CheckpointError or ConfigError with one sentence for anything wrong in the folder. MTP
    blocks are built only if the checkpoint has them (the transformers layout does not).
    """
    checkpoint = open_checkpoint(folder)
    if not isinstance(checkpoint.config, V4Config):
        raise ConfigError(f"{folder}: holds a V3 model; load it with dougong.model.v3_loading")
    with torch.device("meta"):
        model = Transformer(
            checkpoint.config, backend=backend, rounding=rounding, dtype=dtype, fallback=fallback
        )
    model.to_empty(device=device)
    model.reset_tables()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            for i, source in enumerate(names := published_names(name, tensor)):
                target = tensor[i] if len(names) > 1 or _EXPERTS.fullmatch(name) else tensor
                target.copy_(torch.from_numpy(checkpoint.read(source)))
    return model.eval()


def published_tensors(model: Transformer) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor under its published name as a float32 (tables: int64) array, one at a time."""
    for name, tensor in model.state_dict().items():
        parts = tensor.unbind() if _EXPERTS.fullmatch(name) else (tensor,)
        for source, part in zip(published_names(name, tensor), parts, strict=True):
            part = part.detach().cpu()
            yield source, (part if part.dtype == torch.int64 else part.float()).numpy()
