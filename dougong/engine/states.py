"""Who owns the requests' states: memory for the scheduler, states for the runner."""

from __future__ import annotations

from dougong.engine.request import Request
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer


class States:
    """States of the running requests, counted in blocks of 128 tokens out of `total`."""

    def __init__(self, model: Transformer, total: int) -> None:
        self.model, self.total = model, total
        self._states: dict[int, RequestState] = {}
        self._held: dict[int, int] = {}

    def available(self) -> int:
        """Blocks that no request holds."""
        return self.total - sum(self._held.values())

    def attach(self, request: Request) -> int:
        """A fresh state."""
        self._states[request.id] = self.model.new_state()
        self._held[request.id] = 0
        return 0

    def reserve(self, request: Request, blocks: int) -> None:
        """Promises memory."""
        self._held[request.id] += blocks

    def release(self, request: Request) -> None:
        """Takes the state back."""
        del self._states[request.id], self._held[request.id]

    def of(self, request: Request) -> RequestState:
        """The state of a running request."""
        return self._states[request.id]

    def next_cut(self, request: Request, high: int) -> int:
        """Where a chunk that would end at `high` should end."""
        return high

    def reached(self, request: Request) -> None:
        """Told after `request.computed` has grown."""
