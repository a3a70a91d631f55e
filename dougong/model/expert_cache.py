"""Routed experts under a budget: those used most stay in memory, others come from their files.

For a checkpoint larger than memory. As soon as the router has chosen, the missing experts of its
layer are read while the shared expert and those at hand compute; of a prompt's next layer, those
likely to be needed are read meanwhile; of hash-routed layers the token ids tell. An expert's bytes
are the same wherever they lie, and sums keep the slots' order, so results are those of the whole
model, bit for bit.

An expert's number is layer * E + its index. Shapes: E experts in a layer, T tokens, K a token.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from torch import Tensor

from dougong.checkpoint import Extent
from dougong.errors import CheckpointError, InputError
from dougong.kernels.stored import StoredMatrix
from dougong.model.expert_slots import Slots, plan_reads
from dougong.model.expert_usage import Usage

GROUP = 8  # experts computed between two looks at what has arrived
DEPTH = 16  # reads under way for one layer at most
AHEAD = 4  # one in so many slots may hold experts read ahead


@dataclass(frozen=True)
class ExpertLayer:
    """The experts of one layer: matrices, where each expert's arrays lie, ids -> experts if hashed.

    `extents[e]`: data, and scales if there are any, of each matrix in turn. `follows`: whether a
    pass goes on to it from the layer before (to an MTP block it does not).
    """

    matrices: tuple[StoredMatrix, ...]
    extents: Sequence[Sequence[Extent]]
    table: Tensor | None = None
    follows: bool = True


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a budget costs. `slots` experts of `experts` fit in; `uses` by passes through a layer,
    `reads` of them; bytes, the seconds in which some read was under way, and those in which
    arithmetic waited for one.
    """

    slots: int
    experts: int
    uses: int
    reads: int
    bytes_read: int
    read_s: float
    waited_s: float

    def since(self, earlier: Traffic) -> Traffic:
        """What came after `earlier`."""
        names = ("uses", "reads", "bytes_read", "read_s", "waited_s")
        return replace(self, **{n: getattr(self, n) - getattr(earlier, n) for n in names})

    @property
    def disk_rate(self) -> float:
        """Bytes a second while reading; 0 if nothing was read."""
        return self.bytes_read / self.read_s if self.read_s else 0.0


class ExpertCache:
    """The experts of all layers in as many slots as fit a budget. One pass at a time uses it."""

    def __init__(self, layers: Sequence[ExpertLayer], budget_bytes: int, top_k: int) -> None:
        """Raises InputError for a budget that cannot hold the `top_k` experts of one token."""
        self.layers = layers
        self.count = layers[0].matrices[0].shape[0]  # E
        self._plans = [plan_reads(extents) for layer in layers for extents in layer.extents]
        nbytes = max(plan.nbytes for plan in self._plans)
        num_slots = min(budget_bytes // nbytes, len(self._plans))
        if num_slots < top_k:
            raise InputError(
                f"a memory budget that leaves {budget_bytes:,} bytes for routed experts: the "
                f"{top_k} that one token uses in a layer need {top_k * nbytes:,}; allow "
                f"{top_k * nbytes - budget_bytes:,} more."
            )
        self.slots, self.usage = Slots(num_slots, nbytes), Usage(len(layers), self.count, top_k)
        self._mapped = [
            [(m.data[e], m.scale[e] if m.scale else None) for m in layer.matrices]
            for layer in layers
            for e in range(self.count)
        ]
        self._checked: set[int] = set()
        self._lock, self._process, self._changing = threading.RLock(), os.getpid(), False
        self._uses, self._reads, self._waited_s = 0, 0, 0.0
        self._owner = np.full(num_slots, -1)  # the number of the expert in each slot
        self._slot: dict[int, int] = {}  # of each expert that is in one or being read
        self._reading: dict[int, Future[None]] = {}  # until it is used from its slot
        self._ahead: set[int] = set()  # read ahead and not used yet: stay

    @property
    def traffic(self) -> Traffic:
        """All that happened so far."""
        return Traffic(
            slots=self.slots.count, experts=len(self._plans), uses=self._uses, reads=self._reads,
            bytes_read=self.slots.bytes_read, read_s=self.slots.busy_s, waited_s=self._waited_s,
        )  # fmt: skip

    def disk_rate(self, experts: int = 96) -> float:
        """Bytes a second of reading experts from all over the files, with nothing else to do."""
        slots = Slots(DEPTH, self.slots.nbytes)
        numbers = [len(self._plans) * i // experts for i in range(experts)]
        for low in range(0, experts, DEPTH):
            batch = numbers[low : low + DEPTH]
            wait([slots.fill(slot, self._plans[n]) for slot, n in enumerate(batch)])
        return slots.bytes_read / slots.busy_s

    def begin(self, ids_T: Tensor) -> None:
        """A pass over `ids_T` is about to start: reads ahead what hash-routed layers will use."""
        with self._entered():
            for layer, experts in enumerate(self.layers):
                if experts.table is not None:
                    self._read_ahead(layer, experts.table[ids_T].unique().tolist(), set())

    @contextmanager
    def groups(self, layer: int, experts_TK: Tensor) -> Iterator[Iterator[list[int]]]:
        """The experts that `experts_TK` names, in groups, each as soon as it can compute.

        Reading starts at once; a group stays in place until the next one is asked for.
        """
        with self._entered():
            counts_E = np.bincount(experts_TK.flatten().numpy(), minlength=self.count)
            self.usage.note(layer, counts_E, experts_TK.shape[0])
            first = layer * self.count
            wanted = [first + int(expert) for expert in np.flatnonzero(counts_E)]
            self._uses += len(wanted)
            # what was read ahead for this layer is either wanted or was a wrong guess
            self._ahead -= set(range(first, first + self.count))
            missing = deque(number for number in wanted if number not in self._slot)
            held = set(wanted)
            self._read_missing(missing, held)
            yield self._groups(layer, experts_TK.shape[0], missing, held)

    def _groups(
        self, layer: int, tokens: int, missing: deque[int], held: set[int]
    ) -> Iterator[list[int]]:
        """`held`: experts that have not computed yet, `missing` ones included."""
        while held:
            ready = [n for n in held if n in self._slot and self._has_arrived(n)][:GROUP]
            if not ready:
                self._wait()
            for number in ready:
                self._arrive(number)
            if ready:
                yield [number % self.count for number in ready]
            held.difference_update(ready)
            self._read_missing(missing, held)
            if not missing and layer + 1 < len(self.layers) and self.layers[layer + 1].follows:
                self._read_ahead(layer + 1, self.usage.likely(layer + 1, tokens), held)

    def _read_missing(self, missing: deque[int], held: set[int]) -> None:
        """Starts as many reads as may be under way and have a slot to go to."""
        for _ in range(len(self._under_way()), DEPTH):
            if not missing or (slot := self._free_slot(held)) is None:
                return
            self._start(missing.popleft(), slot)

    def _read_ahead(self, layer: int, experts: Sequence[int], held: set[int]) -> None:
        """Starts to read experts of a layer to come, best first, as far as slots may be used so."""
        numbers = [layer * self.count + expert for expert in experts]
        held = held.union(numbers)
        for number in numbers:
            if len(self._ahead) >= self.slots.count // AHEAD:
                return
            if number not in self._slot:
                if (slot := self._free_slot(held)) is None:
                    return
                self._start(number, slot)
                self._ahead.add(number)

    def _free_slot(self, held: set[int]) -> int | None:
        """A slot without an expert, or with the least used one of those that may go."""
        free = np.flatnonzero(self._owner < 0)
        if free.size:
            return int(free[0])
        may_go = np.ones(self.slots.count, bool)
        for number in (*held, *self._ahead, *self._under_way()):
            if number in self._slot:
                may_go[self._slot[number]] = False
        candidates = np.flatnonzero(may_go)
        if not candidates.size:
            return None
        return int(candidates[self.usage.least(self._owner[candidates])])

    def _start(self, number: int, slot: int) -> None:
        """Begins to read an expert into a slot whose owner, if any, goes."""
        self._changing = True  # an interrupt in here leaves unknown what is read where
        owner = int(self._owner[slot])
        if owner >= 0:
            self._forget(owner)
        self._owner[slot], self._slot[number] = number, slot
        self._reading[number] = self.slots.fill(slot, self._plans[number])
        self._reads += 1
        self._changing = False

    def _forget(self, number: int) -> None:
        self._place(number, None)
        self._reading.pop(number, None)
        self._owner[self._slot.pop(number)] = -1

    def _under_way(self) -> dict[int, Future[None]]:
        return {n: future for n, future in self._reading.items() if not future.done()}

    def _has_arrived(self, number: int) -> bool:
        return number not in self._reading or self._reading[number].done()

    def _arrive(self, number: int) -> None:
        """An expert that is all there is used from its slot from now on."""
        future = self._reading.get(number)
        if future is None:
            return
        try:
            future.result()
            self._place(number, self._slot[number])
        except CheckpointError:
            self._forget(number)
            raise
        del self._reading[number]

    def _place(self, number: int, slot: int | None) -> None:
        """Points an expert's matrices at its slot, or at the mapped files where it came from."""
        layer, expert = divmod(number, self.count)
        offsets = iter(self._plans[number].offsets)
        arrays = zip(self.layers[layer].matrices, self._mapped[number], strict=True)
        for matrix, (data, scale) in arrays:
            if slot is not None:
                data = self.slots.array(slot, next(offsets), data)
                if scale is not None:
                    scale = self.slots.array(slot, next(offsets), scale)
                if number not in self._checked:
                    matrix.check_values_of(data, scale)
            matrix.place(expert, data, scale)
        if slot is not None:
            self._checked.add(number)

    def _wait(self) -> None:
        """Returns when another read is done."""
        start_s = perf_counter()
        wait(self._under_way().values(), return_when=FIRST_COMPLETED)
        self._waited_s += perf_counter() - start_s

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Keeps other threads out; after a fork or an interrupt, starts over with empty slots."""
        if self._process != os.getpid():
            self._process, self._lock, self._changing = os.getpid(), threading.RLock(), True
            self.slots.after_fork()
        with self._lock:
            if self._changing:
                self._start_over()
            yield

    def _start_over(self) -> None:
        self.slots.settle()
        for number in self._slot:
            self._place(number, None)
        self._owner[:] = -1
        self._slot.clear()
        self._reading.clear()
        self._ahead.clear()
        self._changing = False
