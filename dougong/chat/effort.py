"""How much the model is asked to think: what each effort adds right after BOS in thinking mode.

A profile belongs to a family of checkpoints. Neither config.json nor the tokenizer tells them
apart, so the caller says which one a checkpoint was trained with.

Source: encoding_dsv4.py of the April 2026 release ("preview") and of the 0731 and 0813 refreshes.
Checked by: tests/parity/test_prompt_against_recipe.py.
"""

from typing import Final, Literal

from dougong.errors import InputError

Profile = Literal["preview", "0813"]

_ABSOLUTE_MAXIMUM: Final = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to"
    " resolve the root cause, rigorously stress-testing your logic against all potential paths,"
    " edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step,"
    " considered alternative, and rejected hypothesis to ensure absolutely no assumption is left"
    " unchecked.\n\n"
)
_BEYOND_MAXIMUM: Final = (
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance:"
    " exhaustively decompose the problem into its most fundamental components, trace every causal"
    " chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple"
    " angles and are certain that no assumption remains unchecked and no error remains"
    " undiscovered.\n\n"
)

# Profile -> effort -> text. No effort (None) adds nothing in either.
EFFORT_TEXTS: Final[dict[str, dict[str, str]]] = {
    "preview": {"high": "", "max": _ABSOLUTE_MAXIMUM},
    "0813": {"low": "", "high": _ABSOLUTE_MAXIMUM, "max": _BEYOND_MAXIMUM},
}


def effort_text(effort: str | None, profile: str) -> str:
    """The text that an effort adds to a thinking prompt; empty for None.

    Raises:  InputError if the profile or its effort is unknown, naming the known ones.
    """
    if profile not in EFFORT_TEXTS:
        raise InputError(f"profile {profile!r} is unknown: use one of {', '.join(EFFORT_TEXTS)}.")
    if effort is None:
        return ""
    texts = EFFORT_TEXTS[profile]
    if effort not in texts:
        raise InputError(
            f"effort {effort!r} is unknown to the {profile} profile: use none, or one of"
            f" {', '.join(texts)}."
        )
    return texts[effort]
