"""Muon for matrices and AdamW for the rest, in the groups and with the one rate of the V4 report.

AdamW: embedding, head, norm weights, mHC bases and scales, attention sinks and `ape`. Muon: every
other matrix; stacked experts and the groups of `wo_a` are independent matrices. Parameters without
a gradient (an indexer that had nothing to select) stay as they are.
Source: architecture specification 8; sinks and `ape` are not stated there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dougong.kernels.training.muon import muon_step
from dougong.train.muon import COEFFICIENTS, MOMENTUM, muon_update, update_scale

BETAS = (0.9, 0.95)
EPS = 1e-20
WEIGHT_DECAY = 0.1
ADAMW_LEAVES = ("base", "scale", "attn_sink", "ape")


def uses_muon(name: str, parameter: Tensor) -> bool:
    """Whether this parameter belongs to the Muon group."""
    leaf = name.rsplit(".", 1)[-1]
    outer = name in ("embed.weight", "head.weight")
    return parameter.dim() >= 2 and not outer and leaf not in ADAMW_LEAVES


def independent_matrices(name: str, tensor: Tensor, o_groups: int) -> Tensor:
    """The parameter as a batch [B, N, M] of logically independent matrices (a view)."""
    if name.endswith("wo_a.weight"):
        groups: Tensor = tensor.unflatten(0, (o_groups, -1))
        return groups
    return tensor if tensor.dim() == 3 else tensor[None]


@dataclass
class Optimizer:
    """Both optimizers over one model; `state` maps `name/kind` to tensors, for checkpoints."""

    parameters: dict[str, nn.Parameter]
    o_groups: int
    native: bool = False  # Muon by backend training's kernel, a matrix at a time
    state: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the parameters' gradients, which it clears."""
        for name, parameter in self._with_gradient():
            if not uses_muon(name, parameter):
                self._adamw(name, parameter, lr)
        for same_shape in self._matrices_by_shape().values():
            if self.native:
                self._native_muon(same_shape, lr)
            else:
                self._muon(same_shape, lr)
        for parameter in self.parameters.values():
            parameter.grad = None

    def _with_gradient(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.parameters.items() if p.grad is not None)

    def _buffer(self, name: str, kind: str, like: Tensor) -> Tensor:
        return self.state.setdefault(f"{name}/{kind}", torch.zeros_like(like))

    def _adamw(self, name: str, parameter: nn.Parameter, lr: float) -> None:
        assert parameter.grad is not None
        first = self._buffer(name, "first", parameter)
        second = self._buffer(name, "second", parameter)
        count = self.state.setdefault(f"{name}/count", torch.zeros((), dtype=torch.int64))
        count += 1
        first.lerp_(parameter.grad, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
        t = int(count)
        scale = (second / (1 - BETAS[1] ** t)).sqrt_().add_(EPS)
        parameter.mul_(1 - lr * WEIGHT_DECAY)
        parameter.addcdiv_(first / (1 - BETAS[0] ** t), scale, value=-lr)

    def _matrices_by_shape(self) -> dict[tuple[int, ...], list[tuple[str, nn.Parameter]]]:
        """Muon parameters whose matrices have one shape: orthogonalized in one batch."""
        groups: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self._with_gradient():
            if uses_muon(name, parameter):
                shape = tuple(independent_matrices(name, parameter, self.o_groups).shape[1:])
                groups.setdefault(shape, []).append((name, parameter))
        return groups

    def _muon(self, group: list[tuple[str, nn.Parameter]], lr: float) -> None:
        views: list[Tensor] = []
        grads: list[Tensor] = []
        momenta: list[Tensor] = []
        for name, parameter in group:
            assert parameter.grad is not None
            momentum = self._buffer(name, "momentum", parameter)
            for found, tensor in (
                (views, parameter), (grads, parameter.grad), (momenta, momentum)
            ):  # fmt: skip
                found.append(independent_matrices(name, tensor, self.o_groups))
        joined = torch.cat(momenta)
        updates = muon_update(torch.cat(grads), joined)
        sizes = [view.shape[0] for view in views]
        for view, momentum, new, update in zip(
            views, momenta, joined.split(sizes), updates.split(sizes), strict=True
        ):
            momentum.copy_(new)
            view.mul_(1 - lr * WEIGHT_DECAY).sub_(update, alpha=lr)

    def _native_muon(self, group: list[tuple[str, nn.Parameter]], lr: float) -> None:
        for name, parameter in group:
            assert parameter.grad is not None
            weight, grad, momentum = (
                independent_matrices(name, x, self.o_groups)
                for x in (parameter, parameter.grad, self._buffer(name, "momentum", parameter))
            )
            kept, step = 1 - lr * WEIGHT_DECAY, lr * update_scale(weight)
            muon_step(weight, grad, momentum, COEFFICIENTS, decay=MOMENTUM, kept=kept, step=step)


def clip_gradients(parameters: dict[str, nn.Parameter], limit: float) -> float:
    """Scales all gradients so that their joint norm is at most `limit`; returns the norm before."""
    with_grad = [p for p in parameters.values() if p.grad is not None]
    return float(nn.utils.clip_grad_norm_(with_grad, limit))
