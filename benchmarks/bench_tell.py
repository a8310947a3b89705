"""`tell`: accepted, handled, many at once, by a plain handler, and round a ring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, REFERENCE, Sink, Work, baseline, handled, running_mesh, until_taken, workload

from pmesh import Agent, AgentRef, LatencyRecorder, MailboxPolicy, handler

# Whole numbers of bursts.
CALLS = 100 * IN_FLIGHT
TIMED_CALLS = 200 * IN_FLIGHT
RING = 100


class PlainSink(Agent):
    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    def take(self, message: int) -> int:
        return message


@workload("tell: accepted", calls=2 * CALLS, beside="asyncio.Queue: put_nowait", timed_calls=TIMED_CALLS)
async def accepted() -> AsyncIterator[Work]:
    """A burst that fills the mailbox; emptying it is not timed."""
    async with running_mesh() as mesh:
        sink = await mesh.spawn(Sink)
        tell = sink.tell

        async def bursts(calls: int) -> float:
            seconds = 0.0
            for _ in range(calls // IN_FLIGHT):
                start = perf_counter()
                for item in range(IN_FLIGHT):
                    tell(item)
                seconds += perf_counter() - start
                await until_taken(sink)
            return seconds

        async def single(calls: int) -> LatencyRecorder:
            recorder = LatencyRecorder()
            for _ in range(calls // IN_FLIGHT):
                for item in range(IN_FLIGHT):
                    start = perf_counter_ns()
                    tell(item)
                    recorder.record(perf_counter_ns() - start)
                await until_taken(sink)
            return recorder

        yield Work(bursts, single)
        if sink.counters().rejected:
            raise RuntimeError(f"{sink.counters().rejected} messages were rejected; each burst must find room")


@baseline("asyncio.Queue: put_nowait", calls=CALLS)
async def queue_put_nowait() -> AsyncIterator[Work]:
    """A burst that fills the queue; emptying it is not timed."""
    queue: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)
    put = queue.put_nowait

    async def bursts(calls: int) -> float:
        seconds = 0.0
        for _ in range(calls // IN_FLIGHT):
            start = perf_counter()
            for item in range(IN_FLIGHT):
                put(item)
            seconds += perf_counter() - start
            while not queue.empty():
                queue.get_nowait()
        return seconds

    yield Work(bursts)


async def told(ref: AgentRef, calls: int) -> float:
    tell = ref.tell
    start = perf_counter()
    item = 0
    while item < calls:
        if tell(item):
            item += 1
        else:
            await asyncio.sleep(0)
    await until_taken(ref)
    return perf_counter() - start


@workload("tell: to handled", calls=CALLS, beside=REFERENCE, timed_calls=TIMED_CALLS)
async def to_handled() -> AsyncIterator[Work]:
    """To one async handler, 256 in flight."""
    async with running_mesh() as mesh:
        sink = await mesh.spawn(Sink)
        yield handled(mesh, sink, lambda calls: told(sink, calls))


@workload("tell: to handled by def", calls=CALLS, beside=REFERENCE, timed_calls=TIMED_CALLS)
async def to_plain_handler() -> AsyncIterator[Work]:
    """The same to a plain `def` handler, which makes no coroutine."""
    async with running_mesh() as mesh:
        sink = await mesh.spawn(PlainSink)
        yield handled(mesh, sink, lambda calls: told(sink, calls))


@workload("tell: many to handled", calls=CALLS, beside=REFERENCE, timed_calls=TIMED_CALLS)
async def many_to_handled() -> AsyncIterator[Work]:
    """By `tell_many`, a mailbox full in each call."""
    async with running_mesh() as mesh:
        sink = await mesh.spawn(Sink)
        burst = range(IN_FLIGHT)

        async def bursts(calls: int) -> float:
            start = perf_counter()
            for _ in range(calls // IN_FLIGHT):
                if sink.tell_many(burst) != IN_FLIGHT:
                    raise RuntimeError("a burst was rejected; each must find room")
                await until_taken(sink)
            return perf_counter() - start

        yield handled(mesh, sink, bursts)


@dataclass(frozen=True, slots=True)
class Link:
    """Where a `Hop` passes the token on, and what it sets when the count is used up."""

    successor: AgentRef
    arrived: asyncio.Event


class Hop(Agent):
    """Passes a token on, until its count is used up."""

    pass_on: Callable[[int], bool]

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


@workload("tell: round a ring", calls=CALLS, beside=REFERENCE)
async def ring() -> AsyncIterator[Work]:
    """Hops of one token through a ring of 100 agents."""
    async with running_mesh() as mesh:
        arrived = asyncio.Event()
        refs = [await mesh.spawn(Hop) for _ in range(RING)]
        for here, following in zip(refs, refs[1:] + refs[:1], strict=True):
            await here.ask(Link(following, arrived))

        async def hops(calls: int) -> float:
            arrived.clear()
            start = perf_counter()
            refs[0].tell(calls - 1)  # the last one of them is handled too
            await arrived.wait()
            return perf_counter() - start

        yield Work(hops)
