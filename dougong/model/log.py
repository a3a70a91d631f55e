"""Rows indexed by absolute position, appended and cut at the end: what V3's layers remember."""

from __future__ import annotations

import torch
from torch import Tensor


class Log:
    """Rows [end, width] in a buffer that doubles."""

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device):
        self.end = 0
        self._rows = torch.empty(0, width, dtype=dtype, device=device)

    def append(self, rows: Tensor) -> None:
        """Adds `rows` [n, width] behind the last one."""
        end = self.end + rows.shape[0]
        if end > self._rows.shape[0]:
            grown = self._rows.new_empty(self.end + end, self._rows.shape[1])
            grown[: self.end] = self.rows()
            self._rows = grown
        self._rows[self.end : end] = rows.detach()
        self.end = end

    def rows(self) -> Tensor:
        """Every row [end, width]: a view, valid until the next append."""
        return self._rows[: self.end]

    def cut(self, end: int) -> None:
        """Forgets every row from index `end` on."""
        assert 0 <= end <= self.end
        self.end = end

    @property
    def num_bytes(self) -> int:
        """Bytes held, spare room included."""
        return self._rows.numel() * self._rows.element_size()

    def copy(self) -> Log:
        """An independent log with the same rows."""
        other = Log(self._rows.shape[1], self._rows.dtype, self._rows.device)
        other.append(self.rows())
        return other
