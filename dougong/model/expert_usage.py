"""How often each routed expert is used: what decides which ones stay in memory.

An estimate of the chance that a token uses an expert: uses over tokens, both forgotten by half
every `HALF_LIFE` tokens, each layer by its own clock. Counting tokens makes a long prompt and a
long answer say the same. The least used expert goes first, newcomers included, so one that came
for a single token does not push out those that every tenth token needs, as it would under LRU; and
a prompt, which uses all experts of one layer after another, does not push out everything.
Source of the idea: LRFU (Lee et al., 2001) for the decay, TinyLFU (Einziger et al., 2017) for
comparing the newcomer as well. docs/real_sizes.md has what it gains over LRU.

Shapes: L layers, E experts in each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF_LIFE = 128  # tokens


class Usage:
    """Chances of use of L x E experts; at first all alike."""

    def __init__(self, layers: int, experts: int, top_k: int) -> None:
        self._uses_LE = np.full((layers, experts), top_k / experts)
        self._tokens_L = np.ones(layers)  # as if one token had used a bit of every expert
        self.chance_LE = self._uses_LE.copy()

    def note(self, layer: int, counts_E: NDArray[np.int64], tokens: int) -> None:
        """`tokens` tokens used the layer's experts so many times."""
        kept = 0.5 ** (tokens / HALF_LIFE)
        self._uses_LE[layer] = self._uses_LE[layer] * kept + counts_E
        self._tokens_L[layer] = self._tokens_L[layer] * kept + tokens
        self.chance_LE[layer] = self._uses_LE[layer] / self._tokens_L[layer]

    def least(self, numbers: NDArray[np.int64]) -> int:
        """Of experts numbered layer by layer, the position of the one least likely to be used."""
        return int(self.chance_LE.reshape(-1)[numbers].argmin())

    def likely(self, layer: int, tokens: int) -> list[int]:
        """The layer's experts that some of `tokens` tokens will use more likely than not, the
        likeliest first.
        """
        used_E = 1 - (1 - np.minimum(self.chance_LE[layer], 1)) ** tokens
        order = np.argsort(-used_E, kind="stable")
        return [int(expert) for expert in order if used_E[expert] > 0.5]
