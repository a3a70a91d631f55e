"""Backend `cpu`: every operator in C++ (kernels/native), called on tensor pointers.

Rows have equal bits however many are computed together, on however many threads, on whichever
instruction set. It computes in float32 or bfloat16 and has no gradients.
"""

from dougong.kernels.cpu.table import OPERATORS

__all__ = ["OPERATORS"]
