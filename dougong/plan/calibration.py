"""What chips make of their peaks: five factors a chip class, fitted on published decode rows.

A two-level fit in logarithms: factors common to all classes (with a physical prior) and each
class's deviation from them (kept small unless its rows insist). Residuals beyond 1.5 sigma count
linearly (Huber), so that one odd row cannot bend a class. The fit's covariance and the rows'
own scatter give every prediction an interval; a class without rows gets the spread between
classes on top. numpy only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dougong.plan.benchmarks import Case, read_case
from dougong.plan.chips import Chip, load_chips
from dougong.plan.roofline import Factors, IdealStep, StepTime
from dougong.plan.tables import load_table

Vector = NDArray[np.float64]

# name: (prior median, spread of its logarithm, spread between classes, where the prior is from)
PRIORS: dict[str, tuple[float, float, float, str]] = {
    "memory_efficiency": (
        0.65,
        0.20,
        0.15,
        "70 % of HBM in DeepGEMM's fused MoE, less for gathers",
    ),
    "compute_efficiency": (0.40, 0.30, 0.20, "45-54 % in DeepGEMM at best, less for small GEMMs"),
    "call_s": (5e-6, 0.60, 0.50, "graph-launched kernels: 2-10 us with barriers"),
    "select_per_s": (4e9, 0.70, 0.50, "SGLang: 15 us for 100k entries; CPUs and NPUs slower"),
    "draft_s": (1e-3, 0.90, 0.60, "graph switch and sampling: about a millisecond"),
}
NAMES = tuple(PRIORS)
_MEDIAN = np.log(np.array([PRIORS[name][0] for name in NAMES]))
_SPREAD = np.array([PRIORS[name][1] for name in NAMES])
_BETWEEN = np.array([PRIORS[name][2] for name in NAMES])

# Scatter that a row's confidence leaves in the logarithm of its time.
ROW_SIGMA = {"high": 0.08, "medium-high": 0.15, "medium": 0.25}
OTHER_SIGMA = 0.40
HUBER = 1.5
Z90 = 1.645
# Day-0 software against the optimised one: the same operating point gained 23 % in throughput
# (CANN's recipes), where compute is about two thirds of the step; small batches gained about 5 %.
IMMATURE_COMPUTE = 1.35
IMMATURE_LATENCY = 1.05
# Scatter between software stacks on one chip. Every row of a class narrows it by one observation:
# a class nobody measured carries all of it, a class with a single row still most of it.
SOFTWARE_SIGMA = 0.20


def chip_class(chip: Chip) -> str:
    """Chips that share an architecture and a software stack, and therefore factors."""
    key = chip.id
    if key.startswith("huawei"):
        return "ascend-910" if "910" in key else "ascend-950"
    if key.startswith("nvidia"):
        name = key.removeprefix("nvidia_")
        if name.startswith("rtx"):  # sm_120: neither Blackwell's tensor memory nor its kernels
            return "rtx"
        return "hopper" if name.startswith("h") else "ampere" if name == "a100_sxm" else "blackwell"
    if chip.kind == "cpu":
        return "cpu"
    return chip.vendor.split(" ")[0].lower()


def factors_of(theta: Vector, immature: bool = False) -> Factors:
    """Factors from logarithms; efficiencies cannot exceed 1."""
    memory, compute, call_s, select, draft_s = (math.exp(float(x)) for x in theta)
    slow = IMMATURE_LATENCY if immature else 1.0
    return Factors(
        memory_efficiency=min(1.0, memory),
        compute_efficiency=min(1.0, compute) / (IMMATURE_COMPUTE if immature else 1.0),
        call_s=call_s * slow,
        select_per_s=select,
        draft_s=draft_s * slow,
    )


def log_time(ideal: IdealStep, theta: Vector, immature: bool = False) -> float:
    """Logarithm of a step's seconds under factors given as logarithms."""
    return math.log(ideal.at(factors_of(theta, immature)).total_s)


def _gradient(ideal: IdealStep, theta: Vector, immature: bool = False) -> Vector:
    here, step = log_time(ideal, theta, immature), 1e-4
    shifted = [log_time(ideal, theta + step * unit, immature) for unit in np.eye(len(theta))]
    return (np.array(shifted) - here) / step


def row_sigma(case: Case) -> float:
    """Expected scatter of a row's log time around the model."""
    return ROW_SIGMA.get(case.confidence, OTHER_SIGMA)


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Seconds of a step with its 90 % interval, and the step's parts at the central factors."""

    seconds: float
    low: float
    high: float
    step: StepTime


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Fitted logarithms: `common` and each class's deviation, with their joint covariance.

    `rows` counts the rows of each class.
    """

    common: Vector
    deviations: Mapping[str, Vector]
    covariance: Vector
    rows: Mapping[str, int]

    def theta(self, name: str) -> Vector:
        """Log factors of a class; the common ones for a class without rows."""
        return self.common + self.deviations.get(name, np.zeros(len(NAMES)))

    def spread(self, name: str) -> Vector:
        """Covariance [5, 5] of a class's log factors."""
        n = len(NAMES)
        common = self.covariance[:n, :n]
        if name not in self.deviations:
            return common + np.diag(_BETWEEN**2)
        at = n * (1 + list(self.deviations).index(name))
        own = self.covariance[at : at + n, at : at + n]
        both = self.covariance[:n, at : at + n]
        return common + own + both + both.T

    def factors(self, chip: Chip, immature: bool = False) -> Factors:
        """The central factors of a chip's class."""
        return factors_of(self.theta(chip_class(chip)), immature)

    def factor_table(self, chip: Chip) -> dict[str, tuple[float, float, float]]:
        """Each factor of a chip's class with its 90 % interval: {name: (value, low, high)}."""
        name = chip_class(chip)
        theta, sigma = self.theta(name), np.sqrt(np.diag(self.spread(name)))
        return {
            key: (float(np.exp(t)), float(np.exp(t - Z90 * s)), float(np.exp(t + Z90 * s)))
            for key, t, s in zip(NAMES, theta, sigma, strict=True)
        }

    def predict(
        self, ideal: IdealStep, chip: Chip, sigma: float = ROW_SIGMA["high"], immature: bool = False
    ) -> Predicted:
        """A step's seconds on a chip of this class, with the interval that 90 % should fall in.

        `sigma` is the scatter of single measurements around the model.
        """
        name = chip_class(chip)
        theta = self.theta(name)
        step = ideal.at(factors_of(theta, immature))
        if math.isinf(step.total_s):  # no link where one is needed: no interval around never
            return Predicted(seconds=math.inf, low=math.inf, high=math.inf, step=step)
        slope = _gradient(ideal, theta, immature)
        variance = float(slope @ self.spread(name) @ slope) + sigma**2
        variance += SOFTWARE_SIGMA**2 / (1 + self.rows.get(name, 0))
        wide = math.exp(Z90 * math.sqrt(variance))
        seconds = step.total_s
        return Predicted(seconds=seconds, low=seconds / wide, high=seconds * wide, step=step)


def fit(cases: Sequence[Case], rounds: int = 12) -> Calibration:
    """Fits common factors and class deviations to `cases` by Gauss-Newton with Huber weights.

    Every class keeps at least its prior, so any number of rows works, none included.
    """
    classes = sorted({chip_class(case.chip) for case in cases})
    n = len(NAMES)
    x = np.concatenate([_MEDIAN, np.zeros(n * len(classes))])
    prior = np.concatenate([_MEDIAN, np.zeros(n * len(classes))])
    scale = np.concatenate([_SPREAD, np.tile(_BETWEEN, len(classes))])
    covariance = np.diag(scale**2)
    for _ in range(rounds if cases else 0):
        residuals, jacobian = _linearize(cases, classes, x)
        weight = np.minimum(1.0, HUBER / np.maximum(np.abs(residuals), 1e-12))
        normal = jacobian.T @ (weight[:, None] * jacobian) + np.diag(scale**-2)
        slope = jacobian.T @ (weight * residuals) + (x - prior) / scale**2
        covariance = np.linalg.inv(normal)
        x = x - covariance @ slope
    deviations = {name: x[n * (i + 1) : n * (i + 2)] for i, name in enumerate(classes)}
    rows = Counter(chip_class(case.chip) for case in cases)
    return Calibration(common=x[:n], deviations=deviations, covariance=covariance, rows=rows)


def _linearize(cases: Sequence[Case], classes: list[str], x: Vector) -> tuple[Vector, Vector]:
    """Residuals in sigmas and their Jacobian [rows, parameters]."""
    n = len(NAMES)
    residuals, jacobian = np.zeros(len(cases)), np.zeros((len(cases), len(x)))
    for i, case in enumerate(cases):
        at = n * (1 + classes.index(chip_class(case.chip)))
        theta, sigma = x[:n] + x[at : at + n], row_sigma(case)
        measured = math.log(case.tpot_s * case.tokens_per_step)
        residuals[i] = (log_time(case.ideal, theta, case.immature) - measured) / sigma
        slope = _gradient(case.ideal, theta, case.immature) / sigma
        jacobian[i, :n] = jacobian[i, at : at + n] = slope
    return residuals, jacobian


@cache
def published_cases() -> tuple[Case, ...]:
    """The modelled rows of the package's own v4_inference_benchmarks.csv."""
    chips = load_chips()
    rows = load_table("v4_inference_benchmarks")
    read = [read_case(i, row, chips) for i, row in enumerate(rows, start=1)]
    return tuple(case for case in read if isinstance(case, Case))


@cache
def default_calibration() -> Calibration:
    """The fit on all published rows: what `dougong plan` uses."""
    return fit(published_cases())
