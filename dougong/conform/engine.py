"""Verifies the engine: whatever happens to a request, its answer is the one it has alone, `==`.

A random machine lets requests arrive, share beginnings, be cut into chunks, be batched, cancelled,
late, preempted, evicted, drafted for, and go on in an engine that was started anew over the same
disk, perhaps after a crash, beside another engine, or with files damaged in between. Every token,
log-probability, text and finish reason is compared with the oracle's. Free blocks are poisoned,
after each engine's end none may be missing, and who was never here may find nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

from dougong.chat.tokenizer import Tokenizer
from dougong.conform.engine_damage import damage, lose_resumes
from dougong.conform.engine_jobs import Jobs
from dougong.conform.engine_oracle import Answer, Oracle
from dougong.engine.core import Core
from dougong.engine.disk_store import KEY_BYTES, DiskStore
from dougong.engine.request import Finish, Job, Phase, Reply, Request
from dougong.engine.scheduler import Limits, blocks_for
from dougong.engine.settings import MOST_DRAFTS, DraftSettings
from dougong.engine.states import States
from dougong.engine.windows import Strategy, Windows
from dougong.errors import BackendError, InputError
from dougong.model.transformer import Transformer

BACKENDS_HERE = ("cpu",)  # those that keep equal bits
EVENTS = (
    "shared steps", "prompts beside answers", "chunks", "preemptions", "evictions",
    "memory hits", "disk hits", "replays", "restarts", "crashes", "engines side by side",
    "damaged files", "cancellations", "deadlines", "stops", "grammars", "scored prompts",
    "strangers", "drafts accepted", "drafts rejected", "MTP drafts accepted",
)  # fmt: skip
SHOWN_FAILURES = 3
DISK_BYTES = 64 * 2**20
WINDOWS = (  # every strategy that is exact
    Windows(Strategy.FULL), Windows(Strategy.PERIODIC, 256), Windows(Strategy.ZERO),
)  # fmt: skip
WHOLE = (Finish.STOP, Finish.LENGTH)  # the answer is complete


@dataclass
class Verdict:
    """What was compared, and what was not equal. `coverage`: how often each event happened."""

    requests: int = 0
    tokens: int = 0
    comparisons: int = 0
    mismatches: int = 0
    coverage: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(EVENTS, 0)))
    failures: list[str] = field(default_factory=list)

    def compare(self, about: str, got: Any, want: Any) -> None:
        """One comparison."""
        self.comparisons += 1
        if got != want:
            self.mismatches += 1
            if len(self.failures) < SHOWN_FAILURES:
                self.failures.append(f"{about} is {_short(got)} instead of {_short(want)}")

    def as_dict(self) -> dict[str, Any]:
        """The keys of `dougong verify engine --json`."""
        return {
            "requests": self.requests, "tokens": self.tokens, "comparisons": self.comparisons,
            "mismatches": self.mismatches, "coverage": dict(self.coverage),
            "failures": self.failures,
        }  # fmt: skip


def verify(
    model: Transformer,
    tokenizer: Tokenizer,
    seconds: float,
    seed: int,
    *,
    backend: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Runs the machine for about `seconds`.

    Raises BackendError for a backend that promises no equal bits, InputError for a model whose
    context is too short for it.
    """
    if backend not in BACKENDS_HERE:
        raise BackendError(
            f"backend '{backend}' promises no equal bits: choose {' or '.join(BACKENDS_HERE)}."
        )
    start_s = time.monotonic()

    def go_on() -> bool:
        done_s = time.monotonic() - start_s
        if progress is not None:
            progress(int(min(done_s, seconds)), int(seconds) + 1)
        return done_s < seconds

    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(model, tokenizer, Path(folder), seed)
        while go_on():
            machine.life(go_on)
    return machine.verdict


class Machine:
    """Engines over one disk, one after another, and what happens to them.

    `seed` decides every event; the clock goes by steps, so that a seed repeats.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, folder: Path, seed: int) -> None:
        self.model, self.tokenizer, self.folder, self.seed = model, tokenizer, folder, seed
        self.rng = Random(seed)
        self.oracle, self.verdict = Oracle(model, tokenizer), Verdict()
        self.jobs = Jobs(self.rng, tokenizer, model.config.num_hidden_layers)
        if model.config.max_position_embeddings < self.jobs.longest:
            raise InputError(
                f"the model's context of {model.config.max_position_embeddings} tokens is too "
                f"short: verifying takes requests of up to {self.jobs.longest}."
            )
        mtp = 2 if len(model.mtp) else 0
        drafts = [  # even where it does not pay: what pays would hang on the time of day
            DraftSettings(),
            DraftSettings(lookup=MOST_DRAFTS, always=True),
            DraftSettings(mtp=mtp, always=True),
            DraftSettings(lookup=3, mtp=mtp, always=True),
        ]
        # in turn, so that a short run has seen each; 4, 3 and 5: so that a long one has all pairs
        self._drafts, self._windows = cycle(drafts), cycle(WINDOWS)
        self._by_force = cycle([False, False, True, False, True])
        self._now_s = 0.0
        self._again: list[Job] = []  # cut off by a restart, to be asked once more
        self._open: dict[Core, list[Request]] = {}  # of each engine that is running
        self._tenants: set[str] = set()
        self._strangers: set[Request] = set()  # the first of their tenants

    def life(self, go_on: Callable[[], bool]) -> None:
        """An engine or two: their start, some steps (fewer if `go_on` says so), their end."""
        rng, coverage = self.rng, self.verdict.coverage
        coverage["damaged files"] += damage(self.folder, rng)
        self._open = {self._start(): [] for _ in range(rng.choice([1, 1, 2]))}
        cores = list(self._open)
        coverage["engines side by side"] += len(cores) > 1
        for _ in range(rng.randint(30, 120)):
            core = rng.choice(cores)
            self._event(core)
            self._now_s += 1
            self._watch(core)
            if not self._step(core) or not go_on():
                break
        for core in cores:
            self._end(core, by_force=next(self._by_force) or core not in self._open)

    def _step(self, core: Core) -> bool:
        """One step of an engine; False if it failed, which counts as a mismatch."""
        try:
            core.step()
            core.states.flush()  # so that the disk's answers do not hang on its speed
        except Exception as fault:  # whatever it is, it is what is looked for
            self.verdict.compare(f"seed {self.seed}: what stopped an engine", repr(fault), None)
            del self._open[core]
            return False
        self._judge_ended(core)
        return True

    def _start(self) -> Core:
        """An engine over the machine's disk."""
        rng, least = self.rng, blocks_for(self.jobs.longest)
        states = States(
            self.model,
            rng.randint(least + 1, least + 15),
            resume_bytes=rng.choice([0, 2**20, 2**26]),
            windows=next(self._windows),
            store=DiskStore(self.folder, bytes(KEY_BYTES), DISK_BYTES),
            poison=True,
        )
        return Core(
            self.model,
            states,
            self._limits(),
            tokenizer=self.tokenizer,
            drafts=next(self._drafts),
            clock=lambda: self._now_s,
        )

    def _limits(self) -> Limits:
        return Limits(step_tokens=self.rng.choice([7, 33, 128, 500, 2000]), running=6)

    # -- what happens --------------------------------------------------------------------------

    def _event(self, core: Core) -> None:
        """Something from outside."""
        rng, dice = self.rng, self.rng.random()
        if (dice < 0.35 or core.idle) and len(core.scheduler.waiting) < 5:
            self._submit(core, self._again.pop() if self._again else self.jobs.draw())
        elif dice < 0.37 and self._open[core]:
            rng.choice(self._open[core]).cancelled = True
        elif dice < 0.41:
            core.scheduler.limits = self._limits()
        elif dice < 0.45:
            core.states.cache.evict(rng.randint(1, 24))
        elif dice < 0.48:
            core.states.cache.shed_resumes(0)
            lose_resumes(self.folder)

    def _submit(self, core: Core, job: Job) -> None:
        request = core.submit(job)
        self._open[core].append(request)
        if job.tenant not in self._tenants:
            self._tenants.add(job.tenant)
            self._strangers.add(request)

    def _watch(self, core: Core) -> None:
        """Notes what the coming step does to several requests at once."""
        running, coverage = core.scheduler.running, self.verdict.coverage
        phases = {request.phase for request in running}
        begun = (r for r in running if r.phase is Phase.PREFILL and r.computed > r.cached_tokens)
        coverage["chunks"] += sum(1 for _ in begun)
        coverage["shared steps"] += len(running) > 1
        coverage["prompts beside answers"] += phases == {Phase.PREFILL, Phase.DECODE}

    def _end(self, core: Core, *, by_force: bool) -> None:
        """The engine stops in the middle of whatever it is doing; nothing may be left of it."""
        verdict, states, cut_off = self.verdict, core.states, list(self._open.get(core, ()))
        if by_force:
            verdict.coverage["crashes"] += 1
        else:
            core.end_all(Finish.CANCELLED)
            self._judge_ended(core)
            states.cache.clear()
            verdict.compare(f"seed {self.seed}: blocks held at the end", states.pool.num_used, 0)
        self._again += [request.job for request in cut_off if not request.cancelled]
        verdict.coverage["restarts"] += 1
        verdict.coverage["evictions"] += states.cache.evicted
        for event, count in states.counts.items():
            verdict.coverage[event] += count
        states.close()

    # -- what must be ----------------------------------------------------------------------------

    def _judge_ended(self, core: Core) -> None:
        ended = [request for request in self._open[core] if request.reply is not None]
        self._open[core] = [request for request in self._open[core] if request.reply is None]
        for request in ended:
            assert request.reply is not None
            self._judge(request, request.reply)
            self._count(core, request, request.reply)
            self.jobs.heard(request.job, request.reply.ids)

    def _judge(self, request: Request, reply: Reply) -> None:
        """Compares a reply with the oracle's; one that was cut short, as far as it goes."""
        verdict, whole = self.verdict, reply.finish in WHOLE
        verdict.requests += 1
        verdict.tokens += len(reply.ids)
        about = (
            f"seed {self.seed}, request {verdict.requests} ({reply.prompt_tokens} prompt tokens, "
            f"{reply.cached_tokens} cached, {request.preemptions} times preempted)"
        )
        if request in self._strangers and not request.preemptions:
            verdict.compare(f"{about}: a stranger's cached tokens", reply.cached_tokens, 0)
        if reply.finish is Finish.ERROR:
            verdict.compare(f"{about}: its error", reply.error, None)
            return
        if not whole and not reply.ids and not reply.prompt_logprobs:
            return
        want = self.oracle.answer(request.job, None if whole else len(reply.ids))
        self._compare(about, reply, want, whole=whole)

    def _compare(self, about: str, reply: Reply, want: Answer, *, whole: bool) -> None:
        verdict = self.verdict
        for kind in ("ids", "logprobs", "prompt_logprobs"):
            got, must = getattr(reply, kind), getattr(want, kind)
            if whole:
                verdict.compare(f"{about}: the number of {kind}", len(got), len(must))
            for i, (one, other) in enumerate(zip(got, must, strict=False)):
                verdict.compare(f"{about}: number {i} of its {kind}", one, other)
        if whole:
            verdict.compare(f"{about}: its finish", reply.finish, want.finish)
            verdict.compare(f"{about}: its text", reply.text, want.text)

    def _count(self, core: Core, request: Request, reply: Reply) -> None:
        coverage, accepted = self.verdict.coverage, reply.accepted_tokens
        coverage["preemptions"] += request.preemptions
        coverage["cancellations"] += reply.finish is Finish.CANCELLED and request.cancelled
        coverage["deadlines"] += reply.finish is Finish.DEADLINE
        coverage["stops"] += reply.finish is Finish.STOP
        coverage["grammars"] += request.guide is not None
        coverage["scored prompts"] += bool(reply.prompt_logprobs)
        coverage["strangers"] += request in self._strangers
        self._strangers.discard(request)
        coverage["drafts accepted"] += accepted
        coverage["drafts rejected"] += reply.drafted_tokens - accepted
        if core.drafter.settings.lookup == 0:
            coverage["MTP drafts accepted"] += accepted


def _short(thing: Any) -> str:
    text = repr(thing)
    return text if len(text) <= 80 else text[:77] + "..."
