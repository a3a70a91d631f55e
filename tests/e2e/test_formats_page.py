"""The table in docs/formats.md is what `dougong bench formats` measures."""

from pathlib import Path

import pytest

from dougong.cli.bench_formats import measure, samples_of
from dougong.formats import FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_page_shows_what_is_measured() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    shown = {row[0]: row for row in cells if len(row) == 10 and row[0] in FORMATS}
    assert list(shown) == list(FORMATS)
    report = measure(None, samples_of(None), list(FORMATS.values()))
    for row in report["formats"]:
        _, element, _, _, bits, largest, smallest, *errors, native = shown[row["name"]]
        assert (element, native) == (row["element"], row["native_machines"])
        assert bits == f"{row['bits_per_value']:.4f}"
        assert (largest, smallest) == (f"{row['max']:.5g}", f"{row['smallest']:.3g}")
        for error, sample in zip(errors, ("gaussian", "heavy_tailed"), strict=True):
            # Other builds of numpy may draw or add up in another order: one unit of the last digit.
            measured = 100 * row["relative_rms"][sample]
            assert float(error.rstrip("%")) == pytest.approx(measured, abs=1.1e-3), row["name"]
