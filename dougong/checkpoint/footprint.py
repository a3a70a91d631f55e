"""What running a V4 checkpoint asks of a machine: bytes held, bytes a token reads, speed."""

from __future__ import annotations

from dataclasses import dataclass

from dougong.checkpoint.schema import parameters
from dougong.checkpoint.tensors import Storage
from dougong.config import V4Config


@dataclass(frozen=True)
class Footprint:
    """Weight bytes of the main model as they are stored: decoding reads no MTP block.

    fixed:   what every token reads. Of the embedding it reads one row, so that is not in it.
    expert:  one routed expert; a layer has `experts` of them, of which a token uses `top_k`.
    """

    fixed: int
    expert: int
    layers: int
    experts: int
    top_k: int

    @property
    def whole(self) -> int:
        """What has to be in memory so that nothing is ever read from the disk."""
        return self.fixed + self.layers * self.experts * self.expert

    @property
    def least(self) -> int:
        """About the smallest `--memory`: `fixed` and the experts that a token uses in a layer."""
        return self.fixed + self.top_k * self.expert

    @property
    def per_token(self) -> int:
        """What decoding one token reads, from wherever."""
        return self.fixed + self.layers * self.top_k * self.expert

    def from_disk(self, memory: float) -> float:
        """Bytes a token that come from the disk with so much memory, all experts used alike."""
        held = max(memory - self.fixed, 0) / (self.whole - self.fixed)
        return max(1 - held, 0) * (self.per_token - self.fixed)

    def tokens_per_s(self, memory: float, memory_rate: float, disk_rate: float) -> float:
        """Decode speed at best, memory and disk read side by side; rates in bytes a second."""
        return 1 / max(self.per_token / memory_rate, self.from_disk(memory) / disk_rate)


def footprint(config: V4Config) -> Footprint:
    """The footprint of `config` in the form that its quantization_config names."""
    storage = Storage.of(config)
    fixed = routed = 0
    for parameter in parameters(config):
        if parameter.name.startswith(("mtp.", "embed.")):
            continue
        nbytes = sum(spec.nbytes for spec in storage.stored(parameter))
        if parameter.role == "expert":
            routed += nbytes
        elif parameter.role != "table":  # a token reads one row
            fixed += nbytes
    layers, experts = config.num_hidden_layers, config.n_routed_experts
    return Footprint(fixed, routed // (layers * experts), layers, experts,
                     config.num_experts_per_tok)  # fmt: skip
