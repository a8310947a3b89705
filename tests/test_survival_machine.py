"""Whatever happens to agents at the same time, what is promised of the mesh holds: a seeded script, in virtual time.

Agents fail in handlers and hooks by every directive and strategy, and are stopped, killed, drained, suspended,
watched and asked meanwhile, with mail in their stash, timers and another behaviour; then the mesh is left.
`--pmesh-seeds 1000:3000` runs these seeds instead of the first ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import io
import logging
import signal
import weakref
from collections.abc import Awaitable
from typing import Any

import pytest

import pmesh
from pmesh import (
    Agent,
    Backoff,
    Coordinator,
    IllegalTransition,
    MailboxPolicy,
    Overflow,
    PmeshError,
    SupervisionPolicy,
    Terminated,
    handler,
)
from pmesh.testing import Simulation, assert_account, simulate

DRAIN_SECONDS = 20.0
# What leaving may take: draining, stopping in the same time again, and the grace of what is cancelled in each.
LEAVING_SECONDS = 2 * DRAIN_SECONDS + 4 * 5.0
SEEDS_EACH_TIME = 60

STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
DIRECTIVES = ("restart", "resume", "stop", "escalate")
OVERFLOWS = (*(Overflow.REJECT, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST) * 4, Overflow.STOP)
WORKS = (
    *("plain", "plain", "plain", "plain", "sleep", "sleep", "long"),
    *("fail", "fail", "fail", "key", "key", "os", "os", "escape", "escape", "sleep fail", "cancelled"),
    *("stash", "stash fail", "unstash", "become", "other", "unbecome", "timer", "every", "cancel", "ask", "tell"),
    *("child", "watch", "unwatch", "leave", "stop", "suspend", "kill", "sibling"),
)


class Escape(Exception):
    pass


class Abort(BaseException):
    """As test frameworks raise; only in hooks."""


@dataclasses.dataclass(slots=True)
class Work:
    sender: str
    number: int
    what: str


class Urgent(Work):
    """The same, on the control lane."""


@dataclasses.dataclass(slots=True)
class Tick:
    key: str


class World:
    """One run: the mesh, what its agents do next, and what they have seen."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.rng = sim.random
        self.mesh: Coordinator
        self.trouble = self.rng.choice((0.0, 0.02, 0.2))  # how often a hook fails
        self.handled: set[tuple[str, int]] = set()
        self.newest: dict[tuple[str, Any, str], int] = {}
        self.numbers = 0
        self.instances: weakref.WeakSet[Worker] = weakref.WeakSet()
        self.faults: list[str] = []
        self.calls: set[asyncio.Task[Any]] = set()
        self.supervisors: list[pmesh.Supervisor] = []

    def work(self, sender: str) -> Work:
        self.numbers += 1
        kind = Urgent if self.rng.random() < 0.15 else Work
        return kind(sender, self.numbers, self.rng.choice(WORKS))

    def someone(self) -> pmesh.AgentRef | None:
        names = self.mesh.agents
        return self.mesh.lookup(self.rng.choice(names)) if names else None

    def take(self, ref: pmesh.AgentRef, lane: str, work: Work) -> None:
        """A handler has `work`, and will not stash it."""
        if (work.sender, work.number) in self.handled:
            self.faults.append(f"{work} was handled twice")
        self.handled.add((work.sender, work.number))
        if not work.what.startswith("stash"):
            # The lane is the behaviour's, and so a payload may come on either.
            pair = (work.sender, ref, lane)
            if self.newest.get(pair, 0) > work.number:
                self.faults.append(f"{work} was handled by {ref} after {self.newest[pair]}")
            self.newest[pair] = work.number

    def stumble(self) -> None:
        if self.rng.random() < self.trouble:
            raise self.rng.choice((ValueError, KeyError, OSError, Escape, Abort))("in a hook")

    async def hook(self) -> None:
        if self.rng.random() < 0.2:
            await asyncio.sleep(self.rng.choice((0.0, 0.05, 1.0)))
        self.stumble()

    def call(self, awaitable: Awaitable[Any]) -> None:
        """In a task of its own; what pmesh says about it is no fault."""

        async def answered() -> None:
            with contextlib.suppress(PmeshError, ValueError, KeyError, OSError, Escape, Abort):
                await awaitable

        task = asyncio.get_running_loop().create_task(answered())
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)

    def options(self) -> dict[str, Any]:
        rng = self.rng
        capacity = rng.choice((1, 8, 64, 64))
        overflow = rng.choice(OVERFLOWS)
        adaptive = overflow is not Overflow.STOP and rng.random() < 0.4
        return {
            "mailbox": MailboxPolicy(capacity, overflow=overflow, adaptive=adaptive),
            "concurrency": rng.choice((1, 1, 1, 3)),
            "supervision": self.supervision(),
        }

    def backoff(self) -> Backoff | None:
        return Backoff(0.01, self.rng.choice((0.02, 3.0))) if self.rng.random() < 0.3 else None

    def directives(self) -> dict[Any, str]:
        return {
            kind: self.rng.choice(DIRECTIVES)
            for kind in (KeyError, OSError, Escape, asyncio.CancelledError)
            if self.rng.random() < 0.5
        }

    def supervision(self) -> SupervisionPolicy:
        return SupervisionPolicy(
            self.rng.choice(("transient", "transient", "permanent", "temporary")),
            self.directives(),
            intensity=self.rng.choice((1, 5, 1000)),
            backoff=self.backoff(),
        )

    def rules(self) -> dict[str, Any]:
        return {
            "strategy": self.rng.choice(STRATEGIES),
            "intensity": self.rng.choice((1, 3, 1000)),
            "directives": self.directives(),
            "backoff": self.backoff(),
            "supervision": self.supervision() if self.rng.random() < 0.5 else None,
        }

    def check(self) -> None:
        assert_account(self.mesh)
        assert not self.faults, self.faults


class Worker(Agent):
    def __init__(self, world: World, depth: int = 0) -> None:
        self.world = world
        self.depth = depth
        world.stumble()
        world.instances.add(self)

    async def on_start(self) -> None:
        if self.world.rng.random() < 0.2:
            self.context.timers.every(0.5, Tick("start"), key="start")
        if self.depth < 2 and self.world.rng.random() < 0.1:
            await self.context.spawn(Worker, self.world, self.depth + 1)
        await self.world.hook()

    async def pre_restart(self, error: BaseException | None) -> None:
        await self.world.hook()
        await super().pre_restart(error)

    async def post_restart(self, error: BaseException | None) -> None:
        await self.world.hook()
        await super().post_restart(error)

    async def on_stop(self, reason: pmesh.StopReason) -> None:
        await self.world.hook()

    @handler
    async def work(self, work: Work) -> str | None:
        return await self.do(work)

    @handler(lane="control")
    async def urgent(self, work: Urgent) -> str | None:
        return await self.do(work)

    @handler
    def tick(self, tick: Tick) -> None:
        pass

    @handler
    def gone(self, notice: Terminated) -> None:
        if self.world.mesh.state(notice.ref) is not pmesh.State.STOPPED:
            self.world.faults.append(f"{notice} came before the end")

    async def other(self, payload: object) -> str | None:
        """What this becomes."""
        return await self.do(payload) if isinstance(payload, Work) else None

    async def do(self, work: Work) -> str | None:
        context, world = self.context, self.world
        if world.mesh.state(context.ref) in (pmesh.State.STARTING, pmesh.State.BACKOFF, pmesh.State.STOPPED):
            world.faults.append(f"{work} was begun while {context.name} is {world.mesh.state(context.ref)}")
        if work.what == "stash" and world.rng.random() < 0.7:
            with contextlib.suppress(pmesh.StashFull):
                context.stash()
                return None
        world.take(context.ref, context.message.lane, work)
        other = world.someone()
        assert other is not None
        match work.what:
            case "sleep":
                await asyncio.sleep(world.rng.choice((0.0, 0.001, 0.1)))
            case "long":
                await asyncio.sleep(world.rng.choice((1.0, 7.0)))
            case "fail":
                raise ValueError("failed")
            case "key":
                raise KeyError("failed")
            case "os":
                raise OSError("failed")
            case "escape":
                raise Escape("failed")
            case "sleep fail":
                await asyncio.sleep(world.rng.choice((0.001, 0.1)))
                raise ValueError("failed after a while")
            case "cancelled":
                raise asyncio.CancelledError
            case "stash fail":
                context.stash()
                raise ValueError("failed with it")
            case "unstash":
                context.unstash_all()
            case "become":
                context.become(self.other)
            case "unbecome":
                context.become(None)
            case "timer":
                context.timers.after(world.rng.choice((0.0, 0.01, 3.0)), Tick("once"), key="once")
            case "every":
                context.timers.every(0.1, Tick("again"), key="again", fixed_rate=world.rng.random() < 0.5)
            case "cancel":
                context.timers.cancel_all()
            case "ask":
                with contextlib.suppress(PmeshError, KeyError, OSError, Escape):
                    return str(await other.ask(world.work(context.name), timeout=1.0))
            case "tell":
                other.tell(world.work(context.name))
            case "child" if self.depth < 2:
                with contextlib.suppress(PmeshError):
                    await context.spawn(Worker, world, self.depth + 1, **world.options())
            case "watch" if other is not context.ref:
                context.watch(other)
            case "unwatch":
                context.unwatch(other)
            case "leave":
                context.stop()
                await asyncio.sleep(world.rng.choice((0.0, 0.1)))
            case "stop" if world.rng.random() < 0.3:
                world.call(world.mesh.stop(other))
            case "suspend" if world.rng.random() < 0.3:
                with contextlib.suppress(PmeshError):
                    world.mesh.suspend(other)
            case "kill" if world.rng.random() < 0.3:
                await world.mesh.kill(other)
            case "sibling":
                if world.supervisors:
                    supervisor = world.rng.choice(world.supervisors)
                    with contextlib.suppress(PmeshError, ValueError, KeyError, OSError, Escape, Abort):
                        await supervisor.spawn(Worker, world, **world.options())
        return "done"


async def disturb(world: World) -> None:
    """One thing from outside."""
    rng, mesh = world.rng, world.mesh
    other = world.someone()
    match rng.choice(("tell", "burst", "burst", "ask", "send", "wait", "wait", "spawn", "below", "below", "supervisor",
                      "end", "hold", "go on", "go on", "watch", "look")):  # fmt: skip
        case "tell" if other is not None:
            other.tell(world.work("outside"))
        case "burst" if other is not None:
            other.tell_many([world.work("outside") for _ in range(rng.choice((3, 30)))])
        case "ask" if other is not None:
            world.call(other.ask(world.work("asker"), timeout=rng.choice((0.01, 5.0))))
        case "send" if other is not None:
            world.call(other.send(world.work("waiter"), timeout=2.0))
        case "wait":
            await asyncio.sleep(rng.choice((0.0, 0.001, 0.1, 0.1, 4.0)))
        case "spawn" if len(mesh.agents) < 30:
            world.call(mesh.spawn(Worker, world, **world.options()))
        case "below" if world.supervisors and len(mesh.agents) < 30:
            name = rng.choice((None, "alice", "bob"))
            supervisor = rng.choice(world.supervisors)
            world.call(supervisor.spawn(Worker, world, name=name, **world.options()))
        case "supervisor":
            with contextlib.suppress(PmeshError):
                if world.supervisors and rng.random() < 0.6:
                    made = await rng.choice(world.supervisors).supervisor(**world.rules())
                else:
                    made = await mesh.supervisor(**world.rules())
                world.supervisors.append(made)
        case "end" if other is not None and rng.random() < 0.5:
            match rng.choice(("stop", "kill", "drain")):
                case "stop":
                    world.call(mesh.stop(other))
                case "kill":
                    world.call(mesh.kill(other))
                case _:
                    world.call(mesh.drain(other, timeout=rng.choice((0.01, 3.0))))
        case "hold" if other is not None:
            with contextlib.suppress(IllegalTransition):
                mesh.suspend(other)
        case "go on" if other is not None:
            with contextlib.suppress(IllegalTransition):
                mesh.resume(other)
        case "watch" if other is not None:
            world.call(mesh.watch(other))
        case "look":
            pmesh.debug.dump(mesh, file=io.StringIO())


async def play(world: World) -> None:
    rng = world.rng
    loop = asyncio.get_running_loop()
    signals = [signal.SIGTERM, signal.SIGINT][: rng.choice((0, 0, 0, 1, 2))]
    world.mesh = mesh = world.sim.coordinator(
        drain_timeout=DRAIN_SECONDS,
        stall_after=rng.choice((None, 0.05, 3.0)),
        window=rng.choice((None, 4, 1024)),
        signals=bool(signals),
    )
    began = 0.0

    def interrupt() -> None:
        nonlocal began
        began = began or loop.time()
        if mesh.shutdown.phase is not None or not mesh.shutdown.requested:
            signal.raise_signal(signals.pop())
        if signals:
            loop.call_later(rng.choice((0.0, 0.001, 3.0)), interrupt)

    with contextlib.suppress(asyncio.CancelledError):
        async with mesh:
            if signals:
                loop.call_later(rng.choice((0.0, 0.01, 1.0, 10.0, 30.0)), interrupt)
            for _ in range(3):
                parents: tuple[Any, ...] = (mesh, *world.supervisors)
                world.supervisors.append(await rng.choice(parents).supervisor(**world.rules()))
                for _ in range(3):
                    world.call(world.supervisors[-1].spawn(Worker, world, **world.options()))
            for _ in range(rng.choice((20, 60, 150))):
                await disturb(world)
                world.check()
            if signals:
                await asyncio.sleep(60.0)
            ending = rng.choice(("leave", "leave", "close", "hasten", "cancel", "hasten later"))
            began = loop.time()
            match ending:
                case "close":
                    await mesh.close(timeout=rng.choice((0.01, 2.0)))
                case "hasten":
                    mesh.shutdown.hasten()
                case "cancel":
                    raise asyncio.CancelledError
                case "hasten later":
                    loop.call_later(1.0, mesh.shutdown.hasten)
    took = loop.time() - began
    assert took <= LEAVING_SECONDS, f"leaving took {took} s"
    world.check()
    assert mesh.stats().pending == 0, mesh.stats()
    assert not mesh.agents
    # Asks of those who are gone have been answered; a send may have waited for the window.
    if world.calls:
        await asyncio.wait(world.calls, timeout=0.001)
    assert not world.calls, world.calls
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left
    dispatcher: Any = mesh._dispatcher
    assert dispatcher.timeouts == 0
    assert dispatcher.in_window == 0
    world.calls.clear()


@simulate(seeds=SEEDS_EACH_TIME)
async def test_whatever_happens_the_account_balances_order_holds_and_leaving_ends(sim: Simulation) -> None:
    await play(World(sim))


def test_whatever_happens_no_agent_is_left_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest keeps what is logged, and with it the frames of errors.
    for name in ("pmesh", "pmesh.dead_letters", "pmesh.stalls"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    instances: list[weakref.WeakSet[Worker]] = []

    async def main(sim: Simulation) -> None:
        world = World(sim)
        instances.append(world.instances)
        await play(world)

    for seed in range(SEEDS_EACH_TIME // 4):
        Simulation(seed, traced=False).run(main)
        gc.collect()
        assert not list(instances[-1]), f"of seed {seed} there are left: {list(instances[-1])}"
