"""How much memory tensors take: counted one by one, so the same figure on every machine."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts the memory of tensors that are made inside: `now`, still alive, and `peak`.

    Tensors that share memory count once. Scratch memory of native kernels is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Every operation comes here."""
        for x in args:
            self._enter(x, counts=False)  # there before, or counted already
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            self._enter(x, counts=True)
        return out

    def _enter(self, x: Any, *, counts: bool) -> None:
        if not isinstance(x, Tensor) or x.untyped_storage()._cdata in self._known:
            return
        storage = x.untyped_storage()
        size = storage.nbytes() if counts else 0
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._leave, storage._cdata, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
