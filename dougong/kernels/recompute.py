"""Activation recomputation: what is dropped after the forward pass, and made again backwards.

A policy is a set of operators. What such an operator returns, and what it saves for its gradient,
is dropped: autograd keeps a `View` instead, which knows the `Call` behind it. The first gradient
that needs it runs the smallest subgraph: that call, after those that made its dropped inputs, as
far as tensors that were kept. Every call runs again at most once, and what it makes is freed with
its last user. Tensors that share memory (reshapes) are dropped and made as one. The same operators
on the same inputs give the same bits, and so the same gradients: no operator draws random numbers,
and none changes its inputs.

`tensor` drops what costs no large product: mHC and norms, those of queries and window entries too.
`module` drops what a layer makes, save what its indexer selects; its input streams stay.
Source: infrastructure specification 1.7, after the V4 report's tensor-level checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from dougong.config import V4Config
from dougong.errors import ConfigError

CHEAP = {"mhc_pre", "mhc_post", "mhc_head", "rms_norm", "norm_rope_q", "norm_rope_kv"}
COSTLY = {
    "linear", "wide_linear", "router", "grouped_experts", "expert_mlp", "rope_index_q", "compress",
    "attention", "add", "grouped_projection",
}  # fmt: skip
POLICIES: dict[str, set[str]] = {"none": set(), "module": CHEAP | COSTLY, "tensor": CHEAP}
SUBLAYERS = 2  # of a layer, each with mhc_post behind it
Slot = tuple[str, int]  # which of a call's tensors: ("out", i) or, of those it saves, ("saved", i)

_tape: Tape | None = None


class Dropped:
    """Memory that a call can make again; held once it is, while anyone may need it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.tensor: Tensor | None = None

    def made(self) -> Tensor:
        """A tensor on this memory."""
        if self.tensor is None:
            self.call.run()
        assert self.tensor is not None, "a call makes the same tensors every time"
        return self.tensor


class View:
    """A tensor on dropped memory: all that autograd, and calls on it, keep."""

    def __init__(self, x: Tensor, dropped: Dropped) -> None:
        self.dropped, self.dtype, self.requires_grad = dropped, x.dtype, x.requires_grad
        self.place = x.storage_offset(), x.size(), x.stride()

    def made(self) -> Tensor:
        """The tensor, without its history."""
        memory = self.dropped.made()
        x = torch.empty(0, dtype=self.dtype, device=memory.device)
        return x.set_(memory.untyped_storage(), *self.place)


class Call:
    """An operator with its arguments, the dropped tensors among them as views."""

    def __init__(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.dropped: WeakValueDictionary[Slot, Dropped] = WeakValueDictionary()
        self.num_saved = 0

    def drop(self, slot: Slot) -> Dropped:
        """What stands for one of its tensors."""
        dropped = self.dropped[slot] = Dropped(self)
        return dropped

    def run(self) -> None:
        """Calls it again, for everything of it that is still needed."""
        saves = any(kind == "saved" for kind, _ in self.dropped)
        saved: list[Tensor] = []

        def collect(x: Tensor) -> None:  # this graph's backward pass is never run
            saved.append(x.detach())

        def argument(x: Any) -> Any:
            if not isinstance(x, Tensor | View):
                return x
            value = x.made() if isinstance(x, View) else x.detach()
            return value.requires_grad_(saves and x.requires_grad)

        args = [argument(x) for x in self.args]
        kwargs = {name: argument(x) for name, x in self.kwargs.items()}
        with torch.set_grad_enabled(saves), saved_tensors_hooks(collect, lambda x: x):
            out = _tensors(self.function(*args, **kwargs))
        for (kind, i), dropped in self.dropped.items():
            dropped.tensor = saved[i] if kind == "saved" else out[i].detach()


class Tape:
    """What one forward pass drops.

    Behind every `every`-th sublayer streams are kept: made from each other, all of them would have
    to be made again for the last.
    """

    def __init__(self, names: set[str], every: int) -> None:
        self.names, self.every, self.sublayers = names, every, 0
        self.made: dict[int, tuple[StorageWeakRef, Dropped]] = {}  # by the storage's address
        self.call: Call | None = None  # that runs now
        self.inputs: set[int] = set()  # addresses of the storages that it keeps

    def record(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls an operator; drops what it makes if it is one of the policy's."""
        if name not in self.names or not torch.is_grad_enabled():
            return function(*args, **kwargs)
        views = {name: self._view(x) for name, x in kwargs.items()}
        self.call = call = Call(function, [self._view(x) for x in args], views)
        kept = [x for x in (*call.args, *views.values()) if isinstance(x, Tensor)]
        self.inputs = {_address(x) for x in kept}
        try:
            out = function(*args, **kwargs)
        finally:
            self.call = None
        self.sublayers += name == "mhc_post"
        if name == "mhc_post" and self.sublayers % self.every == 0:
            return out
        for i, x in enumerate(_tensors(out)):
            if self._find(x) is None and _address(x) not in self.inputs:
                reference = StorageWeakRef(x.untyped_storage())
                self.made[_address(x)] = reference, call.drop(("out", i))
        return out

    def pack(self, x: Tensor) -> Tensor | View:
        """What autograd keeps of a tensor that it wants to save."""
        dropped = self._find(x)
        if self.call is not None:
            slot = "saved", self.call.num_saved
            self.call.num_saved += 1
            if dropped is None and _address(x) not in self.inputs:
                dropped = self.call.drop(slot)
        lazy = x.is_conj() or x.is_neg()  # not a view that memory, shape and strides describe
        # without its history: a result that its own gradient needs would hold itself
        return x.detach() if dropped is None or lazy else View(x, dropped)

    def _view(self, x: Any) -> Any:
        """An argument as its call keeps it."""
        dropped = self._find(x) if isinstance(x, Tensor) else None
        return x if dropped is None else View(x, dropped)

    def _find(self, x: Tensor) -> Dropped | None:
        reference, dropped = self.made.get(_address(x), (None, None))
        return None if reference is None or reference.expired() else dropped


def _address(x: Tensor) -> int:
    address: int = x.untyped_storage()._cdata
    return address


def _tensors(out: Any) -> list[Tensor]:
    """An operator's results."""
    return [x for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor)]


def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The operator, seen by `recomputation`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _tape is None:
            return function(*args, **kwargs)
        return _tape.record(name, function, args, kwargs)

    return call


@contextmanager
def recomputation(policy: str, config: V4Config) -> Iterator[None]:
    """One forward pass inside keeps what `policy` says; its backward pass may come later.

    Raises:  ConfigError for an unknown policy.
    """
    global _tape
    if policy not in POLICIES:
        raise ConfigError(f"recompute = {policy!r} is unknown; choose {', '.join(POLICIES)}")
    if policy == "none":
        yield
        return
    sublayers = SUBLAYERS * config.num_hidden_layers
    every = SUBLAYERS if policy == "module" else block_length(sublayers, config.hc_mult)
    outer, tape = _tape, Tape(POLICIES[policy], every)
    _tape = tape
    try:
        with saved_tensors_hooks(tape.pack, _unpack):
            yield
    finally:
        tape.made.clear()  # autograd holds on to the hooks, and so to the tape
        _tape = outer


def _unpack(kept: Tensor | View) -> Tensor:
    return kept.made() if isinstance(kept, View) else kept


def block_length(sublayers: int, streams: int) -> int:
    """Sublayers between kept streams: argmin of n ceil(L / r) + (n + 2) r.

    A kept one costs n rows a token, and each sublayer in work at once n + 2.
    Source: mHC paper, arXiv 2512.24880.
    """
    lengths = range(1, sublayers + 1)
    return min(lengths, key=lambda r: streams * -(-sublayers // r) + (streams + 2) * r)
