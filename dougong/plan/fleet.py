"""A fleet under traffic: arrivals, conversations that reuse prefixes, queues, KV tiers, replicas.

A discrete-event simulation (simpy). Each replica has `prefill_slots` prompt readers, served first
come first served, and one decode batch whose step time depends on how many requests are in it.
A conversation's context stays in its replica's memory, then in the host's memory, then on disk;
each tier evicts the least recently used. Speeds come from the planner, so that a fleet is judged
by the same numbers as one replica.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from dougong.errors import InputError

TIERS = ("device", "host", "disk")
STEP_TOKENS = 8  # output tokens between two looks at the decode batch; finer changes nothing
MOST_REQUESTS = 300_000  # about half a minute of simulation


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Traffic: conversations start as a Poisson process; turns follow after a pause.

    Lengths are lognormal with these means (tokens) and a coefficient of variation of 1.
    """

    conversations_per_s: float
    turns: float = 3.0
    system_len: int = 1024
    user_len: int = 512
    output_len: int = 512
    pause_s: float = 20.0

    def __post_init__(self) -> None:
        if not self.conversations_per_s > 0 or self.turns < 1 or self.pause_s < 0:
            raise InputError("traffic needs a rate above 0, at least one turn and a pause >= 0")
        if min(self.user_len, self.output_len) < 1 or self.system_len < 0:
            raise InputError("prompts and outputs need at least one token")

    @property
    def requests_per_s(self) -> float:
        """Turns per second once the fleet is warm."""
        return self.conversations_per_s * self.turns


@dataclass(frozen=True, kw_only=True)
class Replica:
    """Speeds and room of one replica, as functions of what is asked of it.

    prefill_s(fresh, cached): seconds to read `fresh` tokens after `cached` ones
    tpot_s(batch):            seconds per output token with `batch` requests in flight
    load_s[tier](tokens):     seconds to bring a context back from a tier
    room[tier]:               contexts' bytes that a tier holds (disk is shared by all replicas)
    """

    prefill_s: Callable[[int, int], float]
    tpot_s: Callable[[int], float]
    kv_bytes: Callable[[int], float]
    load_s: dict[str, Callable[[int], float]]
    room: dict[str, float]
    max_batch: int
    prefill_slots: int = 1
    shared: bool = False  # the same chips read prompts and decode, half of their time each


@dataclass
class Tier:
    """A cache of conversations' contexts with least-recently-used eviction."""

    room: float
    held: OrderedDict[int, tuple[int, float]] = field(default_factory=OrderedDict)
    used: float = 0.0

    def take(self, conversation: int) -> int | None:
        """Removes a conversation's context and returns its tokens, or None."""
        entry = self.held.pop(conversation, None)
        if entry is None:
            return None
        self.used -= entry[1]
        return entry[0]

    def put(self, conversation: int, tokens: int, size: float) -> list[tuple[int, int, float]]:
        """Stores a context; returns what had to leave (conversation, tokens, bytes)."""
        self.take(conversation)
        if size > self.room:
            return [(conversation, tokens, size)]
        self.held[conversation] = (tokens, size)
        self.used += size
        left = []
        while self.used > self.room:
            oldest, (kept, freed) = self.held.popitem(last=False)
            self.used -= freed
            left.append((oldest, kept, freed))
        return left


@dataclass(frozen=True, kw_only=True)
class Served:
    """One finished request."""

    arrived_s: float
    first_token_s: float
    finished_s: float
    prompt_len: int
    cached_len: int
    output_len: int
    hit_tier: str

    @property
    def ttft_s(self) -> float:
        """Seconds from arrival to the first token."""
        return self.first_token_s - self.arrived_s

    @property
    def tpot_s(self) -> float:
        """Seconds per further token."""
        return (self.finished_s - self.first_token_s) / max(1, self.output_len - 1)


class _Server:
    """One replica at work."""

    def __init__(self, env: simpy.Environment, replica: Replica, disk: Tier) -> None:
        self.env, self.replica, self.disk = env, replica, disk
        self.readers = simpy.Resource(env, capacity=replica.prefill_slots)
        self.seats = simpy.Resource(env, capacity=replica.max_batch)
        self.device, self.host = Tier(replica.room["device"]), Tier(replica.room["host"])
        self.decoding = 0
        self.prefill_busy_s = 0.0

    @property
    def load(self) -> int:
        """Requests waiting or being served here."""
        return self.seats.count + len(self.seats.queue)

    @property
    def slowdown(self) -> float:
        """How much longer a decode step takes while chips also read prompts: groups that read give
        it half of their time, and a step waits for the mean group."""
        busy = self.readers.count / self.replica.prefill_slots
        return 1 + busy if self.replica.shared else 1.0

    def find(self, conversation: int) -> tuple[str, int]:
        """The tier that holds a conversation's context, and its tokens."""
        for name, tier in (("device", self.device), ("host", self.host), ("disk", self.disk)):
            tokens = tier.take(conversation)
            if tokens is not None:
                return name, tokens
        return "miss", 0

    def keep(self, conversation: int, tokens: int) -> None:
        """Keeps a context on the device; what leaves a tier moves to the next, and off the disk."""
        leaving = self.device.put(conversation, tokens, self.replica.kv_bytes(tokens))
        for name, kept, size in leaving:
            for older, tokens_left, freed in self.host.put(name, kept, size):
                self.disk.put(older, tokens_left, freed)

    def serve(
        self, conversation: int, prompt: int, shared: int, output: int
    ) -> Generator[simpy.Event, Any, Served]:
        """One request from arrival to its last token. `shared` tokens of the prompt (the system
        text) are warm on every replica."""
        arrived, replica = self.env.now, self.replica
        with self.seats.request() as seat:
            yield seat
            with self.readers.request() as reader:
                yield reader
                tier, tokens = self.find(conversation)
                cached = min(max(tokens, shared), prompt - 1)
                wait = replica.load_s[tier](tokens) if tier in ("host", "disk") else 0.0
                crowded = 2.0 if replica.shared and self.decoding else 1.0
                wait += crowded * replica.prefill_s(prompt - cached, cached)
                self.prefill_busy_s += wait
                yield self.env.timeout(wait)
            first = self.env.now
            self.decoding += 1
            left = output - 1
            while left > 0:
                burst = min(STEP_TOKENS, left)
                yield self.env.timeout(burst * replica.tpot_s(self.decoding) * self.slowdown)
                left -= burst
            self.decoding -= 1
            self.keep(conversation, prompt + output)
        return Served(
            arrived_s=arrived,
            first_token_s=first,
            finished_s=self.env.now,
            prompt_len=prompt,
            cached_len=cached,
            output_len=output,
            hit_tier=tier,
        )


@dataclass(frozen=True, kw_only=True)
class FleetResult:
    """What a simulated stretch of traffic gave; requests of the warm-up are left out."""

    served: tuple[Served, ...]
    unfinished: int
    measured_s: float
    prefill_busy: float

    def quantile(self, what: Callable[[Served], float], share: float) -> float:
        """A quantile of a figure over the requests; NaN without any."""
        values = sorted(what(one) for one in self.served)
        if not values:
            return math.nan
        return values[min(len(values) - 1, int(share * len(values)))]

    @property
    def output_tokens_per_s(self) -> float:
        """Output tokens of finished requests per simulated second."""
        return sum(one.output_len for one in self.served) / self.measured_s

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that were not computed again."""
        prompts = sum(one.prompt_len for one in self.served)
        return sum(one.cached_len for one in self.served) / prompts if prompts else 0.0

    def tier_shares(self) -> dict[str, float]:
        """Share of requests by where their conversation was found."""
        count = max(1, len(self.served))
        return {
            name: sum(one.hit_tier == name for one in self.served) / count
            for name in (*TIERS, "miss")
        }

    def within(self, ttft_s: float, tpot_s: float) -> float:
        """Share of requests that met both limits."""
        met = sum(one.ttft_s <= ttft_s and one.tpot_s <= tpot_s for one in self.served)
        return met / len(self.served) if self.served else 0.0


def simulate(
    demand: Demand, replica: Replica, replicas: int, seconds: float, seed: int = 0
) -> FleetResult:
    """Runs `seconds` of traffic over `replicas` equal replicas; the first fifth is warm-up.

    A conversation goes back to the replica that holds it unless that one has more than twice the
    mean load, then to the least loaded. Equal seeds give equal results.
    """
    if replicas < 1 or not seconds > 0:
        raise InputError("a fleet needs at least one replica and a time above 0 s")
    requests = demand.requests_per_s * seconds
    if requests > MOST_REQUESTS:
        raise InputError(
            f"{requests:,.0f} requests would be simulated; at most {MOST_REQUESTS:,} are: "
            "shorten --seconds, or plan one part of the fleet with its part of the traffic"
        )
    env, rng = simpy.Environment(), random.Random(seed)
    disk = Tier(replica.room["disk"])
    servers = [_Server(env, replica, disk) for _ in range(replicas)]
    served: list[Served] = []
    started = [0]
    env.process(_arrivals(env, rng, demand, servers, served, started))
    env.run(until=seconds)
    warm = seconds / 5
    return FleetResult(
        served=tuple(one for one in served if one.arrived_s >= warm),
        unfinished=started[0] - len(served),
        measured_s=seconds - warm,
        prefill_busy=sum(s.prefill_busy_s for s in servers)
        / (seconds * replicas * replica.prefill_slots),
    )


def _arrivals(
    env: simpy.Environment,
    rng: random.Random,
    demand: Demand,
    servers: list[_Server],
    served: list[Served],
    started: list[int],
) -> Generator[simpy.Event, Any, None]:
    number = 0
    while True:
        yield env.timeout(rng.expovariate(demand.conversations_per_s))
        env.process(_conversation(env, rng, demand, servers, served, started, number))
        number += 1


def _length(rng: random.Random, mean: float) -> int:
    """Lognormal with this mean and a coefficient of variation of 1, at least 1."""
    sigma = math.sqrt(math.log(2))
    return max(1, round(rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)))


def _conversation(
    env: simpy.Environment,
    rng: random.Random,
    demand: Demand,
    servers: list[_Server],
    served: list[Served],
    started: list[int],
    number: int,
) -> Generator[simpy.Event, Any, None]:
    """Turns one after another; the number of turns is geometric with the mean asked for."""
    context, home = demand.system_len, rng.randrange(len(servers))
    more = 1 - 1 / demand.turns
    while True:
        prompt, output = context + _length(rng, demand.user_len), _length(rng, demand.output_len)
        home = _route(servers, home)
        started[0] += 1
        done = yield env.process(
            servers[home].serve(number, prompt, min(demand.system_len, prompt - 1), output)
        )
        served.append(done)
        context = prompt + output
        if rng.random() >= more:
            return
        yield env.timeout(rng.expovariate(1 / demand.pause_s) if demand.pause_s else 0.0)


def _route(servers: list[_Server], home: int) -> int:
    """The conversation's own replica, unless it is far busier than the others."""
    loads = [server.load for server in servers]
    if loads[home] <= 2 * sum(loads) / len(loads) + 1:
        return home
    return min(range(len(servers)), key=lambda i: loads[i])
