"""Charts for print, for grey and for colour-blind readers: contrast, shapes, labels apart."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from justhtml import JustHTML

from dougong.plan.report.palette import (
    ACCENT,
    INK,
    PANEL,
    PAPER,
    SOFT,
    STYLES,
    contrast,
    luminance,
)
from dougong.plan.report.plots import place_labels, spread
from dougong.plan.report.svg import Scale, hatch_path, text_width

AA_TEXT, AA_GRAPHICS = 4.5, 3.0  # WCAG 2.2: 1.4.3 and 1.4.11

# Vienot, Brettel and Mollon 1999: linear RGB as seen without the middle- or long-wave cones.
DEUTERANOPIA = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))
PROTANOPIA = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))


def test_black_on_white_has_the_contrast_that_wcag_states() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's known example


@pytest.mark.parametrize("paper", [PAPER, PANEL])
@pytest.mark.parametrize("ink", [INK, SOFT, ACCENT])
def test_text_meets_aa_on_every_ground_it_stands_on(ink: str, paper: str) -> None:
    assert contrast(ink, paper) >= AA_TEXT


@pytest.mark.parametrize("colour", [style.colour for style in STYLES])
def test_series_colours_can_be_used_as_text(colour: str) -> None:
    assert contrast(colour, PAPER) >= AA_TEXT > AA_GRAPHICS


def test_no_text_on_the_page_uses_another_colour(html: str, page: JustHTML) -> None:
    known = {INK, SOFT, ACCENT, *(style.colour for style in STYLES)}
    used = {node.attrs["fill"] for node in page.query("svg text, svg tspan")}
    assert used <= known
    style = html[html.index("<style>") : html.index("</style>")]
    colours = set(re.findall(r"#[0-9a-fA-F]{3,6}\b", style))
    assert all(contrast(c, PAPER) >= AA_TEXT or c in style.split("--rule: ")[1][:8] or
               c in (PAPER, PANEL) for c in colours)  # fmt: skip


def test_series_differ_in_marker_and_hatch_not_only_in_colour() -> None:
    for one, other in itertools.combinations(STYLES, 2):
        assert one.marker != other.marker
        assert one.hatch != other.hatch
        assert one.dash != other.dash


def seen(colour: str, matrix: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return tuple(sum(m * c for m, c in zip(row, linear, strict=True)) for row in matrix)


@pytest.mark.parametrize("matrix", [DEUTERANOPIA, PROTANOPIA], ids=["deutan", "protan"])
def test_the_first_four_series_stay_apart_for_colour_blind_readers(
    matrix: tuple[tuple[float, ...], ...],
) -> None:
    for one, other in itertools.combinations(STYLES[:4], 2):
        apart = max(
            abs(a - b) for a, b in zip(seen(one.colour, matrix), seen(other.colour, matrix),
                                       strict=True)
        )  # fmt: skip
        assert apart > 0.02, (one.colour, other.colour)  # linear light; shapes carry the rest


def test_luminance_is_that_of_the_standard() -> None:
    assert luminance("#ff0000") == pytest.approx(0.2126)
    assert luminance("#00ff00") == pytest.approx(0.7152)


@given(st.lists(st.floats(0, 400), min_size=2, max_size=6))
def test_labels_at_the_line_ends_do_not_overlap_and_keep_their_order(ends: list[float]) -> None:
    placed = spread(ends, 30)
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    gaps = [placed[b] - placed[a] for a, b in itertools.pairwise(order)]
    assert min(gaps) > 29  # the last of 60 rounds leaves under a pixel


@given(st.lists(st.tuples(st.floats(80, 640), st.floats(80, 300)), min_size=2, max_size=14))
def test_labels_in_a_scatter_are_free_or_left_out(spots: list[tuple[float, float]]) -> None:
    labels = [f"V4-Pro 8K b{i}" for i in range(len(spots))]
    areas = [
        (x, y - 11, x + text_width(label) + 2, y + 3)
        for label, place in zip(
            labels, place_labels(labels, spots, (64, 716, 58, 370)), strict=True
        )
        if place is not None
        for x, y in [place]
    ]
    for one, other in itertools.combinations(areas, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart


@given(st.floats(0.01, 1e6), st.floats(1.5, 1e4))
def test_log_ticks_lie_inside_the_axis_and_are_round(low: float, factor: float) -> None:
    scale = Scale(low, low * factor, 0, 500, log=True)
    for tick in scale.ticks():
        assert low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6)
        assert f"{tick:e}"[0] in "125"


@pytest.mark.parametrize("hatch", ["diagonal", "cross", "dots", "horizontal", "vertical"])
@given(st.floats(0.0, 400.0), st.floats(8.0, 30.0))
def test_hatches_stay_inside_their_bar(hatch: str, width: float, height: float) -> None:
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d", hatch_path(hatch, 10, 20, width, height))]
    # one tenth of a pixel for the printed digits
    assert all(9.9 <= x <= 10.1 + width for x in numbers[0::2])
    assert all(19.9 <= y <= 20.1 + height for y in numbers[1::2])
    assert numbers or width < 8


def test_a_solid_and_an_empty_bar_have_no_hatch() -> None:
    assert hatch_path("solid", 0, 0, 100, 20) == hatch_path("empty", 0, 0, 100, 20) == ""
