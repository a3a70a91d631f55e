"""Verifies a backend's operators: near the reference, and every row's bits its own.

Each round draws one case of every kind, of random shapes, formats and numbers of rows. All rows at
once must lie as near the reference as `Case.close` says; and some of the rows, computed alone, on
another number of threads and another instruction set, must be those rows to the last bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from dougong.conform.case import Case, Results
from dougong.conform.draw import Draw
from dougong.conform.operator_cases import MAKERS
from dougong.errors import BackendError
from dougong.kernels.cpu.library import PATHS, instruction_path, set_instruction_path
from dougong.kernels.registry import BACKENDS, Operators, operators

ROWS = (1, 2, 3, 5, 17, 40, 128)
THREADS = (1, 2, 3)
BACKENDS_HERE = ("cpu",)  # of those that keep equal bits
SHOWN_FAILURES = 3


@dataclass
class Verdict:
    """What was found of one operator. `worst` is the largest error as a share of what may be."""

    operator: str
    cases: int = 0
    worst: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every case passed."""
        return self.cases > 0 and not self.failures

    def as_dict(self) -> dict[str, Any]:
        """The keys of `dougong verify kernels --json`; `worst` is None where it is no number."""
        worst = self.worst if math.isfinite(self.worst) else None
        return {"cases": self.cases, "worst": worst, "ok": self.ok, "failures": self.failures}


def verify(
    backend: str,
    seconds: float,
    seed: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Verdict]:
    """Verifies every operator of `backend` for about `seconds`, each kind of case at least once.

    Raises BackendError for a backend that promises no equal bits, or is not built here.
    """
    if backend not in BACKENDS_HERE:
        raise BackendError(
            f"backend '{backend}' is not verified: choose one of {', '.join(BACKENDS_HERE)}."
        )
    ops, reference, draw = operators(backend), operators("reference"), Draw(seed)
    native = BACKENDS[backend]
    verdicts = {name: Verdict(name) for name in MAKERS if name in native}
    start_s = time.monotonic()
    with torch.inference_mode(), _settings_restored():
        while True:
            for case in cases(draw, list(verdicts)):
                _judge(verdicts[case.operator], case, ops, reference, draw)
                done_s = time.monotonic() - start_s
                if progress is not None:
                    progress(int(done_s), int(seconds) + 1)
            if done_s >= seconds:
                return verdicts


def cases(draw: Draw, names: list[str]) -> Iterator[Case]:
    """One case of every kind of these operators."""
    for name in names:
        for make in MAKERS[name]:
            yield make(draw, draw.choice(ROWS))


def _judge(verdict: Verdict, case: Case, ops: Operators, reference: Operators, draw: Draw) -> None:
    verdict.cases += 1
    _use(draw)
    whole = case.run(ops)
    share, problem = error(whole, case.expected(ops, reference), case.close)
    verdict.worst = max(verdict.worst, share)
    first = draw.integer(0, case.rows - 1)
    stop = draw.integer(first + 1, case.rows)
    how = _use(draw)
    if problem is None and not same(case.run(ops, first, stop), whole, first, stop):
        problem = f"rows {first} to {stop - 1} of {case.rows} have other bits alone ({how})"
    if problem is not None and len(verdict.failures) < SHOWN_FAILURES:
        verdict.failures.append(f"{case.about}, {case.rows} rows: {problem}")


def error(got: Results, want: Results, close: float) -> tuple[float, str | None]:
    """The largest error as a share of what may be (0 where results must be equal), and what is
    wrong; None if nothing is.
    """
    worst = 0.0
    for x, y in zip(got, want, strict=True):
        if x.shape != y.shape:
            return 0.0, f"shape {list(x.shape)} instead of {list(y.shape)}"
        if close == 0 or not x.is_floating_point():
            if not torch.equal(x, y):
                row = int((x != y).reshape(len(x), -1).any(1).nonzero()[0])
                return 0.0, f"row {row} is not what it must equal"
        elif x.numel():
            wide = y.double()
            share_N = (
                ((x.double() - wide).abs() / (close * (1 + wide.abs()))).reshape(len(x), -1).amax(1)
            )
            if not bool((share_N <= 1).all()):  # NaN is wrong as well
                row = int((~(share_N <= 1)).nonzero()[0])
                return float("inf"), f"row {row} is off by {share_N[row]:.3g} times what may be"
            worst = max(worst, float(share_N.max()))
    return worst, None


def same(some: Results, whole: Results, first: int, stop: int) -> bool:
    """Whether `some` are rows `first` to `stop` - 1 of `whole`, bit for bit."""
    return all(torch.equal(x, y[first:stop]) for x, y in zip(some, whole, strict=True))


def available_paths() -> list[str]:
    """The instruction sets of backend cpu that run on this machine."""
    found = []
    with _settings_restored():
        for path in PATHS:
            try:
                set_instruction_path(path)
            except BackendError:
                continue
            found.append(path)
    return found


def _use(draw: Draw) -> str:
    """Switches to another number of threads and another instruction set; says which."""
    threads, path = draw.choice(THREADS), draw.choice(available_paths())
    torch.set_num_threads(threads)
    set_instruction_path(path)
    return f"{threads} threads, {path}"


@contextmanager
def _settings_restored() -> Iterator[None]:
    threads, path = torch.get_num_threads(), instruction_path()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        set_instruction_path(path)
