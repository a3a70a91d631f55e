"""The planner's page: what its server answers, and that the page needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from dougong.plan.chips import load_chips
from dougong.plan.predict import decode
from dougong.plan.web import DEFAULTS, HOST, PlanServer, read_scenario


@pytest.fixture(scope="module")
def server() -> Iterator[PlanServer]:
    running = PlanServer(0, load_chips())
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join(timeout=10)


def get(server: PlanServer, path: str, host: str | None = None) -> tuple[int, dict[str, str], str]:
    request = urllib.request.Request(server.url.rstrip("/") + path)
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, dict(reply.headers), reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def plan(server: PlanServer, query: str) -> dict[str, Any]:
    status, _, body = get(server, f"/plan?{query}")
    answer: dict[str, Any] = json.loads(body)
    assert ("error" in answer) == (status == 400)
    return answer


def test_the_server_listens_on_this_machine_only(server: PlanServer) -> None:
    assert server.server_address[0] == HOST == "127.0.0.1"


def test_a_foreign_host_name_is_refused(server: PlanServer) -> None:
    assert get(server, "/options", host="evil.example")[0] == 403
    assert get(server, "/options", host="localhost:1")[0] == 200


def test_the_page_loads_only_its_own_three_files(server: PlanServer) -> None:
    folder = resources.files("dougong") / "data" / "plan" / "web"
    for path in ("/", "/page.js", "/page.css"):
        status, headers, body = get(server, path)
        assert status == 200
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert body == (folder / (path[1:] or "page.html")).read_text(encoding="utf-8")
        links = re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"']*""", body)
        assert links in ([], ["http://www.w3.org/2000/svg"])  # a namespace, never fetched
    assert get(server, "/../config.py")[0] == 404
    assert get(server, "/nothing")[0] == 404


def test_every_control_is_a_key_of_the_query(server: PlanServer) -> None:
    offered = json.loads(get(server, "/options")[2])
    assert offered["defaults"] == DEFAULTS
    assert {chip["id"] for chip in offered["chips"]} == set(load_chips())
    script = get(server, "/page.js")[2]
    for key in DEFAULTS:
        assert f'"{key}"' in script


def test_the_answer_is_the_planners_own(server: PlanServer) -> None:
    query = {"chip": "nvidia_h20", "batch": "512", "model": "v4-pro", "context": "131072"}
    answer = plan(server, "&".join(f"{k}={v}" for k, v in query.items()))
    point = decode(read_scenario(query, server.chips), server.calibration)
    assert answer["figures"]["time_per_token_s"]["value"] == point.tpot_s
    assert sum(answer["parts_s"].values()) == pytest.approx(point.step.total_s)
    assert len(answer["sweep"]) == 13
    for one in answer["operators"]:  # no operator lies above its roof
        roof = min(
            answer["roofs"]["compute"][one["format"]],
            one["intensity"] * answer["roofs"]["bandwidth"],
        )
        assert one["flops_per_s"] <= roof * (1 + 1e-9)


def test_sliders_move_the_answer_the_right_way(server: PlanServer) -> None:
    def tpot(query: str) -> float:
        value: float = plan(server, query)["figures"]["time_per_token_s"]["value"]
        return value

    base = tpot("")
    assert tpot("mem_bw=2") < base < tpot("mem_bw=0.5")
    assert tpot("compute=0.125") > base
    assert tpot("context=1048576") > base
    assert plan(server, "rental=2")["price"]["value"] == pytest.approx(
        2 * plan(server, "rental=1")["price"]["value"]
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("chip=hygon_bw1000", "not published"),
        ("chip=tpu", "is unknown"),
        ("batch=many", "a number is wanted"),
        ("batch=0", "1 to 1.04858e+06 is wanted"),
        ("colour=red", "unknown: colour"),
        ("precision=fp3", "precision 'fp3' is unknown"),
        ("count=nan", "is wanted"),
    ],
)
def test_bad_states_are_answered_with_one_sentence(
    server: PlanServer, query: str, said: str
) -> None:
    assert said in plan(server, query)["error"]
