"""The scheduler under random arrivals, lengths, priorities, cancellations and little memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.engine.request import Finish, Job, Phase, Request
from dougong.engine.scheduler import BLOCK_TOKENS, Limits, Plan, Scheduler, blocks_for
from dougong.errors import InputError


class Blocks:
    """Memory that only counts, and fails when more is taken than there is."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.held: dict[int, int] = {}

    def available(self) -> int:
        return self.total - sum(self.held.values())

    def attach(self, request: Request) -> tuple[int, int]:
        assert request.id not in self.held, "a state was given twice"
        self.held[request.id] = 0
        return 0, 0

    def reserve(self, request: Request, blocks: int) -> None:
        assert 0 < blocks <= self.available(), "more memory was promised than there is"
        self.held[request.id] += blocks

    def release(self, request: Request) -> None:
        del self.held[request.id]


def request(number: int, prompt: int, new: int, **options: object) -> Request:
    job = Job(prompt_ids=[7] * prompt, max_tokens=new, **options)  # type: ignore[arg-type]
    return Request(number, job, arrival_s=float(number))


def submit(scheduler: Scheduler, one: Request) -> None:
    scheduler.check(one)
    scheduler.submit(one)


def compute(scheduler: Scheduler, plan: Plan, now: float) -> list[Request]:
    """What a model would do to the requests of a step; returns those that ended."""
    ended = []
    for share in plan.shares:
        one = share.request
        assert 1 <= share.tokens <= one.wanted
        assert blocks_for(one.computed + share.tokens + share.drafts) <= one.blocks
        one.computed += share.tokens
        if one.wanted == 0:
            one.phase = Phase.DECODE
            one.ids.append(7)
            if len(one.written) == one.job.max_tokens:
                ended.append(one)
    scheduler.account(plan)
    for one in ended:
        scheduler.remove(one)
        one.end(Finish.LENGTH, now)
    return ended


arrivals = st.lists(
    st.tuples(
        st.integers(1, 700),  # prompt
        st.integers(1, 300),  # new tokens
        st.integers(0, 2),  # priority
        st.sampled_from("abc"),  # tenant
        st.integers(0, 20),  # the step it arrives at
        st.one_of(st.none(), st.integers(0, 40)),  # the step it is cancelled at
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(arrivals, st.integers(1, 12), st.integers(1, 6), st.integers(8, 600), st.integers(0, 3))
def test_every_accepted_request_ends_once_and_memory_is_never_oversubscribed(
    coming: list[tuple[int, int, int, str, int, int | None]],
    total: int,
    running: int,
    budget: int,
    drafts: int,
) -> None:
    memory = Blocks(total)
    scheduler = Scheduler(memory, Limits(step_tokens=budget, running=running))
    accepted: list[Request] = []
    cancel_at: dict[int, int] = {}
    for step in range(20_000):
        for i, (prompt, new, priority, tenant, at, cancel) in enumerate(coming):
            if at == step:
                one = request(i, prompt, new, priority=priority, tenant=tenant)
                if blocks_for(prompt + new - 1) > total:
                    with pytest.raises(InputError, match="shorten the prompt"):
                        submit(scheduler, one)
                else:
                    submit(scheduler, one)
                    accepted.append(one)
                    if cancel is not None:
                        cancel_at[i] = cancel
        for one in accepted:
            one.cancelled = one.reply is None and cancel_at.get(one.id, step + 1) <= step
        for one, finish in scheduler.due(float(step)):
            scheduler.remove(one)
            one.end(finish, float(step))
        for one in scheduler.running:
            one.drafts = [7] * drafts
        plan = scheduler.plan()
        assert plan.tokens <= budget
        assert len(scheduler.running) <= running
        shared = [id(share.request) for share in plan.shares]
        assert len(set(shared)) == len(shared)
        assert not {id(r) for r in plan.preempted} & set(shared)
        compute(scheduler, plan, float(step))
        if step > 20 and not scheduler.running and not scheduler.waiting:
            break
    assert all(one.reply is not None for one in accepted)
    assert memory.held == {}
    assert memory.available() == total
    for one in accepted:
        assert one.reply is not None
        if one.reply.finish is Finish.LENGTH:
            assert len(one.reply.ids) == one.job.max_tokens
        else:
            assert one.reply.finish is Finish.CANCELLED
            assert one.id in cancel_at


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    scheduler = Scheduler(Blocks(200), Limits(step_tokens=256, running=4))
    long, short = request(0, 10_000, 5), request(1, 60, 5)
    submit(scheduler, long)
    compute(scheduler, scheduler.plan(), 0.0)
    submit(scheduler, short)
    steps = 0
    while short.reply is None and steps < 20:
        compute(scheduler, scheduler.plan(), 0.0)
        steps += 1
    assert short.reply is not None
    assert long.reply is None


def test_writing_goes_on_while_prompts_are_computed() -> None:
    scheduler = Scheduler(Blocks(200), Limits(step_tokens=64, running=8))
    writer = request(0, 10, 50)
    submit(scheduler, writer)
    compute(scheduler, scheduler.plan(), 0.0)
    for i in range(1, 6):
        submit(scheduler, request(i, 5_000, 5))
    for step in range(30):
        plan = scheduler.plan()
        assert any(share.request is writer for share in plan.shares), step
        compute(scheduler, plan, 0.0)


def test_tenants_take_turns_however_many_requests_one_has() -> None:
    scheduler = Scheduler(Blocks(100), Limits(step_tokens=128, running=1))
    order: list[str] = []
    for i in range(6):
        submit(scheduler, request(i, 100, 1, tenant="many"))
    submit(scheduler, request(6, 100, 1, tenant="one"))
    while scheduler.waiting or scheduler.running:
        order += [one.job.tenant for one in compute(scheduler, scheduler.plan(), 0.0)]
    assert order.index("one") <= 1


def test_a_more_important_request_takes_the_place_of_a_lesser_one() -> None:
    memory = Blocks(blocks_for(400))
    scheduler = Scheduler(memory, Limits(step_tokens=512, running=1))
    lesser, urgent = request(0, 300, 100), request(1, 300, 2, priority=5)
    submit(scheduler, lesser)
    compute(scheduler, scheduler.plan(), 0.0)
    submit(scheduler, urgent)
    plan = scheduler.plan()
    assert plan.preempted == [lesser]
    assert plan.admitted == [urgent]
    compute(scheduler, plan, 0.0)
    while lesser.reply is None:
        compute(scheduler, scheduler.plan(), 0.0)
    assert urgent.reply is not None
    assert len(lesser.reply.ids) == 100


def test_without_memory_for_all_the_latest_gives_way_and_nobody_starves() -> None:
    scheduler = Scheduler(Blocks(4), Limits(step_tokens=512, running=4))
    first, second = request(0, BLOCK_TOKENS, 300), request(1, BLOCK_TOKENS, 300)
    submit(scheduler, first)
    submit(scheduler, second)
    ended: list[Request] = []
    for _ in range(2_000):
        ended += compute(scheduler, scheduler.plan(), 0.0)
    assert ended == [first, second]
    assert first.preemptions == 0 < second.preemptions


def test_a_full_queue_and_odd_limits_are_refused_with_the_way_out() -> None:
    scheduler = Scheduler(Blocks(4), Limits(step_tokens=8, running=1, waiting=1))
    submit(scheduler, request(0, 5, 5))
    with pytest.raises(InputError, match="send it again later"):
        submit(scheduler, request(1, 5, 5))
    scheduler.plan()  # nobody waits any more, but for those who are on their way
    scheduler.check(request(1, 5, 5))
    with pytest.raises(InputError, match="1 requests are waiting already"):
        scheduler.check(request(1, 5, 5), ahead=1)
    with pytest.raises(InputError, match="at least one of each"):
        Limits(waiting=0)
    with pytest.raises(InputError, match="a step must hold a token of every running request"):
        Limits(step_tokens=4, running=5)
    with pytest.raises(InputError, match="min_tokens"):
        Job(prompt_ids=[1], max_tokens=3, min_tokens=4)
