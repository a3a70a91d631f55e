"""The golden vectors of tests/parity/golden: models, inputs, expected outputs, runs."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dougong.model.loading import load_model
from dougong.model.transformer import Transformer

FOLDER = Path(__file__).parents[1] / "parity" / "golden"
PLAIN = ("s1_sliding", "s2_csa", "s3_hca", "s4_mixed_mtp", "s5_hd512")
PUBLISHED = ("sq1_csa_hash", "sq2_mtp")

# Two independent float32 implementations are within 1e-5 of the float64 values (meta.json).
TOLERANCE = 2e-5


@cache
def expected(name: str) -> dict[str, Tensor]:
    """Inputs and expected outputs."""
    return load_file(FOLDER / name / "expected" / "vectors.safetensors")


def wanted(name: str, key: str) -> Tensor:
    """`logits` or `mtp_logits`, exactly dequantized where the checkpoint is quantized."""
    return expected(name)[f"{key}_dequant" if name in PUBLISHED else key]


def model(name: str, dtype: torch.dtype = torch.float32, rounding: str = "none") -> Transformer:
    """The golden model, through the loader that users go through."""
    return load_model(FOLDER / name, dtype=dtype, rounding=rounding)


def full(golden: Transformer, ids_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, S, V] and streams [B, S, hc, D] of one forward pass over flattened requests."""
    num, length = ids_BS.shape
    streams = golden(ids_BS.flatten(), [length] * num)
    return golden.logits(streams).view(num, length, -1), streams.unflatten(0, (num, length))


def chunked(golden: Transformer, ids_BS: Tensor, chunks: Sequence[int]) -> Tensor:
    """Logits [B, S, V] of the same prompt cut into `chunks`, the last one repeating."""
    num, length = ids_BS.shape
    states, parts, at = [golden.new_state() for _ in range(num)], [], 0
    while at < length:
        size = min(chunks[min(len(parts), len(chunks) - 1)], length - at)
        streams = golden(ids_BS[:, at : at + size].flatten(), [size] * num, states)
        parts.append(golden.logits(streams).view(num, size, -1))
        at += size
    return torch.cat(parts, 1)


def mtp(golden: Transformer, ids_BS: Tensor, streams_BSHD: Tensor) -> Tensor:
    """MTP logits [B, S - 1, V] from the main model's streams and the following ids."""
    num, length = ids_BS.shape
    streams = golden.mtp_streams(
        streams_BSHD[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten(), [length - 1] * num
    )
    return golden.mtp_logits(streams).view(num, length - 1, -1)
