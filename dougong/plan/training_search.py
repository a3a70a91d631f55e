"""Training on given chips under every pair of policies, and the front among them.

Varied: chips, number of chips, recomputation (none, tensor-level, module) and overlap (none,
two-stage, waves). A run fits when state and activations take at most 90 % of a chip's memory; the
front holds the fitting runs that no other beats in both bytes a chip and tokens per second a chip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dougong.errors import DougongError, InputError
from dougong.plan.chips import Chip
from dougong.plan.cost import usd_per_mtoken
from dougong.plan.crossovers import tokens_that_fit
from dougong.plan.overlap import OVERLAP_POLICIES
from dougong.plan.training import RECOMPUTE_POLICIES, TrainingStep, training_step
from dougong.plan.weights import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One step on `ranks` chips under one pair of policies.

    `most_tokens` is how many tokens a chip could hold under this recomputation.
    """

    chip: Chip
    ranks: int
    step: TrainingStep
    most_tokens: int

    @property
    def fits(self) -> bool:
        """True if a chip holds its share of the state and the step's activations."""
        return self.step.tokens <= self.most_tokens

    @property
    def usd_per_mtoken(self) -> float | None:
        """Price per million trained tokens; None without a rental price."""
        rental = self.chip.rental
        return None if rental is None else usd_per_mtoken(self.step.tokens_per_s, rental)

    def as_dict(self) -> dict[str, object]:
        """The keys that `dougong plan train --json` prints for a run."""
        step = self.step
        return {
            "chip": self.chip.id,
            "chips": self.ranks,
            "recompute": step.recompute,
            "overlap": step.overlap,
            "fits": self.fits,
            "memory_bytes": step.memory_bytes,
            "state_bytes": step.state_bytes,
            "activation_bytes": step.activation_bytes,
            "most_tokens": self.most_tokens,
            "step_s": step.seconds,
            "tokens_per_s_per_chip": step.tokens_per_s,
            "recompute_flops": step.recompute_flops,
            "link_s": step.link_s,
            "exposed_link_s": step.exposed_link_s,
            "x": step.x,
            "usd_per_mtoken": self.usd_per_mtoken,
        }


def training_runs(
    config: ModelConfig,
    chips: Sequence[Chip],
    counts: Sequence[int],
    tokens: int,
    sequence_len: int,
) -> tuple[list[TrainingRun], dict[str, str]]:
    """Every run, fitting or not, and for chips that lack a figure, the reason.

    `tokens` are resident on each chip for one step, in sequences of `sequence_len`. Raises
    InputError for a sequence longer than the model takes.
    """
    limit = config.max_position_embeddings
    if sequence_len > limit:
        raise InputError(f"sequence {sequence_len} is longer than the model's {limit} tokens")
    found: list[TrainingRun] = []
    refused: dict[str, str] = {}
    for chip in chips:
        try:
            found += [
                run
                for count in counts
                for run in _on_chips(config, chip, count, tokens, sequence_len)
            ]
        except DougongError as error:
            refused[chip.id] = str(error)
    return found, refused


def _on_chips(
    config: ModelConfig, chip: Chip, ranks: int, tokens: int, sequence_len: int
) -> Iterator[TrainingRun]:
    for recompute in RECOMPUTE_POLICIES:
        for overlap in OVERLAP_POLICIES:
            step = training_step(config, chip, ranks, tokens, sequence_len, recompute, overlap)
            if math.isinf(step.seconds):
                raise InputError(f"{chip.name}: nothing joins its chips; use --count 1")
            most = tokens_that_fit(chip, step.state_bytes, step.activation_bytes / step.tokens)
            yield TrainingRun(chip=chip, ranks=ranks, step=step, most_tokens=most)


def fastest(runs: Sequence[TrainingRun]) -> TrainingRun | None:
    """The fitting run with the most tokens per second and chip, of equals the smallest."""
    fitting = [run for run in runs if run.fits]
    return max(
        fitting, key=lambda run: (run.step.tokens_per_s, -run.step.memory_bytes), default=None
    )


def training_front(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """The fitting runs that no other beats in bytes and tokens per second; fewest bytes first."""
    front: list[TrainingRun] = []
    ordered = sorted(runs, key=lambda run: (run.step.memory_bytes, -run.step.tokens_per_s))
    for run in ordered:
        if run.fits and (not front or run.step.tokens_per_s > front[-1].step.tokens_per_s):
            front.append(run)
    return front
