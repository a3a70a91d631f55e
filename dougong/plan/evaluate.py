"""Predicted against measured on published rows, and the yardstick that the model must beat.

Rows of the package's own table are in the fit, so for those `leave_one_out` and `leave_chip_out`
are the honest figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dougong.errors import InputError
from dougong.plan.benchmarks import A3Unit, Case, Unmodelled, read_case
from dougong.plan.calibration import Calibration, fit, row_sigma
from dougong.plan.chips import Chip
from dougong.plan.tables import Row

Fitted = Callable[[Case], Calibration]


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One modelled row: seconds per output token, measured and predicted with interval."""

    row: int
    label: str
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float
    measured_tokens_per_s_per_chip: float
    precision: str
    layout: str
    bound: str

    @property
    def error(self) -> float:
        """Predicted over measured time per token, minus 1."""
        return self.predicted_s / self.measured_s - 1

    @property
    def inside(self) -> bool:
        """Whether the interval contains the measurement."""
        return self.low_s <= self.measured_s <= self.high_s


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All rows of a table, modelled or named with the reason why not."""

    results: tuple[RowResult, ...]
    unmodelled: tuple[Unmodelled, ...]

    @property
    def rows(self) -> int:
        """Rows read."""
        return len(self.results) + len(self.unmodelled)

    def quantile(self, share: float) -> float | None:
        """A quantile of the absolute relative errors; None without modelled rows."""
        errors = [abs(result.error) for result in self.results]
        return float(np.quantile(errors, share)) if errors else None

    def coverage(self) -> float | None:
        """Share of measurements inside their 90 % interval."""
        inside = [result.inside for result in self.results]
        return sum(inside) / len(inside) if inside else None

    def as_dict(self) -> dict[str, object]:
        """The keys of `dougong plan evaluate --json`."""
        per_row: list[dict[str, object]] = [
            {
                "row": result.row,
                "label": result.label,
                "modelled": True,
                "measured_tpot_ms": result.measured_s * 1e3,
                "predicted_tpot_ms": result.predicted_s * 1e3,
                "low_tpot_ms": result.low_s * 1e3,
                "high_tpot_ms": result.high_s * 1e3,
                "measured_tok_s_per_chip": result.measured_tokens_per_s_per_chip,
                "predicted_tok_s_per_chip": result.measured_tokens_per_s_per_chip
                * result.measured_s
                / result.predicted_s,
                "rel_error": result.error,
                "in_interval": result.inside,
                "precision": result.precision,
                "layout": result.layout,
                "bound": result.bound,
            }
            for result in self.results
        ]
        per_row += [
            {"row": one.row, "label": one.label, "modelled": False, "reason": one.reason}
            for one in self.unmodelled
        ]
        return {
            "rows": self.rows,
            "modelled": len(self.results),
            "unmodelled": len(self.unmodelled),
            "median_abs_rel_error": self.quantile(0.5),
            "p90_abs_rel_error": self.quantile(0.9),
            "interval_coverage": self.coverage(),
            "per_row": sorted(per_row, key=lambda entry: str(entry["row"]).zfill(9)),
        }


def read_cases(
    rows: Sequence[Row],
    chips: Mapping[str, Chip],
    unit: A3Unit = "auto",
    assume_drafts: int | None = None,
) -> tuple[list[Case], list[Unmodelled]]:
    """Splits rows into those that can be computed and those that cannot."""
    read = [read_case(i, row, chips, unit, assume_drafts) for i, row in enumerate(rows, start=1)]
    cases = [one for one in read if isinstance(one, Case)]
    return cases, [one for one in read if isinstance(one, Unmodelled)]


def evaluate(cases: Sequence[Case], unmodelled: Sequence[Unmodelled], fitted: Fitted) -> Evaluation:
    """Predicts every case with the calibration that `fitted` gives for it."""
    return Evaluation(
        results=tuple(_result(case, fitted(case)) for case in cases), unmodelled=tuple(unmodelled)
    )


def _result(case: Case, calibration: Calibration) -> RowResult:
    predicted = calibration.predict(case.ideal, case.chip, row_sigma(case), case.immature)
    gained = case.tokens_per_step
    return RowResult(
        row=case.row,
        label=case.label,
        measured_s=case.tpot_s,
        predicted_s=predicted.seconds / gained,
        low_s=predicted.low / gained,
        high_s=predicted.high / gained,
        measured_tokens_per_s_per_chip=case.tokens_per_s_per_chip,
        precision=case.precision.name,
        layout=case.layout.label(),
        bound=predicted.step.bound,
    )


def leave_one_out(cases: Sequence[Case], unmodelled: Sequence[Unmodelled]) -> Evaluation:
    """Every row predicted by a fit on all the others."""
    return evaluate(cases, unmodelled, lambda case: fit([c for c in cases if c is not case]))


def leave_chip_out(cases: Sequence[Case], unmodelled: Sequence[Unmodelled]) -> Evaluation:
    """Every row predicted by a fit on the rows of all other chips."""
    fits = {
        chip: fit([case for case in cases if case.chip.id != chip])
        for chip in {case.chip.id for case in cases}
    }
    return evaluate(cases, unmodelled, lambda case: fits[case.chip.id])


def loglinear_errors(cases: Sequence[Case]) -> list[float]:
    """Leave-one-out relative errors of the yardstick: log time linear in log chips, context, batch.

    Raises InputError with fewer rows than its four coefficients, one left out and one to spare.
    """
    if len(cases) < 6:
        raise InputError(f"{len(cases)} rows are too few for a regression; at least 6 are wanted")
    features = np.array(
        [
            [1, math.log(c.layout.chips), math.log(c.step.context_len), math.log(c.step.requests)]
            for c in cases
        ]
    )
    target = np.log([case.tpot_s for case in cases])
    errors = []
    for i in range(len(cases)):
        kept = np.arange(len(cases)) != i
        weights, *_ = np.linalg.lstsq(features[kept], target[kept], rcond=None)
        errors.append(float(np.exp(features[i] @ weights - target[i]) - 1))
    return errors


def loglinear_quantiles(cases: Sequence[Case]) -> tuple[float | None, float | None]:
    """(median, 90th percentile) of the yardstick's absolute errors; None with too few rows."""
    if len(cases) < 6:
        return None, None
    errors = np.abs(loglinear_errors(cases))
    return float(np.quantile(errors, 0.5)), float(np.quantile(errors, 0.9))
