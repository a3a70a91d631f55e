"""Fused operators: each file holds the torch reference that defines one of them.

May import errors, config and formats. `registry.operators(backend)` hands out a backend's table.
"""

from dougong.kernels.registry import Operators, operators

__all__ = ["Operators", "operators"]
