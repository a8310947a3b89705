"""Promises of pmesh one by one, each in a small world of its own; `tox run -e properties` runs 10,000 seeds of each.

What holds whatever else happens is in `test_properties.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pmesh import Agent, AgentRef, Backoff, MailboxPolicy, State, StopReason, SupervisionPolicy, handler
from pmesh.testing import Simulation, simulate
from pmesh.testing.simulation import MOST_LATE_SECONDS, MOST_PASSED_OVER

SEEDS = 150
# How late a timer may be, and the microseconds that the dispatcher takes.
SLACK_SECONDS = MOST_LATE_SECONDS + 0.000_1

# In a mailbox, where that is bounded.
BUDGET_BYTES = 12

# Control messages in a row, while normal mail waits.
CONTROL_RUN = 64


class Failed(Exception):
    """What a handler raises on purpose."""


class Fragile(Agent):
    """Fails whenever it is told to; writes down when, and when it was there again."""

    def __init__(self, failed: list[float], started: list[float], now: Callable[[], float]) -> None:
        self.failed, self.started, self.now = failed, started, now

    async def on_start(self) -> None:
        self.started.append(self.now())

    @handler
    async def work(self, fails: bool) -> None:
        if fails:
            self.failed.append(self.now())
            raise Failed


@simulate(seeds=SEEDS)
async def test_restarts_are_as_many_and_as_late_as_their_policy_says(sim: Simulation) -> None:
    draw = sim.random
    policy = SupervisionPolicy(
        intensity=draw.choice((1, 2, 5)),
        period=draw.choice((0.5, 3.0)),
        backoff=draw.choice((None, Backoff(0.01, 0.05, jitter=0.0), Backoff(0.02, 1.0, jitter=0.5, reset_seconds=0.5))),
    )
    failed: list[float] = []
    started: list[float] = []
    async with sim.coordinator() as mesh:
        ref = await mesh.spawn(Fragile, failed, started, sim.loop.time, name="fragile", supervision=policy)
        for _ in range(draw.choice((3, 12))):
            await asyncio.sleep(draw.choice((0.0, 0.1, 0.1, 0.7, policy.period)))
            for _ in range(draw.choice((1, 1, 3))):
                ref.tell(draw.random() < 0.7)
        while mesh.stats().pending or mesh.state(ref) is State.BACKOFF:
            await asyncio.sleep(1.0)
        restarts = mesh.restarts(ref)
        end = None if ref.is_alive else await mesh.watch(ref)
    allowed, given_up = restarts_allowed(failed, policy)
    assert restarts == allowed == len(started) - 1
    assert (end is not None) is given_up
    assert end is None or end.reason is StopReason.FAILED
    assert_waits(failed, started, policy.backoff)


def restarts_allowed(failed: list[float], policy: SupervisionPolicy) -> tuple[int, bool]:
    """By the times of the failures alone: how many restarts there must have been, and whether the last was too many."""
    for number, when in enumerate(failed):
        if sum(before > when - policy.period for before in failed[: number + 1]) > policy.intensity:
            assert number == len(failed) - 1, "it went on after one restart too many"
            return number, True
    return len(failed), False


def assert_waits(failed: list[float], started: list[float], backoff: Backoff | None) -> None:
    """Each restart came after `min(max, min * 2**n)` and its jitter, n being the restarts in a row before it."""
    in_a_row = {0}
    for number, (when, again) in enumerate(zip(failed, started[1:], strict=False)):
        waited = again - when
        if backoff is None:
            assert waited <= SLACK_SECONDS
            continue
        quiet = when - started[number] - backoff.quiet_seconds
        if number and quiet > SLACK_SECONDS:
            in_a_row = {0}
        elif number and quiet > -SLACK_SECONDS:
            in_a_row |= {0}  # it may have been either
        fitting = set()
        for before in in_a_row:
            least = min(backoff.max_seconds, backoff.min_seconds * 2**before)
            if least - 1e-6 <= waited <= least * (1 + backoff.jitter) + SLACK_SECONDS:
                fitting.add(before + 1)
        assert fitting, f"restart {number + 1} came after {waited} s, with {in_a_row} restarts in a row before"
        in_a_row = fitting


@simulate(seeds=SEEDS)
async def test_an_agent_that_is_ready_is_served_within_a_bounded_number_of_messages(sim: Simulation) -> None:
    waited: dict[str, int] = {}
    longest = 0
    choose = sim.choose

    def observed(mesh: Any, ready: list[AgentRef]) -> int:
        for ref in ready:
            waited[ref.name] = waited.get(ref.name, 0) + 1
        return choose(mesh, ready)

    def serve(name: str) -> None:
        nonlocal longest
        longest = max(longest, waited.pop(name, 0))

    sim.choose = observed  # type: ignore[method-assign]
    async with sim.coordinator(window=None) as mesh:
        names = [f"agent-{number}" for number in range(5)]
        refs = [await mesh.spawn(lambda payload, name=name: serve(name), name=name) for name in names]
        for ref in refs:
            ref.tell_many(range(sim.random.choice((1, 20))))
        for _ in range(5):
            sim.random.choice(refs).tell(0)
            await asyncio.sleep(sim.random.choice((0.0, 0.001)))
    assert 0 < longest <= (MOST_PASSED_OVER + 1) * len(refs)


@dataclass(frozen=True, slots=True)
class Work:
    """On the normal lane."""

    number: int = 0
    sleeps: float = 0.0
    size: int = 0


class Urgent(Work):
    """The same, on the control lane."""

    __slots__ = ()


class Lanes(Agent):
    """Sees which lane is served while mail waits on both."""

    def __init__(self, waiting: dict[type, int]) -> None:
        self.waiting = waiting
        self.control_run = 0
        self.passed_by = False

    @handler(lane="control")
    def urgent(self, work: Urgent) -> None:
        self.waiting[Urgent] -= 1
        self.passed_by = False
        self.control_run = self.control_run + 1 if self.waiting[Work] else 0
        assert self.control_run <= CONTROL_RUN, f"{self.control_run} control messages in a row while normal mail waited"

    @handler
    def work(self, work: Work) -> None:
        self.waiting[Work] -= 1
        self.control_run = 0
        assert not self.passed_by, "two normal messages in a row while control mail waited"
        self.passed_by = self.waiting[Urgent] > 0


@simulate(seeds=SEEDS)
async def test_control_mail_goes_first_and_normal_mail_after_every_64_of_it(sim: Simulation) -> None:
    draw = sim.random
    waiting = {Work: 0, Urgent: 0}

    def tell(ref: AgentRef, kind: type[Work], number: int) -> None:
        waiting[kind] += number
        assert ref.tell_many([kind()] * number) == number

    async with sim.coordinator(window=None) as mesh:
        ref = await mesh.spawn(Lanes, waiting)
        for _ in range(draw.choice((3, 5))):
            kind, number = draw.choice((Work, Urgent)), draw.choice((1, 3, CONTROL_RUN, 2 * CONTROL_RUN + 1))
            if draw.random() < 0.3:
                await sim.in_thread(tell, ref, kind, min(number, 3))
            else:
                tell(ref, kind, number)
            if draw.random() < 0.3:
                await asyncio.sleep(draw.choice((0.0, 0.001)))
    assert waiting == {Work: 0, Urgent: 0}


class Stage(Agent):
    """Passes on what it gets, after a while."""

    def __init__(self, later: AgentRef | None, seconds: tuple[float, ...]) -> None:
        self.later, self.seconds = later, seconds

    @handler
    async def work(self, number: int) -> None:
        await asyncio.sleep(self.seconds[number % len(self.seconds)])
        if self.later is not None:
            assert self.later.tell(number + 1), f"message {number} was handled, and what came of it refused"


@simulate(seeds=SEEDS)
async def test_leaving_waits_for_what_agents_send_each_other_meanwhile(sim: Simulation) -> None:
    draw = sim.random
    stages, messages = draw.choice((2, 5)), draw.choice((1, 6, 20))
    async with sim.coordinator(drain_timeout=5.0) as mesh:
        later = None
        for _ in range(stages):
            seconds = tuple(draw.choice((0.0, 0.001, 0.02)) for _ in range(3))
            later = await mesh.spawn(Stage, later, seconds, concurrency=draw.choice((1, 4)))
        for number in range(messages):
            assert later is not None
            assert later.tell(number)
        if draw.random() < 0.5:
            await asyncio.sleep(draw.choice((0.0, 0.005)))
    totals = mesh.totals()
    assert totals.handled == totals.sent == stages * messages, totals


@simulate(seeds=SEEDS)
async def test_senders_that_wait_for_room_or_the_window_are_served_in_the_order_in_which_they_came(
    sim: Simulation,
) -> None:
    draw = sim.random
    budget_bytes = draw.choice((None, BUDGET_BYTES))
    came: list[int] = []
    handled: list[int] = []

    async def work(work: Work) -> None:
        handled.append(work.number)
        await asyncio.sleep(work.sleeps)

    async def send(ref: AgentRef, pause: float) -> None:
        await asyncio.sleep(pause)
        for _ in range(draw.choice((1, 3))):
            came.append(number := len(came))
            size = draw.choice((0, 1, BUDGET_BYTES))
            await ref.send(Work(number, draw.choice((0.0, 0.001)), size), timeout=60.0)

    policy = MailboxPolicy(draw.choice((1, 2)), max_bytes=budget_bytes, size=lambda work: work.size)
    async with sim.coordinator(window=draw.choice((None, 1, 3))) as mesh:
        ref = await mesh.spawn(work, mailbox=policy)
        async with asyncio.TaskGroup() as group:
            for _ in range(draw.choice((2, 6))):
                group.create_task(send(ref, draw.choice((0.0, 0.001))))
    assert handled == came
