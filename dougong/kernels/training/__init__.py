"""Backend `training`: operators in C++ with hand-written gradients (kernels/native/training_*.h).

It computes in float32 on the CPU. Sums run in an order that the shapes alone decide, so a step has
the same bits every time, on any number of threads.
"""

from dougong.kernels.training.table import OPERATORS

__all__ = ["OPERATORS"]
