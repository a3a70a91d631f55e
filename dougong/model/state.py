"""What a request remembers between forward passes.

All of it is logs: rows indexed by absolute position, appended at the end and cut at the end. The
window's and the compressors' logs keep only their recent rows. Rolling back is cutting, so a
rejected draft costs nothing and no tail can go stale.
Source: architecture specification 2.6, trap 19.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.config import V4Config
from dougong.errors import InputError
from dougong.kernels.dtypes import wide

ROLLBACK_TOKENS = 16  # a request can always take back this many tokens


class Log:
    """Rows [end - start, width] for indices start .. end - 1; the front may be forgotten.

    `keep`: rows before the last append that must stay readable; None keeps everything.
    """

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device, keep: int | None):
        self.keep, self.start, self.end = keep, 0, 0
        self._rows = torch.empty(0, width, dtype=dtype, device=device)

    def append(self, rows: Tensor) -> None:
        """Adds `rows` [n, width] behind the last one."""
        self.reserve(rows.shape[0])
        self.rows(self.end - rows.shape[0], self.end)[:] = rows.detach()

    def reserve(self, num_rows: int) -> None:
        """Adds rows behind the last one whose contents the caller writes."""
        room = self._rows.shape[0] - (self.end - self.start)
        if num_rows > room:
            self._grow(num_rows)
        self.end += num_rows

    def address(self, index: int) -> int:
        """Where row `index` lies in memory, until the next append."""
        assert self.start <= index < self.end, (self.start, index, self.end)
        row_bytes = self._rows.shape[1] * self._rows.element_size()
        return self._rows.data_ptr() + (index - self.start) * row_bytes

    def _grow(self, num_rows: int) -> None:
        """Moves the rows still needed to a new buffer with room for `num_rows` more, and spare."""
        start = self.start if self.keep is None else max(self.start, self.end - self.keep)
        held = self._rows[start - self.start : self.end - self.start]
        spare = held.shape[0] if self.keep is None else self.keep
        rows = self._rows.new_empty(held.shape[0] + num_rows + spare, self._rows.shape[1])
        rows[: held.shape[0]] = held
        self._rows, self.start = rows, start

    def rows(self, low: int, high: int) -> Tensor:
        """Rows low .. high - 1 by absolute index; a view, valid until the next append."""
        assert self.start <= low <= high <= self.end, (self.start, low, high, self.end)
        return self._rows[low - self.start : high - self.start]

    def cut(self, end: int) -> None:
        """Forgets every row from index `end` on."""
        assert self.start <= end <= self.end
        self.end = end

    @property
    def num_bytes(self) -> int:
        """Bytes held, spare room included."""
        return self._rows.numel() * self._rows.element_size()

    def copy(self) -> Log:
        """An independent log with the same rows."""
        other = Log(self._rows.shape[1], self._rows.dtype, self._rows.device, self.keep)
        other.start = other.end = self.start
        other.append(self.rows(self.start, self.end))
        return other


class CompressorState:
    """A compressor's finished entries, and its recent tokens (value and score side by side)."""

    def __init__(self, ratio: int, width: int, dtype: torch.dtype, device: torch.device):
        self.ratio = ratio
        token_width = 2 * (2 if ratio == 4 else 1) * width
        pending = 2 * ratio  # the current block and, for the overlap, the one before
        self.tokens = Log(token_width, wide(dtype), device, pending + ROLLBACK_TOKENS)
        self.entries = Log(width, dtype, device, None)

    def logs(self) -> list[Log]:
        """Both logs, for copying and counting."""
        return [self.tokens, self.entries]

    def cut(self, length: int) -> None:
        """Back to `length` tokens: later tokens and the entries they completed are gone."""
        self.tokens.cut(length)
        self.entries.cut(length // self.ratio)


class LayerState:
    """One attention layer's memory: window entries and, where it compresses, compressor states."""

    def __init__(self, config: V4Config, ratio: int, dtype: torch.dtype, device: torch.device):
        reach = config.sliding_window - 1 + ROLLBACK_TOKENS
        self.window = Log(config.head_dim, dtype, device, reach)
        self.compressor = CompressorState(ratio, config.head_dim, dtype, device) if ratio else None
        self.indexer = (
            CompressorState(ratio, config.index_head_dim, dtype, device) if ratio == 4 else None
        )

    @property
    def _compressors(self) -> list[CompressorState]:
        return [state for state in (self.compressor, self.indexer) if state is not None]

    @property
    def length(self) -> int:
        """Tokens that this layer has taken."""
        return self.window.end

    def logs(self) -> list[Log]:
        """Every log of the layer."""
        return [self.window] + [log for state in self._compressors for log in state.logs()]

    def cut(self, length: int) -> None:
        """Back to `length` tokens."""
        self.window.cut(length)
        for state in self._compressors:
            state.cut(length)

    def copy(self) -> LayerState:
        """An independent layer state with the same rows."""
        other = object.__new__(LayerState)
        other.window = self.window.copy()
        other.compressor, other.indexer = (
            None if state is None else _copy_compressor(state)
            for state in (self.compressor, self.indexer)
        )
        return other


def _copy_compressor(state: CompressorState) -> CompressorState:
    other = object.__new__(CompressorState)
    other.ratio = state.ratio
    other.tokens, other.entries = state.tokens.copy(), state.entries.copy()
    return other


class RequestState:
    """The whole memory of one request: `length` tokens in the main layers, fewer in MTP blocks."""

    def __init__(self, config: V4Config, dtype: torch.dtype, device: torch.device | str = "cpu"):
        device = torch.device(device)
        main, extra = config.num_hidden_layers, config.num_nextn_predict_layers
        ratios = config.compress_ratios
        self.layers = [LayerState(config, ratios[i], dtype, device) for i in range(main)]
        self.mtp = [LayerState(config, ratios[main + i], dtype, device) for i in range(extra)]
        self.length = 0
        self._longest = 0  # rows older than its last ROLLBACK_TOKENS may be gone

    def advance(self, num_tokens: int) -> None:
        """Called by the model after the layers took `num_tokens` more tokens."""
        self.length += num_tokens
        self._longest = max(self._longest, self.length)

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last `num_tokens` tokens, 16 at most counted from the longest state.

        Raises InputError if that is more than the state can undo; the state is then unchanged.
        """
        length = self.length - num_tokens
        possible = self.length - max(self._longest - ROLLBACK_TOKENS, 0)
        if not 0 <= num_tokens <= possible:
            raise InputError(
                f"rollback: {num_tokens} tokens cannot be taken back, only 0 to {possible}; "
                "keep a snapshot to go back further"
            )
        for layer in self.layers:
            layer.cut(length)
        for block in self.mtp:
            block.cut(min(block.length, length))
        self.length = length

    def snapshot(self) -> RequestState:
        """An independent copy, to go on from or to `restore` later."""
        other = object.__new__(RequestState)
        other.layers = [layer.copy() for layer in self.layers]
        other.mtp = [layer.copy() for layer in self.mtp]
        other.length, other._longest = self.length, self._longest
        return other

    def restore(self, snapshot: RequestState) -> None:
        """Becomes a copy of `snapshot`, which stays usable."""
        fresh = snapshot.snapshot()
        self.layers, self.mtp = fresh.layers, fresh.mtp
        self.length, self._longest = fresh.length, fresh._longest

    @property
    def num_bytes(self) -> int:
        """Bytes of all logs, spare room included."""
        return sum(log.num_bytes for layer in self.layers + self.mtp for log in layer.logs())
