"""Data parallelism that changes no bit: the parts of a batch on several processes.

A batch is computed in parts of `data.micro_tokens`, and its gradient is the sum of theirs in their
order. With P processes, part i is computed by process i mod P, and every process adds up all parts'
gradients in the same order as one process would: losses and weights are `==`, whatever P is. Each
gradient is broadcast once, so P processes send P gradients a round where an all-reduce would
send two; in return nothing depends on the number of processes.

Start it with torchrun; gloo on CPUs, NCCL on GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dougong.errors import TrainingError


@dataclass(frozen=True)
class Group:
    """The processes of a run; `rank` 0 writes its files."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints and the log."""
        return self.rank == 0

    def computes(self, part: int) -> bool:
        """Whether this process computes a batch's part of this index."""
        return part % self.size == self.rank

    def wait(self) -> None:
        """Returns when every process is here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Ends the group."""
        if self.size > 1:
            dist.destroy_process_group()

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Rank 0 does the block before the others begin it: they find its files."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def send(self, tensors: list[Tensor], part: int) -> None:
        """Gives every process the contents that the one computing `part` has, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, part % self.size)


def join_group(device: torch.device) -> Group:
    """The group that torchrun describes in the environment; a single process without it.

    Raises:  TrainingError if the processes do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"torch.distributed: {error}; start several processes with torchrun"
            ) from error
    return Group(dist.get_rank(), size)


class Gradients:
    """Sums gradients part by part; across processes in the order of the parts."""

    def __init__(self, group: Group, parameters: list[nn.Parameter]) -> None:
        self.group, self.parameters = group, parameters
        self.total: list[Tensor | None] = [None] * len(parameters)

    def add_part(self, part: int) -> None:
        """Takes the gradients of `part` (where it was computed) into the sum, on every process."""
        if self.group.size == 1:
            return  # the parameters' own gradients are the sum
        own = self.group.computes(part)
        device = self.parameters[0].device
        exists = torch.zeros(len(self.parameters), dtype=torch.uint8, device=device)
        flat = torch.zeros(sum(p.numel() for p in self.parameters), device=device)
        pieces = flat.split([p.numel() for p in self.parameters])
        if own:
            for i, (parameter, piece) in enumerate(zip(self.parameters, pieces, strict=True)):
                if parameter.grad is not None:
                    exists[i] = 1
                    piece.copy_(parameter.grad.flatten())
                    parameter.grad = None
        self.group.send([exists, flat], part)
        for i in exists.nonzero()[:, 0].tolist():
            gradient = pieces[i].view_as(self.parameters[i])
            total = self.total[i]
            self.total[i] = gradient if total is None else total.add_(gradient)

    def finish(self) -> None:
        """Puts the sums where the optimizer looks for them."""
        if self.group.size == 1:
            return
        for parameter, total in zip(self.parameters, self.total, strict=True):
            parameter.grad = total
