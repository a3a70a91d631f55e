"""Money and energy per token, from throughput, a price per hour and a power."""

from __future__ import annotations

from dougong.errors import InputError
from dougong.plan.chips import Chip
from dougong.plan.quantity import Quantity, empty
from dougong.plan.tables import load_table

SECONDS_PER_HOUR = 3600
MILLION = 1e6


def usd_per_mtoken(
    tokens_per_s_per_chip: float, usd_per_hour: float, utilisation: float = 1
) -> float:
    """US dollars per million tokens: price per hour / tokens per hour.

    Formula only; for example 0.8 USD/h and 5,831 tokens/s are 0.038 USD.
    """
    if not 0 < utilisation <= 1:
        raise InputError(f"utilisation is {utilisation}; a share above 0 and up to 1 is wanted")
    return usd_per_hour / (tokens_per_s_per_chip * utilisation * SECONDS_PER_HOUR) * MILLION


def joules_per_token(tokens_per_s_per_chip: float, watts: float) -> float:
    """Energy per token at full board power: an upper bound, hosts and cooling not counted."""
    return watts / tokens_per_s_per_chip


def price(chip: Chip, tokens_per_s_per_chip: float, utilisation: float = 1) -> Quantity:
    """Price per million tokens on a chip, empty when its rental is not published."""
    if chip.rental is None:
        rows = [row for row in load_table("rental_prices") if row["accelerator_id"] == chip.id]
        hints = [f"{r['basis']}: {r['usd_per_hour']} ({r['confidence']})" for r in rows]
        hint = f"; {'; '.join(hints)}" if hints else ""
        return empty("USD/Mtoken", f"give the rental with --set chip.rental=<number>USD/h{hint}")
    value = usd_per_mtoken(tokens_per_s_per_chip, chip.rental, utilisation)
    return Quantity(
        value=value,
        unit="USD/Mtoken",
        formula=f"{chip.rental:.2f} USD/h / ({tokens_per_s_per_chip:.4g} tokens/s x 3600 x "
        f"{utilisation:.0%}) x 1e6",
        source=f"rental: {'--set' if 'rental' in chip.overrides else 'accelerators.csv'}",
    )


def energy(chip: Chip, tokens_per_s_per_chip: float) -> Quantity:
    """Energy per token on a chip, empty when its power is not published."""
    if chip.tdp is None:
        return empty("J/token", "give the power with --set chip.tdp=<number>W")
    return Quantity(
        value=joules_per_token(tokens_per_s_per_chip, chip.tdp),
        unit="J/token",
        formula=f"{chip.tdp:.0f} W / {tokens_per_s_per_chip:.4g} tokens/s",
        source="board power: accelerators.csv; hosts and cooling not counted",
    )
