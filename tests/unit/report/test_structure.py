"""No figure without a mark, no mark without a note, and a page that stands alone."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter

import pytest
from justhtml import JustHTML

from dougong.plan.report.exhibit import Prose, Report, Table, cells_of
from dougong.plan.report.render import csv_files, gaps, tally

# A number that stands by itself. Digits that touch letters (V4, FP8, 128K) belong to names.
NUMBER = re.compile(r"(?<![\w.,-])[+−-]?\d[\d.,]*(?!\w)")
DATE = re.compile(r"\d{4} 年|\d{1,2} 月|April \d{4}")
EXTERNAL = re.compile(r"https?:|//|@import|url\((?!#)")


def stray_numbers(page: JustHTML, words: type) -> list[str]:
    """Numbers in running text or table cells that are neither cells nor inputs."""
    found = []
    for tag in ("td", "p", "dd"):
        for node in page.query(f"article {tag}"):
            text = DATE.sub("", words.prose(node))
            found += [text[max(0, m.start() - 20) : m.end() + 20] for m in NUMBER.finditer(text)]
    return found


def test_every_number_in_prose_and_tables_is_a_marked_cell(page: JustHTML, words: type) -> None:
    assert stray_numbers(page, words) == []


def test_the_scan_notices_a_number_without_a_mark(words: type) -> None:
    page = JustHTML("<article><p>V4 is 3.5 times as fast</p></article>", sanitize=False)
    assert len(stray_numbers(page, words)) == 1


def test_every_table_cell_holds_exactly_one_marked_figure(page: JustHTML, words: type) -> None:
    cells = page.query("td")
    assert len(cells) > 1000
    for node in cells:
        assert [words.classes(child) & {"cell"} for child in node.children] == [{"cell"}]


def test_every_mark_leads_to_a_note_of_its_kind_in_its_language(
    page: JustHTML, words: type
) -> None:
    notes = {node.attrs["id"]: node for node in page.query(".notes li")}
    for article in page.query("article"):
        language = article.attrs["lang"]
        for cell in article.query(".cell"):
            if cell.name == "text":  # in a chart: the symbol stands there, the note below it
                continue
            (kind,) = words.classes(cell) - {"cell"}
            (link,) = cell.query("a.mark")
            target = link.attrs["href"].removeprefix("#")
            assert target.startswith(language)
            assert target.split("-")[-1].startswith(kind[:2])
            assert len(notes[target].to_text()) > 5


def test_every_number_in_a_chart_is_a_figure_a_tick_or_part_of_a_name(
    page: JustHTML, words: type
) -> None:
    labels = page.query("svg text")
    assert len(labels) > 300
    for node in labels:
        text = "".join(words.pieces(node, set()))
        if NUMBER.search(text) and not words.classes(node) & {"cell", "tick", "name"}:
            # Axis titles and series names may hold inputs: "4 waves", "30 days".
            assert not re.search(r"\d[.,]\d", text), text


def test_every_chart_says_what_it_shows_to_people_who_cannot_see_it(
    page: JustHTML, report: Report
) -> None:
    charts = page.query("figure svg")
    drawn = [b for e in report.exhibits() for b in e.blocks if not isinstance(b, Prose | Table)]
    assert len(charts) == 2 * len(drawn) > 20
    for chart in charts:
        assert chart.attrs["role"] == "img"
        assert len(chart.attrs["aria-label"]) > 60


def test_the_page_loads_nothing_and_links_only_inside_and_to_its_own_csv(
    html: str, page: JustHTML, report: Report
) -> None:
    style = html[html.index("<style>") : html.index("</style>")]
    assert not EXTERNAL.search(style)
    for tag in ("script", "link", "img", "iframe", "object", "embed", "base", "form"):
        assert page.query(tag) == []
    assert "src=" not in html
    files = {f"data/{name}" for name, _ in csv_files(report)}
    ids = {node.attrs["id"] for node in page.query("[id]")}
    for link in page.query("a"):
        target = link.attrs["href"]
        assert target.removeprefix("#") in ids if target.startswith("#") else target in files


def test_the_html_is_valid_beyond_what_a_parser_refuses(page: JustHTML) -> None:
    ids = Counter(node.attrs["id"] for node in page.query("[id]"))
    assert [name for name, count in ids.items() if count > 1] == []
    allowed = {
        "ol": {"li"},
        "ul": {"li"},
        "tr": {"td", "th"},
        "dl": {"dt", "dd"},
        "table": {"thead", "tbody"},
    }
    for parent, children in allowed.items():
        for node in page.query(parent):
            names = {child.name for child in node.children if not child.name.startswith("#")}
            assert names <= children, parent
    for article in page.query("article"):
        levels = [int(node.name[1]) for node in article.query("h1, h2, h3, h4")]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    for row in page.query("tbody tr"):
        width = sum(
            int(child.attrs.get("colspan") or 1)
            for child in row.children
            if not child.name.startswith("#")
        )
        assert width == len(row.parent.parent.query("thead th"))


def test_the_headings_are_the_brief_s(page: JustHTML, words: type) -> None:
    text = words.read(page.query("article")[0])
    for heading in (
        "DeepSeek-V4: China’s AI Hardware-Software Co-Design Strategy",
        "1. China’s Advancement in AI to Shift from Battles of Models to Exploration of Inference "
        "Applications and Open-Source Ecosystems",
        "Figure 1 Model Invocation in April 2026",
        "Table 1 Summary of Low-Precision Models",
        "Figure 2 China’s Countermeasures towards Restraints in Computing Power",
        "Figure 3 Key Upgrades to DeepSeek-V4",
        "Table 2 Comparison between Checkpointing and Compute While Transmitting",
        "Table 3 Comparison between CUDA and CANN",
        "2. Strategies among Chinese Vendors",
        "Figure 4 China’s AI Software-Hardware Ecosystems",
        "Figure 5 China’s AI Hardware-Software Integration",
        "Table 4 Comparison of DeepSeek-V3 MLA and DeepSeek-V4 MQA Architectures",
        "3. TRI’s View",
        "Global Reach",
        "High Value",
        "Ecosystem Shift",
    ):
        assert heading.lower() in text.lower()
    assert "claim nothing about its content" in text


def test_every_empty_figure_is_listed_with_what_would_fill_it(
    report: Report, page: JustHTML, words: type
) -> None:
    listed = words.read(page.query("#en-gaps")[0])
    missing = [text for _, texts in gaps(report) for text in texts]
    assert tally(report)["empty"] > 50
    assert missing
    for text in missing:
        plain = re.sub(r"`[^`]*`", "", text.en)[:25].strip(" ,")
        assert plain.split("`")[0] in listed or "`" in text.en


def test_the_csv_files_hold_every_figure_of_charts_and_tables(report: Report) -> None:
    files = dict(csv_files(report))
    for exhibit in report.exhibits():
        for block in exhibit.blocks:
            if isinstance(block, Prose):
                continue
            rows = list(csv.DictReader(io.StringIO(files.pop(f"{block.key}.csv"))))
            cells = list(cells_of(block))
            assert len(rows) == len(cells)
            for row, cell in zip(rows, cells, strict=True):
                assert row["mark"] == cell.parent.kind
                assert row["value"] == ("" if cell.value is None else repr(cell.value))
                assert row["source"] or row["mark"] == "empty"
                assert row["how_en"]
                assert row["how_zh"]
    assert files == {}


@pytest.mark.parametrize("kind", ["computed", "cited", "empty"])
def test_figures_of_every_kind_that_needs_no_machine_are_there(kind: str, report: Report) -> None:
    assert tally(report)[kind] > 0
