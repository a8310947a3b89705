"""What pmesh promises holds whatever is ready first, late, from another thread, or goes wrong: seeds of simulations.

`tox run -e properties` runs 10,000 seeds of each; `-- --pmesh-seeds 10000:60000` others. The ordinary run of the tests
takes a few of them. Promises that need a world of their own are in `test_promises.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    AgentStopped,
    Coordinator,
    DeadLetterKind,
    InvalidArgument,
    MailboxPolicy,
    Overflow,
    PmeshError,
    State,
    SupervisionPolicy,
    Terminated,
    UnknownAgent,
    handler,
)
from pmesh.lives import KILL_GRACE_SECONDS
from pmesh.testing import Faults, InjectedFault, Simulation, simulate

SEEDS = 150

DRAIN_SECONDS = 5.0
# Draining, stopping within the same time again, and the grace of what is cancelled in each.
LEAVING_SECONDS = 2 * DRAIN_SECONDS + 2 * KILL_GRACE_SECONDS + 1.0

# In a mailbox, where that is bounded; several messages' worth.
MOST_BYTES = 12

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
    size: int = 0


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
    cancelled: set[tuple[str, int]] = field(default_factory=set)
    numbers: int = 0
    refused: int = 0
    letters: Counter[DeadLetterKind] = field(default_factory=Counter)
    timed: int = 0

    def pair(self, work: Work, receiver: str) -> Pair:
        return self.pairs.setdefault((work.sender, receiver, type(work)), Pair())

    def accept(self, work: Work, receiver: str) -> None:
        pair = self.pair(work, receiver)
        pair.accepted += 1
        pair.accepted_hash = running_hash(pair.accepted_hash, work.number)

    def start(self, work: Work, receiver: AgentRef) -> None:
        key = (work.sender, work.number)
        assert key not in self.started, f"{work} was handled twice"
        assert key not in self.cancelled, f"{work} was handled, and its send had been cancelled"
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
        ttl = draw.choice((None, None, None, 0.05, 0.3))
        kind = Urgent if draw.random() < 0.2 else Work
        sleeps = draw.choice((0.0, 0.0, 0.001, 0.1, 0.5)) if draw.random() < 0.3 else 0.0
        work = kind(
            sender=sender,
            number=self.next_number(),
            deadline_ns=self.deadline_ns(ttl),
            fails=draw.random() < 0.05,
            sleeps=sleeps,
            outlives=draw.random() < 0.3,
            size=draw.choice((0, 0, 1, 4, 7)),
        )
        return work, ttl

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def deadline_ns(self, ttl: float | None) -> int:
        """Of a message that is told now."""
        return 0 if ttl is None else self.sim.loop.clock.now_ns() + round(ttl * 1e9) + 2

    def tell(self, ref: AgentRef, work: Work, ttl: float | None) -> None:
        if ref.tell(work, ttl=ttl):
            self.accept(work, ref.name)
        else:
            self.refused += 1

    def tell_many(self, ref: AgentRef, works: list[Work], ttl: float | None) -> None:
        """As many as there is room for are accepted, the first ones: none is larger than others."""
        accepted = ref.tell_many(works, ttl=ttl)
        for work in works[:accepted]:
            self.accept(work, ref.name)
        self.refused += len(works) - accepted

    async def send(self, ref: AgentRef, work: Work, timeout: float) -> None:
        """One that is cancelled, and raises for that, must never be handled."""
        try:
            await ref.send(work, timeout=timeout)
        except asyncio.CancelledError:
            self.cancelled.add((work.sender, work.number))
            raise
        self.accept(work, ref.name)


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
    """Passes every third on, in its own name, and asks about every other third."""

    @handler
    async def work(self, work: Work) -> int:
        self.world.start(work, self.context.ref)
        if work.number % 3 == 2:
            return work.number
        with contextlib.suppress(PmeshError, Failed, InjectedFault):
            target = self.world.mesh.lookup("receiver-0")
            passed, ttl = self.world.make(self.context.name)
            if work.number % 3:
                await self.ask(target, passed, work.deadline_ns)
            else:
                self.world.tell(target, passed, ttl)
        return work.number

    async def ask(self, target: AgentRef, asked: Work, deadline_ns: int) -> None:
        own_ns = self.world.deadline_ns(0.4)
        deadline_ns = min(own_ns, deadline_ns or own_ns)
        await target.ask(type(asked)(f"{asked.sender} asks", asked.number, deadline_ns), timeout=0.4)


async def send_some(world: World, sender: str, refs: list[AgentRef]) -> None:
    """One sender: tells, sends and asks, one after the other."""
    draw = world.sim.random
    for _ in range(draw.choice((3, 8))):
        ref = draw.choice(refs)
        work, ttl = world.make(sender)
        match draw.choice(("tell", "tell", "burst", "many", "send", "send", "ask", "pause")):
            case "tell":
                world.tell(ref, work, ttl)
            case "burst":
                for _ in range(4):
                    world.tell(ref, *world.make(sender))
            case "many":
                works = [dataclasses.replace(work, number=world.next_number(), size=0) for _ in range(4)]
                world.tell_many(ref, works, ttl)
            case "send":
                work = dataclasses.replace(work, deadline_ns=0)
                sending = asyncio.create_task(world.send(ref, work, timeout=0.5))
                if draw.random() < 0.5:
                    await asyncio.wait([sending], timeout=draw.choice((0.0, 0.001, 0.1)))
                    sending.cancel()
                with contextlib.suppress(PmeshError, asyncio.CancelledError):
                    await sending
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
            match draw.choice(("suspend", "stop", "drain", "kill", "spawn", "watch", "miss")):
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
                case "miss":
                    world.refused += 1
                    mesh.tell("nobody", world.make("misses")[0])
                case "watch":
                    await asyncio.wait_for(mesh.watch(ref), 0.2)
                case _:
                    refs.append(await mesh.spawn(Receiver, world, name=f"receiver-{len(refs)}", **options(world)))


def options(world: World) -> dict[str, Any]:
    draw = world.sim.random
    overflow = draw.choice((Overflow.REJECT, Overflow.REJECT, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST))
    return {
        "mailbox": MailboxPolicy(
            draw.choice((1, 2, 64, 64)),
            max_bytes=draw.choice((None, None, MOST_BYTES)),
            overflow=overflow,
            size=lambda payload: getattr(payload, "size", 0),
            adaptive=draw.random() < 0.2,
        ),
        # A handler that stalls begins late, and what is handled beside it before.
        "concurrency": 1 if world.sim.faults.stalls else draw.choice((1, 1, 3)),
        "supervision": SupervisionPolicy(intensity=draw.choice((1, 3, 100)), directives={InjectedFault: "resume"}),
    }


async def reach_all(world: World, refs: list[AgentRef]) -> None:
    """Whoever lives has room again once all is quiet, and the window a place: nothing has kept them."""
    # Handlers that outlive their agents end meanwhile.
    await asyncio.sleep(2 * KILL_GRACE_SECONDS)
    for ref in refs:
        for kind in (Work, Urgent):
            with contextlib.suppress(AgentStopped):
                work = kind("last", world.next_number(), size=MOST_BYTES)
                await world.send(ref, work, timeout=4 * KILL_GRACE_SECONDS)


async def whatever_happens(sim: Simulation) -> None:
    draw = sim.random
    mesh = sim.coordinator(drain_timeout=DRAIN_SECONDS, window=draw.choice((None, 2, 64)))
    world = World(sim, mesh)
    async with mesh:
        refs = []
        for number in range(3):
            kind = draw.choice((Receiver, Receiver, Forwarder)) if number else Receiver
            refs.append(await mesh.spawn(kind, world, name=f"receiver-{number}", **options(world)))
        mesh.dead_letters.subscribe(lambda letter: world.letters.update((letter.kind,)))
        async with asyncio.TaskGroup() as group:
            for number in range(draw.choice((1, 3))):
                group.create_task(send_some(world, f"sender-{number}", refs))
            group.create_task(run_some_threads(world, refs))
            group.create_task(disturb(world, refs))
        world.timed = mesh.take_times()["latency"].count
        if draw.random() < 0.5:
            await reach_all(world, refs)
        began = sim.loop.time()
    took = sim.loop.time() - began
    # A jump of the clock may fall into the leaving, too.
    assert took <= LEAVING_SECONDS + 20 * FAULTS.jump_seconds, f"leaving took {took} s"
    assert not mesh.agents
    totals, letters = mesh.totals(), world.letters
    # What is injected may have been refused as well.
    assert totals.rejected >= world.refused, f"{world.refused} were told that they were refused: {totals}"
    assert totals.accepted >= sum(pair.accepted for pair in world.pairs.values())
    assert totals.dropped == letters[DeadLetterKind.DROPPED]
    assert totals.expired == letters[DeadLetterKind.EXPIRED]
    assert totals.dead == letters[DeadLetterKind.STOPPED] + letters[DeadLetterKind.UNHANDLED]
    assert totals.handled + totals.failed == world.timed + mesh.latency.count
    assert totals.as_dict() == mesh.stats().as_dict()
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


Plant = Callable[[pytest.MonkeyPatch], None]


def mail_with(change: Callable[[World, Work], dict[str, Any]]) -> Plant:
    """Mail is made with other fields."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        make = World.make

        def make_other(world: World, sender: str) -> tuple[Work, float | None]:
            work, ttl = make(world, sender)
            return dataclasses.replace(work, **change(world, work)), ttl

        patch.setattr(World, "make", make_other)

    return plant


def states_that_are(change: Callable[[State], State]) -> Plant:
    """The coordinator tells of other states of agents."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        state = Coordinator.state
        patch.setattr(Coordinator, "state", lambda mesh, ref: change(state(mesh, ref)))

    return plant


def sends_that_count_as_cancelled(patch: pytest.MonkeyPatch) -> None:
    async def send(world: World, ref: AgentRef, work: Work, timeout: float) -> None:
        world.cancelled.add((work.sender, work.number))
        await ref.send(work, timeout=timeout)

    patch.setattr(World, "send", send)


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (mail_with(lambda world, work: {"number": work.number - work.number % 2}), r"was handled twice"),
        (mail_with(lambda world, work: {"number": 1_000_000 - work.number}), r"came after number"),
        (mail_with(lambda world, work: {"deadline_ns": world.sim.loop.clock.now_ns()}), r"ns after its deadline"),
        (states_that_are(lambda state: State.SUSPENDED), r"was begun while receiver-\d is State.SUSPENDED"),
        (
            states_that_are(lambda state: State.RUNNING if state is State.STOPPED else state),
            r"^the notice came before the end",
        ),
        (sends_that_count_as_cancelled, r"was handled, and its send had been cancelled"),
    ],
)
def test_what_breaks_a_promise_ends_the_run(plant: Plant, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These are looked at in handlers, whose errors the agents' supervision takes care of."""
    plant(monkeypatch)
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
