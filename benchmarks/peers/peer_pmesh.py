"""pmesh itself: what all others are held against."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from subjects import ASKERS, IN_FLIGHT, RING, SENDERS, Prepare, Work, require_count

from pmesh import Agent, AgentRef, Coordinator, MailboxPolicy, handler


class Sink(Agent):
    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    async def take(self, message: int) -> int:
        return message


class PlainSink(Agent):
    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    def take(self, message: int) -> int:
        return message


class Goal(Agent):
    """Counts, and sets `reached` with the last one that is expected."""

    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    async def on_start(self) -> None:
        self.left = 0
        self.reached = asyncio.Event()

    @handler
    async def expect(self, expected: float) -> asyncio.Event:
        self.left = int(expected)
        self.reached.clear()
        return self.reached

    @handler
    async def take(self, message: int) -> None:
        self.left -= 1
        if not self.left:
            self.reached.set()


class PlainGoal(Goal):
    @handler
    def take(self, message: int) -> None:  # type: ignore[override]
        self.left -= 1
        if not self.left:
            self.reached.set()


@dataclass(frozen=True, slots=True)
class Link:
    successor: AgentRef
    arrived: asyncio.Event


class Hop(Agent):
    @handler
    async def link(self, link: Link) -> None:
        self.pass_on = link.successor.tell
        self.arrived = link.arrived

    @handler
    async def take(self, hops: int) -> None:
        if hops:
            self.pass_on(hops - 1)
        else:
            self.arrived.set()


class PlainHop(Hop):
    @handler
    def take(self, hops: int) -> None:  # type: ignore[override]
        if hops:
            self.pass_on(hops - 1)
        else:
            self.arrived.set()


async def tell_all(ref: AgentRef, count: int) -> None:
    tell = ref.tell
    item = 0
    while item < count:
        if tell(item):
            item += 1
        else:
            await asyncio.sleep(0)


@asynccontextmanager
async def tell(goal: type[Goal]) -> AsyncIterator[Work]:
    async with Coordinator() as mesh:
        sink = await mesh.spawn(goal)

        async def work(count: int) -> float:
            reached = await sink.ask(float(count))
            start = perf_counter()
            await tell_all(sink, count)
            await reached.wait()
            return perf_counter() - start

        yield work


@asynccontextmanager
async def fan_in(goal: type[Goal]) -> AsyncIterator[Work]:
    async with Coordinator() as mesh:
        sink = await mesh.spawn(goal)

        async def work(count: int) -> float:
            reached = await sink.ask(float(count))
            start = perf_counter()
            await asyncio.gather(*(tell_all(sink, count // SENDERS) for _ in range(SENDERS)))
            await reached.wait()
            return perf_counter() - start

        yield work


@asynccontextmanager
async def ask(sink_class: type[Agent]) -> AsyncIterator[Work]:
    async with Coordinator() as mesh:
        sink = await mesh.spawn(sink_class)

        async def work(count: int) -> float:
            start = perf_counter()
            for item in range(count):
                await sink.ask(item)
            return perf_counter() - start

        yield work


@asynccontextmanager
async def ask100(sink_class: type[Agent]) -> AsyncIterator[Work]:
    async with Coordinator() as mesh:
        sink = await mesh.spawn(sink_class)

        async def client(count: int) -> None:
            for item in range(count):
                await sink.ask(item)

        async def work(count: int) -> float:
            start = perf_counter()
            await asyncio.gather(*(client(count // ASKERS) for _ in range(ASKERS)))
            return perf_counter() - start

        yield work


@asynccontextmanager
async def ring(hop: type[Hop]) -> AsyncIterator[Work]:
    async with Coordinator() as mesh:
        arrived = asyncio.Event()
        refs = [await mesh.spawn(hop) for _ in range(RING)]
        for here, following in zip(refs, refs[1:] + refs[:1], strict=True):
            await here.ask(Link(following, arrived))

        async def work(count: int) -> float:
            arrived.clear()
            start = perf_counter()
            refs[0].tell(count)
            await arrived.wait()
            return perf_counter() - start

        yield work


@asynccontextmanager
async def threads(goal: type[Goal]) -> AsyncIterator[Work]:
    async with Coordinator() as mesh:
        sink = await mesh.spawn(goal)

        def tell_from_thread(count: int) -> None:
            tell = sink.tell
            item = 0
            while item < count:
                if tell(item):
                    item += 1
                else:
                    time.sleep(0)  # lets the loop's thread run

        async def work(count: int) -> float:
            reached = await sink.ask(float(count))
            thread = threading.Thread(target=tell_from_thread, args=(count,))
            start = perf_counter()
            thread.start()
            await reached.wait()
            seconds = perf_counter() - start
            await asyncio.to_thread(thread.join)
            return seconds

        yield work


@asynccontextmanager
async def spawn(sink_class: type[Agent]) -> AsyncIterator[Work]:
    async def work(count: int) -> float:
        async with Coordinator() as mesh:
            start = perf_counter()
            for _ in range(count):
                await mesh.spawn(sink_class)
            seconds = perf_counter() - start
            require_count(len(mesh.stats().agents), count, "agents")
            return seconds

    yield work


@asynccontextmanager
async def memory(sink_class: type[Agent]) -> AsyncIterator[Work]:
    async with Coordinator() as mesh:

        async def work(count: int) -> float:
            for _ in range(count):
                await mesh.spawn(sink_class)
            return 0.0

        yield work


def work_with(sink: type[Agent], goal: type[Goal], hop: type[Hop]) -> dict[str, Prepare]:
    return {
        "tell": partial(tell, goal),
        "ask": partial(ask, sink),
        "ask100": partial(ask100, sink),
        "fan_in": partial(fan_in, goal),
        "ring": partial(ring, hop),
        "threads": partial(threads, goal),
        "spawn": partial(spawn, sink),
        "memory": partial(memory, sink),
    }


WORK = {"pmesh": work_with(Sink, Goal, Hop), "pmesh-plain": work_with(PlainSink, PlainGoal, PlainHop)}
