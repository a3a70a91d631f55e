"""The planner's page and the report as a browser shows them: `pytest -m chromium`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.chromium import Browser

from dougong.cli import main as entry
from dougong.plan.chips import load_chips
from dougong.plan.web import PlanServer

pytestmark = pytest.mark.chromium
LANGUAGES = (("en", "report.html"), ("zh-Hant", "report.html#zh-Hant"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with PlanServer(0, load_chips()) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running.url
        running.shutdown()
        thread.join(timeout=10)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as started:
        yield started


def open_planner(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.until("document.body.dataset.redrawMs")


def move(browser: Browser, slider: str, position: float) -> None:
    """Drags a slider and waits for the redraw."""
    browser.run(
        "delete document.body.dataset.redrawMs;"
        f"{{const s = document.getElementById('{slider}'); s.value = {position};"
        "s.dispatchEvent(new Event('input'));}"
    )
    browser.until("document.body.dataset.redrawMs")


def first_figure(browser: Browser) -> str:
    text: str = browser.run("document.querySelector('#figures dd').firstChild.textContent")
    return text


def test_the_planners_page_draws_redraws_and_keeps_its_state(browser: Browser, url: str) -> None:
    open_planner(browser, f"{url}?chip=nvidia_h20&model=v4-pro&context=131072&batch=1024")
    assert browser.run("document.getElementById('chip').value") == "nvidia_h20"
    assert browser.run("document.getElementById('context').value") == "17"  # 2^17 tokens
    assert browser.run("document.querySelectorAll('#roofline circle').length") > 10
    before, roofs = first_figure(browser), "document.getElementById('roofline').innerHTML"
    drawn = browser.run(roofs)
    move(browser, "mem_bw", -3)
    assert first_figure(browser) != before
    assert browser.run(roofs) != drawn
    assert "mem_bw=0.125" in browser.run("location.search")
    kept = browser.run("location.href")
    slow = first_figure(browser)
    open_planner(browser, kept)
    assert first_figure(browser) == slow
    assert all(one.startswith(url) for one in browser.requested() if one != "about:blank")
    assert browser.complaints() == []


def test_a_chip_with_gaps_says_which_value_to_give(browser: Browser, url: str) -> None:
    open_planner(browser, f"{url}?chip=biren_br106")
    assert browser.run("document.getElementById('error').hidden") is False
    assert "not published" in browser.run("document.getElementById('error').textContent")
    assert browser.run("document.getElementById('result').className") == "stale"


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_its_window(
    browser: Browser, url: str, tmp_path: Path, width: int
) -> None:
    assert entry.run(["report", "--out", str(tmp_path / "report"), "--json"]) == 0
    browser.resize(width, 900)
    too_wide = "document.documentElement.scrollWidth - window.innerWidth"
    open_planner(browser, url)
    assert browser.run(too_wide) <= 0
    for language, page in LANGUAGES:
        browser.open(f"file://{tmp_path / 'report' / page}")
        assert browser.run(too_wide) <= 0
        shown = browser.run(
            "[...document.querySelectorAll('article')].filter(a => a.offsetHeight > 0)"
            ".map(a => a.lang).join()"
        )
        assert shown == language
    assert browser.complaints() == []
    foreign = [one for one in browser.requested() if not one.startswith((url, "file:", "about:"))]
    assert foreign == []
