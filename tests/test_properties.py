"""What pmesh promises holds whatever is ready first, late, from another thread, or goes wrong: seeds of simulations.

`tox run -e properties` runs 10,000 seeds of each; `-- --pmesh-seeds 10000:60000` others. The ordinary run of the tests
takes a few of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    Backoff,
    Coordinator,
    InvalidArgument,
    MailboxPolicy,
    Overflow,
    PmeshError,
    State,
    StopReason,
    SupervisionPolicy,
    Terminated,
    UnknownAgent,
    handler,
)
from pmesh.lives import KILL_GRACE_SECONDS
from pmesh.testing import Faults, InjectedFault, Simulation, simulate
from pmesh.testing.simulation import MOST_LATE_SECONDS, MOST_PASSED_OVER

SEEDS = 150
# How late a timer may be, and the microseconds that the dispatcher takes.
SLACK_SECONDS = MOST_LATE_SECONDS + 0.000_1

DRAIN_SECONDS = 5.0
# Draining, stopping within the same time again, and the grace of what is cancelled in each.
LEAVING_SECONDS = 2 * DRAIN_SECONDS + 2 * KILL_GRACE_SECONDS + 1.0

# Control messages in a row, while normal mail waits.
CONTROL_RUN = 64

FAULTS = Faults(
    raises=0.05, stalls=0.05, cancels=0.05, kills=0.01, fills=0.03, jumps=0.03, stall_seconds=0.2, jump_seconds=0.5
)


class Failed(Exception):
    """What a handler raises on purpose."""


@dataclass(frozen=True, slots=True)
class Work:
    sender: str
    number: int
    deadline_ns: int = 0
    fails: bool = False
    sleeps: float = 0.0
    outlives: bool = False


class Urgent(Work):
    """The same, on the control lane."""

    __slots__ = ()


def running_hash(chain: int, number: int) -> int:
    return zlib.crc32(number.to_bytes(4, "big"), chain)


@dataclass(slots=True)
class Pair:
    """The mail of one sender to one receiver on one lane."""

    accepted: int = 0
    accepted_hash: int = 0
    started: int = 0
    started_hash: int = 0
    newest: int = -1


@dataclass(slots=True)
class World:
    """What one run has seen."""

    sim: Simulation
    mesh: Coordinator
    pairs: dict[tuple[str, str, type], Pair] = field(default_factory=dict)
    started: set[tuple[str, int]] = field(default_factory=set)
    numbers: int = 0
    refused: int = 0

    def pair(self, work: Work, receiver: str) -> Pair:
        return self.pairs.setdefault((work.sender, receiver, type(work)), Pair())

    def accept(self, work: Work, receiver: str) -> None:
        pair = self.pair(work, receiver)
        pair.accepted += 1
        pair.accepted_hash = running_hash(pair.accepted_hash, work.number)

    def start(self, work: Work, receiver: AgentRef) -> None:
        key = (work.sender, work.number)
        assert key not in self.started, f"{work} was handled twice"
        self.started.add(key)
        pair = self.pair(work, receiver.name)
        assert work.number > pair.newest, f"{work} came after number {pair.newest}"
        pair.newest = work.number
        pair.started += 1
        pair.started_hash = running_hash(pair.started_hash, work.number)
        if self.sim.faults.stalls:
            return  # the handler was begun a while ago
        if work.deadline_ns:
            now_ns = self.sim.loop.clock.now_ns()
            assert now_ns < work.deadline_ns, f"{work} was begun {now_ns - work.deadline_ns} ns after its deadline"
        state = self.mesh.state(receiver)
        assert state in (State.RUNNING, State.DRAINING), f"{work} was begun while {receiver.name} is {state}"

    def make(self, sender: str) -> tuple[Work, float | None]:
        """The next message of `sender`, and its time to live."""
        draw = self.sim.random
        self.numbers += 1
        ttl = draw.choice((None, None, None, 0.05, 0.3))
        deadline_ns = self.deadline_ns(ttl)
        kind = Urgent if draw.random() < 0.2 else Work
        sleeps = draw.choice((0.0, 0.0, 0.001, 0.1)) if draw.random() < 0.3 else 0.0
        return kind(sender, self.numbers, deadline_ns, draw.random() < 0.05, sleeps, draw.random() < 0.2), ttl

    def deadline_ns(self, ttl: float | None) -> int:
        """Of a message that is told now."""
        return 0 if ttl is None else self.sim.loop.clock.now_ns() + round(ttl * 1e9) + 2

    def tell(self, ref: AgentRef, work: Work, ttl: float | None) -> None:
        if ref.tell(work, ttl=ttl):
            self.accept(work, ref.name)
        else:
            self.refused += 1


class Receiver(Agent):
    def __init__(self, world: World) -> None:
        self.world = world

    async def on_start(self) -> None:
        draw = self.world.sim.random
        if draw.random() < 0.2:
            with contextlib.suppress(UnknownAgent, InvalidArgument):  # gone already, or itself
                self.context.watch(self.world.mesh.lookup("receiver-0"))
        if draw.random() < 0.05:
            await asyncio.sleep(0.01)

    @handler
    async def work(self, work: Work) -> int:
        self.world.start(work, self.context.ref)
        if work.sleeps:
            try:
                await asyncio.sleep(work.sleeps)
            except asyncio.CancelledError:
                if not work.outlives:
                    raise
                await asyncio.sleep(KILL_GRACE_SECONDS + 1.0)
        if work.fails:
            raise Failed(work.number)
        return work.number

    @handler(lane="control")
    def urgent(self, work: Urgent) -> int:
        self.world.start(work, self.context.ref)
        if work.fails:
            raise Failed(work.number)
        return work.number

    @handler
    def gone(self, notice: Terminated) -> None:
        state = self.world.mesh.state(notice.ref)
        assert state is State.STOPPED, f"the notice came before the end: {notice.ref.name} is {state}"


class Forwarder(Receiver):
    """Passes every third on, in its own name."""

    @handler
    async def work(self, work: Work) -> int:
        self.world.start(work, self.context.ref)
        if work.number % 3 == 0:
            with contextlib.suppress(PmeshError):
                target = self.world.mesh.lookup("receiver-0")
                passed, ttl = self.world.make(self.context.name)
                self.world.tell(target, passed, ttl)
        return work.number


async def send_some(world: World, sender: str, refs: list[AgentRef]) -> None:
    """One sender: tells, sends and asks, one after the other."""
    draw = world.sim.random
    for _ in range(draw.choice((3, 8))):
        ref = draw.choice(refs)
        work, ttl = world.make(sender)
        match draw.choice(("tell", "tell", "burst", "send", "ask", "pause")):
            case "tell":
                world.tell(ref, work, ttl)
            case "burst":
                for _ in range(4):
                    world.tell(ref, *world.make(sender))
            case "send":
                work = type(work)(sender, work.number)
                with contextlib.suppress(PmeshError):
                    await ref.send(work, timeout=0.5)
                    world.accept(work, ref.name)
            case "ask":
                # Nobody says whether it was accepted; so these are a pair of their own, which is not added up.
                with contextlib.suppress(PmeshError, Failed, InjectedFault):
                    await ref.ask(type(work)(f"{sender} asks", work.number, world.deadline_ns(0.4)), timeout=0.4)
            case _:
                await asyncio.sleep(draw.choice((0.0, 0.001, 0.2)))


async def run_some_threads(world: World, refs: list[AgentRef]) -> None:
    def call(ref: AgentRef, work: Work, ttl: float | None) -> None:
        # The clock may have jumped since it was made.
        world.tell(ref, dataclasses.replace(work, deadline_ns=world.deadline_ns(ttl)), ttl)

    for _ in range(world.sim.random.choice((0, 2, 5))):
        await world.sim.in_thread(call, world.sim.random.choice(refs), *world.make("thread"))


async def disturb(world: World, refs: list[AgentRef]) -> None:
    """What happens to agents from outside."""
    draw, mesh = world.sim.random, world.mesh
    for _ in range(draw.choice((0, 1, 3))):
        await asyncio.sleep(draw.choice((0.0, 0.01, 0.3)))
        ref = draw.choice(refs)
        with contextlib.suppress(PmeshError, TimeoutError):
            match draw.choice(("suspend", "stop", "drain", "kill", "spawn", "watch")):
                case "suspend":
                    mesh.suspend(ref)
                    await asyncio.sleep(0.1)
                    mesh.resume(ref)
                case "stop":
                    await mesh.stop(ref)
                case "drain":
                    await mesh.drain(ref, timeout=1.0)
                case "kill":
                    await mesh.kill(ref)
                case "watch":
                    await asyncio.wait_for(mesh.watch(ref), 0.2)
                case _:
                    refs.append(await mesh.spawn(Receiver, world, name=f"receiver-{len(refs)}", **options(world)))


def options(world: World) -> dict[str, Any]:
    draw = world.sim.random
    overflow = draw.choice((Overflow.REJECT, Overflow.REJECT, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST))
    return {
        "mailbox": MailboxPolicy(draw.choice((1, 2, 64, 64)), overflow=overflow, adaptive=draw.random() < 0.2),
        # A handler that stalls begins late, and what is handled beside it before.
        "concurrency": 1 if world.sim.faults.stalls else draw.choice((1, 1, 3)),
        "supervision": SupervisionPolicy(intensity=draw.choice((1, 3, 100)), directives={InjectedFault: "resume"}),
    }


async def whatever_happens(sim: Simulation) -> None:
    draw = sim.random
    mesh = sim.coordinator(drain_timeout=DRAIN_SECONDS, window=draw.choice((None, 2, 64)))
    world = World(sim, mesh)
    async with mesh:
        refs = []
        for number in range(3):
            kind = draw.choice((Receiver, Receiver, Forwarder)) if number else Receiver
            refs.append(await mesh.spawn(kind, world, name=f"receiver-{number}", **options(world)))
        async with asyncio.TaskGroup() as group:
            for number in range(draw.choice((1, 3))):
                group.create_task(send_some(world, f"sender-{number}", refs))
            group.create_task(run_some_threads(world, refs))
            group.create_task(disturb(world, refs))
        began = sim.loop.time()
    took = sim.loop.time() - began
    # A jump of the clock may fall into the leaving, too.
    assert took <= LEAVING_SECONDS + 20 * FAULTS.jump_seconds, f"leaving took {took} s"
    assert not mesh.agents
    totals = mesh.totals()
    # What is injected may have been refused as well.
    assert totals.rejected >= world.refused, f"{world.refused} were told that they were refused: {totals}"
    assert totals.accepted >= sum(pair.accepted for pair in world.pairs.values())
    for (sender, receiver, kind), pair in world.pairs.items():
        if not sender.endswith("asks"):
            assert pair.started <= pair.accepted, (sender, receiver, kind, pair)
            if pair.started == pair.accepted:
                assert pair.started_hash == pair.accepted_hash, (sender, receiver, kind, pair)


@simulate(seeds=SEEDS, faults=FAULTS)
async def test_the_account_balances_order_holds_and_leaving_ends_whatever_happens(sim: Simulation) -> None:
    await whatever_happens(sim)


@simulate(seeds=SEEDS, faults=dataclasses.replace(FAULTS, stalls=0.0))
async def test_nothing_is_begun_after_its_deadline_or_while_its_agent_does_not_run(sim: Simulation) -> None:
    await whatever_happens(sim)


def numbers_again(work: Work, world: World) -> Work:
    """Every other message has the number of the one before it: as if that were handled twice."""
    return dataclasses.replace(work, number=work.number - work.number % 2)


def numbers_downwards(work: Work, world: World) -> Work:
    """As if the last came first."""
    return dataclasses.replace(work, number=1_000_000 - work.number)


def deadlines_before(work: Work, world: World) -> Work:
    """As if no deadline were looked at."""
    return dataclasses.replace(work, deadline_ns=world.sim.loop.clock.now_ns())


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (numbers_again, r"was handled twice"),
        (numbers_downwards, r"came after number"),
        (deadlines_before, r"ns after its deadline"),
        (State.SUSPENDED, r"was begun while receiver-\d is State.SUSPENDED"),
        (None, r"^the notice came before the end"),
    ],
)
def test_what_breaks_a_promise_ends_the_run(breaks: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These are looked at in handlers, whose errors the agents' supervision takes care of."""
    make, state = World.make, Coordinator.state
    if callable(breaks):
        monkeypatch.setattr(
            World, "make", lambda world, sender: (breaks((made := make(world, sender))[0], world), made[1])
        )
    elif breaks is not None:
        monkeypatch.setattr(Coordinator, "state", lambda mesh, ref: breaks)
    else:
        monkeypatch.setattr(
            Coordinator,
            "state",
            lambda mesh, ref: State.RUNNING if (is_now := state(mesh, ref)) is State.STOPPED else is_now,
        )
    faults = dataclasses.replace(FAULTS, stalls=0.0)
    with pytest.raises(AssertionError, match=told):
        for seed in range(50):
            Simulation(seed, faults=faults, traced=False).run(whatever_happens)


def test_the_same_seed_gives_the_same_trace(pmesh_simulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest keeps what is logged, and with it the frames of errors: all that these runs made.
    for name in ("pmesh", "pmesh.dead_letters"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    for seed in pmesh_simulated.seeds or range(SEEDS // 10):
        runs = [Simulation(seed, faults=FAULTS) for _ in range(2)]
        for run in runs:
            run.run(whatever_happens)
        pmesh_simulated.tally.add(runs[0])
        assert runs[0].trace == runs[1].trace, f"seed {seed}"


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
        assert ref.tell_many([kind("", 0)] * number) == number

    async with sim.coordinator(window=None) as mesh:
        ref = await mesh.spawn(Lanes, waiting)
        for _ in range(draw.choice((4, 10))):
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
    stages, messages = draw.choice((2, 5)), draw.choice((1, 8, 40))
    async with sim.coordinator(drain_timeout=DRAIN_SECONDS) as mesh:
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
