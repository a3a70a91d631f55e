"""The planner as a local page: one small server of the standard library, the same Python behind it.

It binds 127.0.0.1 only, answers GET only, refuses foreign Host headers (so that no web page can
reach it through a rebound name), and the page may load nothing but its own three files.
"""

from __future__ import annotations

import json
import socketserver
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dougong.errors import DougongError, InputError
from dougong.plan.benchmarks import preset
from dougong.plan.calibration import Calibration, default_calibration
from dougong.plan.chips import Chip, set_value
from dougong.plan.cost import energy, price
from dougong.plan.precision import PRECISIONS, compute_rate, find_precision
from dougong.plan.predict import (
    Decode,
    Scenario,
    central_tpot,
    decode,
    prefill,
    require_joined,
    scenario_for,
)
from dougong.plan.training import hiding_margin

HOST = "127.0.0.1"
MODELS = ("v4-flash", "v4-pro", "v3.2", "v3")
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
DEFAULTS: dict[str, str] = {
    "model": "v4-flash",
    "chip": "huawei_950dt",
    "count": "16",
    "context": "8192",
    "batch": "256",
    "precision": "auto",
    "drafts": "1",
    "compute": "1",
    "mem_bw": "1",
    "link": "1",
    "rental": "",
}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
SWEEP = tuple(1 << power for power in range(13))


def options(chips: Mapping[str, Chip]) -> dict[str, Any]:
    """What the page offers: models, chips with what they lack, formats, and the defaults."""
    return {
        "models": list(MODELS),
        "chips": [
            {"id": chip.id, "name": f"{chip.vendor} {chip.name}", "missing": chip.missing()}
            for chip in chips.values()
        ],
        "precisions": ["auto", *PRECISIONS],
        "defaults": DEFAULTS,
    }


def _number(query: Mapping[str, str], key: str, low: float, high: float) -> float:
    try:
        value = float(query[key])
    except ValueError:
        raise InputError(f"{key} is {query[key]!r}; a number is wanted") from None
    if not low <= value <= high:
        raise InputError(f"{key} is {query[key]}; {low:g} to {high:g} is wanted")
    return value


def read_scenario(query: Mapping[str, str], chips: Mapping[str, Chip]) -> Scenario:
    """The scenario behind a query string; unknown keys and values raise InputError."""
    unknown = sorted(set(query) - set(DEFAULTS))
    if unknown:
        raise InputError(f"unknown: {', '.join(unknown)}; use {', '.join(DEFAULTS)}")
    asked = DEFAULTS | dict(query)
    if asked["chip"] not in chips or asked["model"] not in MODELS:
        raise InputError(f"chip {asked['chip']!r} or model {asked['model']!r} is unknown")
    chip = chips[asked["chip"]]
    for key in ("mem_bw", "link"):
        factor = _number(asked, key, 0.01, 100)
        if factor != 1:
            chip = set_value(chip, key, chip.need(key) * factor)
    faster = _number(asked, "compute", 0.01, 100)
    chip = replace(chip, flops={name: rate * faster for name, rate in chip.flops.items()})
    if asked["rental"]:
        chip = set_value(chip, "rental", _number(asked, "rental", 0, 1000))
    return scenario_for(
        preset(asked["model"]),
        chip,
        int(_number(asked, "count", 1, 1024)),
        int(_number(asked, "context", 128, 2**20)),
        int(_number(asked, "batch", 1, 2**20)),
        precision=None if asked["precision"] == "auto" else find_precision(asked["precision"]),
        drafts=int(_number(asked, "drafts", 0, 7)),
    )


def answer(
    query: Mapping[str, str], chips: Mapping[str, Chip], calibration: Calibration
) -> dict[str, Any]:
    """Everything that the page draws for one state of its controls."""
    scenario = read_scenario(query, chips)
    chip, point = scenario.chip, decode(scenario, calibration)
    require_joined(point)
    reading = prefill(scenario, calibration)
    rate = point.tokens_per_s_per_chip
    count = max(2, scenario.layout.chips)
    margin = hiding_margin(scenario.config, chip, count) if chip.get("link") else None
    return {
        "fits": point.memory.fits,
        "memory_bytes": point.memory.total,
        "capacity_bytes": point.memory.capacity,
        "layout": scenario.layout.label(),
        "precision": scenario.precision.name,
        "figures": {name: one.as_dict() for name, one in point.quantities().items()},
        "ttft_s": reading.ttft_s,
        "parts_s": point.step.parts(),
        "bound": point.step.bound,
        "price": price(chip, rate).as_dict(),
        "energy": energy(chip, rate).as_dict(),
        "compute_to_link": margin.peak_ratio if margin else None,
        "threshold": margin.threshold if margin else None,
        "roofs": _roofs(chip, point, calibration),
        "operators": [
            {
                "name": one.name,
                "intensity": one.flops / one.memory_bytes,
                "flops_per_s": one.flops / one.seconds,
                "seconds": one.seconds,
                "format": one.format,
                "bound": one.bound,
            }
            for one in point.step.operators
            if one.flops and one.memory_bytes
        ],
        "sweep": _sweep(scenario, calibration),
        "confidence": chip.confidence,
        "calibrated": point.calibrated,
    }


def _roofs(chip: Chip, point: Decode, calibration: Calibration) -> dict[str, Any]:
    """What the chip reaches of its bandwidth and of each rate that the step uses."""
    factors = calibration.factors(chip)
    formats = sorted({one.format for one in point.step.operators})
    return {
        "bandwidth": chip.need("mem_bw") * factors.memory_efficiency,
        "compute": {
            name: compute_rate(chip, name)[0] * factors.compute_efficiency
            for name in formats
            if chip.get(name)
        },
    }


def _sweep(scenario: Scenario, calibration: Calibration) -> list[dict[str, float]]:
    """Throughput against speed per user over batches, at the scenario's layout."""
    factors, chips = calibration.factors(scenario.chip), scenario.layout.chips
    points = []
    for batch in SWEEP:
        tpot_s = central_tpot(replace(scenario, batch=batch), factors)
        points.append({"batch": batch, "user": 1 / tpot_s, "chip": batch / tpot_s / chips})
    return points


class Handler(BaseHTTPRequestHandler):
    """Serves the page's three files, `/options` and `/plan?...`."""

    server: PlanServer
    server_version = "dougong-plan"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers one request; anything unknown is 404."""
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            self._send(HTTPStatus.FORBIDDEN, b"wrong host", "text/plain")
            return
        url = urlsplit(self.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            folder = resources.files("dougong") / "data" / "plan" / "web"
            self._send(HTTPStatus.OK, (folder / name).read_bytes(), kind)
        elif url.path == "/options":
            self._json(HTTPStatus.OK, options(self.server.chips))
        elif url.path == "/plan":
            self._plan(dict(parse_qsl(url.query)))
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"no page {url.path}"})

    def _plan(self, query: dict[str, str]) -> None:
        try:
            self._json(HTTPStatus.OK, answer(query, self.server.chips, self.server.calibration))
        except DougongError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        self._send(status, json.dumps(value, allow_nan=False).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: a slider would fill the terminal."""


class PlanServer(ThreadingHTTPServer):
    """The page's server on 127.0.0.1; port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, port: int, chips: Mapping[str, Chip]) -> None:
        self.chips, self.calibration = chips, default_calibration()
        super().__init__((HOST, port), Handler)

    def server_bind(self) -> None:
        """Binds without asking DNS for the machine's own name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"
