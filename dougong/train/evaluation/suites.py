"""All suites by name, and the evaluation of a model: one dictionary with documented keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dougong import __version__
from dougong.errors import InputError
from dougong.train.data.families import FAMILIES
from dougong.train.evaluation.gym import gym_suite
from dougong.train.evaluation.language import position_suite, text_suite
from dougong.train.evaluation.memorization import memorization_suite
from dougong.train.evaluation.needle import needle_suite
from dougong.train.evaluation.samples import samples_suite
from dougong.train.evaluation.subject import LeftOutError, Subject
from dougong.train.evaluation.tasks import family_suite

Suite = Callable[[Subject], dict[str, Any]]

GRID = "haystacks"  # a family that the needle suite asks more about, at known lengths

SUITES: dict[str, Suite] = {
    "text": text_suite,
    "position": position_suite,
    "needle": needle_suite,
    **{name: partial(family_suite, name=name) for name in FAMILIES if name != GRID},
    "gym": gym_suite,
    "memorization": memorization_suite,
    "samples": samples_suite,
}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The suites to run, in the table's order; all of them if none is named.

    Raises:  InputError for a name that is none.
    """
    for name in names:
        if name not in SUITES:
            raise InputError(f"suite {name!r} is unknown; choose from {', '.join(SUITES)}.")
    return tuple(name for name in SUITES if not names or name in names)


def evaluate(subject: Subject, names: Sequence[str] = ()) -> dict[str, Any]:
    """Runs the suites; keys: seed, quick, version, suites (by name), left_out (name -> reason)."""
    suites: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in check_names(names):
        try:
            suites[name] = SUITES[name](subject)
        except LeftOutError as reason:
            left_out[name] = str(reason)
    return {
        "version": __version__,
        "seed": subject.seed,
        "quick": subject.quick,
        "suites": suites,
        "left_out": left_out,
    }


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's weight files, one after the other in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
