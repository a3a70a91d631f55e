"""Between checkpoints and modules: published tensor names to parameters and back.

A parameter carries the published name, but for two cases: routed experts are stacked along a
leading expert dim, and mHC parameters sit in modules (`hc_attn_fn` is `hc_attn.fn`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dougong.checkpoint import Checkpoint, Extent, open_checkpoint
from dougong.checkpoint.reader import StoredTensor
from dougong.config import V4Config
from dougong.errors import CheckpointError, ConfigError, InputError
from dougong.formats import bf16
from dougong.kernels.stored import StoredMatrix
from dougong.model.expert_cache import ExpertCache, ExpertLayer
from dougong.model.layers import Embedding, Linear
from dougong.model.moe import RoutedExperts, Router
from dougong.model.transformer import Block, Transformer

STORED_BACKENDS = ("cpu",)
CHECKING_THREADS = 8  # more than cores: most of them wait for the disk
_EXPERTS = re.compile(r"(?P<prefix>.*\.experts)\.(?P<matrix>w[123])")
_MHC = re.compile(r"\bhc_(attn|ffn|head)\.(fn|base|scale)$")


def published_names(name: str, tensor: Tensor | StoredMatrix) -> list[str]:
    """The checkpoint tensors that make up parameter `name`: one, or one for each expert."""
    if stacked := _EXPERTS.fullmatch(name):
        prefix, matrix = stacked["prefix"], stacked["matrix"]
        return [f"{prefix}.{i}.{matrix}.weight" for i in range(tensor.shape[0])]
    return [_MHC.sub(r"hc_\1_\2", name)]


def stored_matrices(model: nn.Module) -> Iterator[tuple[str, StoredMatrix]]:
    """Every matrix that is kept in its stored format, under its parameter's name."""
    for prefix, module in model.named_modules():
        for leaf, value in vars(module).items():
            if isinstance(value, StoredMatrix):
                yield f"{prefix}.{leaf}", value


def keep_stored(model: Transformer, checkpoint: Checkpoint, *, check_experts: bool = True) -> None:
    """Replaces the parameters that are matrices by the checkpoint's own bytes, copying none.

    Two cases are copied: FP16 is widened, and float32 is rounded to BF16 where that is the dtype of
    the module's matrix. Raises CheckpointError for values that cannot be computed with; rows of the
    embedding, and routed experts if not `check_experts`, are looked at when they are used.
    """
    unchecked: list[StoredMatrix] = []
    for name, parameter in list(model.named_parameters()):
        prefix, leaf = name.rsplit(".", 1)
        module = model.get_submodule(prefix)
        if not isinstance(module, Embedding | Linear | Router | RoutedExperts):
            continue
        names = published_names(name, parameter)
        parts = [_native(checkpoint.stored(source), parameter.dtype) for source in names]
        scales = [part.scale for part in parts if part.scale is not None]
        delattr(module, leaf)
        stacked = parameter.dim() == 3
        data = [part.data for part in parts]
        matrix = StoredMatrix(parts[0].dtype, data, scales or None, stacked=stacked, checked=False)
        setattr(module, leaf, matrix)
        is_late = isinstance(module, RoutedExperts) and not check_experts
        if not isinstance(module, Embedding) and not is_late:
            unchecked.append(matrix)
            for source in names:  # what `check_values` will look at
                checkpoint.read_ahead(source, scales_only=matrix.dtype == "I8")
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        for _ in pool.map(StoredMatrix.check_values, unchecked):
            pass


def _native(stored: StoredTensor, dtype: torch.dtype) -> StoredTensor:
    """`stored` in a format that kernels take; see `keep_stored`."""
    if stored.dtype == "F16" or (stored.dtype == "F32" and dtype == torch.bfloat16):
        values = np.asarray(stored.data, np.float32)
        if dtype == torch.bfloat16:
            return StoredTensor("BF16", bf16.encode(values))
        return StoredTensor("F32", values)
    return stored


def load_model(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    backend: str = "reference",
    rounding: str = "none",
    device: torch.device | str = "cpu",
    fallback: bool = True,
    memory_bytes: int | None = None,
) -> Transformer:
    """The V4 model of a checkpoint folder (published or transformers layout), ready to run.

    Raises CheckpointError or ConfigError with one sentence for anything wrong in the folder. MTP
    blocks are built only if the checkpoint has them (the transformers layout does not). Backends
    that compute on stored formats get every matrix as a view of the mapped files; with them
    `memory_bytes` limits the weights held (`keep_within`).
    """
    if memory_bytes is not None and backend not in STORED_BACKENDS:
        raise InputError(
            f"a memory budget needs a backend that computes on weights as they are stored, and "
            f"{backend} widens them; choose {' or '.join(STORED_BACKENDS)}."
        )
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    if not isinstance(config, V4Config):
        raise ConfigError(f"{folder}: holds a V3 model; load it with dougong.model.v3_loading")
    with torch.device("meta"):
        model = Transformer(
            config, backend=backend, rounding=rounding, dtype=dtype, fallback=fallback
        )
    if backend in STORED_BACKENDS:
        keep_stored(model.requires_grad_(False), checkpoint, check_experts=memory_bytes is None)
        model.records_steps = True
    model.to_empty(device=device)
    model.reset_tables()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            for i, source in enumerate(names := published_names(name, tensor)):
                target = tensor[i] if len(names) > 1 or _EXPERTS.fullmatch(name) else tensor
                target.copy_(torch.from_numpy(checkpoint.read(source)))
            if name.endswith(".tid2eid") and not _all_below(tensor, config.n_routed_experts):
                raise CheckpointError(
                    f"{folder}: {name} names experts {int(tensor.min())} to {int(tensor.max())}; "
                    f"this model has {config.n_routed_experts}."
                )
    if memory_bytes is not None:
        keep_within(model, checkpoint, memory_bytes)
    return model.eval()


def _all_below(table: Tensor, limit: int) -> bool:
    return not bool(((table < 0) | (table >= limit)).any())


def keep_within(model: Transformer, checkpoint: Checkpoint, memory_bytes: int) -> None:
    """Has `model`, whose matrices are mapped, hold at most `memory_bytes` of weights.

    Routed experts share what the others leave, for these stay. The embedding, of which a token
    reads one row, and what requests remember are not counted. Raises InputError where one token's
    experts do not fit, or where experts are in a format that has to be converted on the way.
    """
    fixed = fixed_bytes(model)
    if memory_bytes < fixed:
        raise InputError(
            f"a memory budget of {memory_bytes:,} bytes: the weights besides routed experts take "
            f"{fixed:,}; allow those and the experts of one token at least."
        )
    blocks = [(name, part) for name, part in model.named_modules() if isinstance(part, Block)]
    layers = [_expert_layer(name, block, checkpoint) for name, block in blocks]
    cache = ExpertCache(layers, memory_bytes - fixed, model.config.num_experts_per_tok)
    for number, (_, block) in enumerate(blocks):
        block.ffn.experts.cache = cache, number
    model.expert_cache, model.records_steps = cache, False  # a recorded step could not wait


def fixed_bytes(model: Transformer) -> int:
    """Weight bytes that every token reads: all but the embedding and the routed experts."""
    held: int = sum(
        matrix.nbytes
        for name, matrix in stored_matrices(model)
        if name != "embed.weight" and not _EXPERTS.fullmatch(name)
    )
    held += sum(tensor.nbytes for tensor in model.state_dict().values())
    return held


def _expert_layer(name: str, block: Block, checkpoint: Checkpoint) -> ExpertLayer:
    experts = block.ffn.experts
    matrices: list[StoredMatrix] = []
    extents: list[list[Extent]] = [[] for _ in range(experts.w1.shape[0])]
    for leaf in ("w1", "w3", "w2"):
        matrix = getattr(experts, leaf)
        matrices.append(matrix)
        for e, source in enumerate(published_names(f"{name}.ffn.experts.{leaf}", matrix)):
            stored = checkpoint.info(source).dtype
            if stored != matrix.dtype:
                raise InputError(
                    f"{source} is stored as {stored}, which has to be converted to be computed "
                    "with, so it cannot be read under a budget; convert the checkpoint first."
                )
            extents[e] += checkpoint.extents(source)
    follows = name.startswith("layers.")
    return ExpertLayer(tuple(matrices), extents, block.ffn.gate.tid2eid, follows)


def published_tensors(model: Transformer) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor under its published name as a float32 (tables: int64) array, one at a time."""
    for name, matrix in stored_matrices(model):
        parts = matrix.dense().unbind() if _EXPERTS.fullmatch(name) else (matrix.dense(),)
        for source, part in zip(published_names(name, matrix), parts, strict=True):
            yield source, part.numpy()
    for name, tensor in model.state_dict().items():
        parts = tensor.unbind() if _EXPERTS.fullmatch(name) else (tensor,)
        for source, part in zip(published_names(name, tensor), parts, strict=True):
            part = part.detach().cpu()
            yield source, (part if part.dtype == torch.int64 else part.float()).numpy()
