"""One chip's line in a comparison."""

from __future__ import annotations

from dougong.plan.calibration import Calibration
from dougong.plan.cost import energy, price
from dougong.plan.predict import Scenario, decode, prefill, require_joined
from dougong.plan.training import hiding_margin


def compare_one(scenario: Scenario, calibration: Calibration) -> dict[str, object]:
    """The figures of one scenario under the keys of `plan compare --json`.

    Raises InputError where nothing joins the chips (no link and no network).
    """
    point, reading = decode(scenario, calibration), prefill(scenario, calibration)
    require_joined(point)
    link, chips = scenario.chip.get("link"), scenario.layout.chips
    return {
        "id": scenario.chip.id,
        "name": scenario.chip.name,
        "fits": point.memory.fits,
        "precision": scenario.precision.name,
        "layout": scenario.layout.label(),
        "time_per_token_s": point.tpot_s,
        "low": point.tpot_low_s,
        "high": point.tpot_high_s,
        "tokens_per_s_per_chip": point.tokens_per_s_per_chip,
        "ttft_s": reading.ttft_s,
        "usd_per_mtoken": price(scenario.chip, point.tokens_per_s_per_chip).value,
        "joules_per_token": energy(scenario.chip, point.tokens_per_s_per_chip).value,
        "bound": point.step.bound,
        "hides": hiding_margin(scenario.config, scenario.chip, max(2, chips)).hides_at_peak
        if link
        else None,
        "calibrated": point.calibrated,
    }
