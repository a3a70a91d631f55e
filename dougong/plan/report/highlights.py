"""The brief's three key highlights, answered with figures of the exhibits."""

from __future__ import annotations

from . import figure4
from .cells import computed
from .conclusions import conclusions
from .effects import EFFECTS
from .exhibit import Prose
from .figure2 import level
from .frontier import PRO, cost_cells, relative_price, relative_score
from .table2 import OVERLAP, x_of
from .text import Text, content


def highlights() -> tuple[tuple[Text, Prose], ...]:
    """(name, answer) of each highlight."""
    words = content("highlights")
    reach = next(c for c in conclusions() if c.key == "conclusion-reach")
    full = figure4.exhibit().answer.cells["full"]
    return (
        (
            words["reach"],
            Prose(
                words["reach_text"],
                {
                    "tokens": reach.claim.cells["tokens"],
                    "first": level("s_base"),
                    "last": level("s_super"),
                },
            ),
        ),
        (
            words["value"],
            Prose(
                words["value_text"],
                {
                    "capability": relative_score(PRO, "SWE-Verified"),
                    "price": relative_price(PRO, "SWE-Verified"),
                    "break_even": cost_cells("flash_large")[2],
                },
            ),
        ),
        (
            words["shift"],
            Prose(
                words["shift_text"],
                {
                    "spare": computed(
                        1 / x_of("huawei_950dt"), words["spare_how"], OVERLAP, unit="×"
                    ),
                    "gain": EFFECTS["cm16"](),
                    "full": full,
                },
            ),
        ),
    )
