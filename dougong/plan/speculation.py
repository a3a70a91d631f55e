"""Speculative decoding: drafts cost a pass each and buy accepted tokens; nothing else changes."""

from __future__ import annotations

from dougong.errors import InputError

# CANN's recipe assumes 0.70 accepted of 1 draft and 1.44 of 3 (its V4 guide); a constant
# ratio r between successive acceptances through both points solves 0.70 (1 + r + r^2) = 1.44.
FIRST_ACCEPTED = 0.70
THREE_ACCEPTED = 1.44
ACCEPTANCE_RATIO = ((4 * THREE_ACCEPTED / FIRST_ACCEPTED - 3) ** 0.5 - 1) / 2
MAX_DRAFTS = 7


def accepted_drafts(drafts: int, first: float = FIRST_ACCEPTED) -> float:
    """Expected accepted drafts of `drafts`: first * (1 + r + r^2 + ...), r = 0.643.

    0.70 for MTP1 and 1.44 for MTP3 with the default.  Source: Huawei's CANN recipe for V4.
    """
    if not 0 <= drafts <= MAX_DRAFTS:
        raise InputError(f"drafts is {drafts}; 0 to {MAX_DRAFTS} are modelled")
    if not 0 <= first <= 1:
        raise InputError(f"the first draft's acceptance is {first}; a share from 0 to 1 is wanted")
    accepted: float = sum(ACCEPTANCE_RATIO**k for k in range(drafts))
    return first * accepted


def tokens_per_step(drafts: int, first: float = FIRST_ACCEPTED) -> float:
    """Tokens that one request gains per step: 1 + accepted drafts."""
    return 1 + accepted_drafts(drafts, first)
