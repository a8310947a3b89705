"""Messages, each beside `asyncio.Queue` doing the same work in the same run.

The baseline is `asyncio.Queue(256)` between one producer and one consumer task, with `await` on put
and get; for asks it is a ping-pong over two such queues. pmesh does the same with one async handler
and at most 256 messages in flight, and times and counts each, which the queue does not.
"""

from __future__ import annotations

import asyncio
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING

import pytest

from pmesh import Agent, AgentRef, Coordinator, LatencyRecorder, MailboxPolicy, handler

if TYPE_CHECKING:
    from conftest import Measure, Slo

IN_FLIGHT = 256
CLIENTS = 100

# Both are whole numbers of bursts, and of shares for the clients.
CALLS = 40 * IN_FLIGHT
TIMED_CALLS = 200 * IN_FLIGHT
ASKS = 5_000
TIMED_ASKS = 20_000


class Sink(Agent):
    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    async def take(self, message: int) -> int:
        return message


@pytest.fixture
def sink(runner: asyncio.Runner, mesh: Coordinator) -> AgentRef:
    return runner.run(mesh.spawn(Sink, name="sink"))


async def until_taken(ref: AgentRef) -> None:
    while ref.depth:
        await asyncio.sleep(0)


# Accepting alone: a burst that fills the mailbox or the queue; emptying it is not timed.


@pytest.mark.benchmark(group="tell: accepted")
def test_tell(measure: Measure, sink: AgentRef, slo: Slo) -> None:
    tell = sink.tell

    async def bursts(count: int) -> float:
        seconds = 0.0
        for _ in range(count // IN_FLIGHT):
            start = perf_counter()
            for item in range(IN_FLIGHT):
                tell(item)
            seconds += perf_counter() - start
            await until_taken(sink)
        return seconds

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for _ in range(count // IN_FLIGHT):
            for item in range(IN_FLIGHT):
                start = perf_counter_ns()
                tell(item)
                recorder.record(perf_counter_ns() - start)
            await until_taken(sink)
        return recorder

    measure.throughput(bursts, calls=CALLS)
    measure.latency("tell()", calls, calls=TIMED_CALLS, slo=slo)
    assert sink.counters().rejected == 0


@pytest.mark.benchmark(group="tell: accepted")
def test_queue_put_nowait(measure: Measure) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)
    put = queue.put_nowait

    def empty() -> None:
        while not queue.empty():
            queue.get_nowait()

    async def bursts(count: int) -> float:
        seconds = 0.0
        for _ in range(count // IN_FLIGHT):
            start = perf_counter()
            for item in range(IN_FLIGHT):
                put(item)
            seconds += perf_counter() - start
            empty()
        return seconds

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for _ in range(count // IN_FLIGHT):
            for item in range(IN_FLIGHT):
                start = perf_counter_ns()
                put(item)
                recorder.record(perf_counter_ns() - start)
            empty()
        return recorder

    measure.throughput(bursts, calls=CALLS)
    measure.latency("put_nowait()", calls, calls=TIMED_CALLS)


# All the way to the handler, 256 in flight.


async def tell_all(ref: AgentRef, count: int) -> None:
    tell = ref.tell
    item = 0
    while item < count:
        if tell(item):
            item += 1
        else:
            await asyncio.sleep(0)
    await until_taken(ref)


@pytest.mark.benchmark(group="tell to handled, 256 in flight")
def test_tell_to_handled(measure: Measure, mesh: Coordinator, sink: AgentRef, slo: Slo) -> None:
    async def messages(count: int) -> float:
        start = perf_counter()
        await tell_all(sink, count)
        return perf_counter() - start

    async def handled(count: int) -> LatencyRecorder:
        mesh.reset_latency()
        await tell_all(sink, count)
        return mesh.latency

    measure.throughput(messages, calls=CALLS)
    measure.latency("accepted to handled", handled, calls=TIMED_CALLS, slo=slo)


@pytest.mark.benchmark(group="tell to handled, 256 in flight")
def test_queue_put_and_get(measure: Measure) -> None:
    queue_put_and_get(measure)


def queue_put_and_get(measure: Measure) -> None:
    """The baseline."""

    async def messages(count: int) -> float:
        queue: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)

        async def produce() -> None:
            for item in range(count):
                await queue.put(item)

        async def consume() -> None:
            for _ in range(count):
                await queue.get()

        start = perf_counter()
        await asyncio.gather(produce(), consume())
        return perf_counter() - start

    async def waited(count: int) -> LatencyRecorder:
        queue: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)
        recorder = LatencyRecorder()

        async def produce() -> None:
            for _ in range(count):
                await queue.put(perf_counter_ns())

        async def consume() -> None:
            for _ in range(count):
                put_ns = await queue.get()
                recorder.record(perf_counter_ns() - put_ns)

        await asyncio.gather(produce(), consume())
        return recorder

    measure.throughput(messages, calls=CALLS)
    measure.latency("put() to got", waited, calls=TIMED_CALLS)


@pytest.mark.benchmark(group="send to handled, 256 in flight")
def test_send(measure: Measure, sink: AgentRef, slo: Slo) -> None:
    send = sink.send

    async def messages(count: int) -> float:
        start = perf_counter()
        for item in range(count):
            await send(item)
        await until_taken(sink)
        return perf_counter() - start

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for item in range(count):
            start = perf_counter_ns()
            await send(item)
            recorder.record(perf_counter_ns() - start)
        await until_taken(sink)
        return recorder

    measure.throughput(messages, calls=CALLS)
    measure.latency("await send()", calls, calls=TIMED_CALLS, slo=slo)


@pytest.mark.benchmark(group="send to handled, 256 in flight")
def test_send_beside_queue_put_and_get(measure: Measure) -> None:
    queue_put_and_get(measure)


# Asks: the answer of one is there before the client makes the next.


@pytest.mark.benchmark(group="ask, one at a time")
def test_ask_one_at_a_time(measure: Measure, sink: AgentRef, slo: Slo) -> None:
    ask = sink.ask

    async def asks(count: int) -> float:
        start = perf_counter()
        for item in range(count):
            await ask(item)
        return perf_counter() - start

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for item in range(count):
            start = perf_counter_ns()
            await ask(item)
            recorder.record(perf_counter_ns() - start)
        return recorder

    measure.throughput(asks, calls=ASKS)
    measure.latency("await ask()", calls, calls=TIMED_ASKS, slo=slo)


@pytest.mark.benchmark(group="ask, one at a time")
def test_queue_ping_pong(measure: Measure) -> None:
    async def asks(count: int) -> float:
        there: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)
        back: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)

        async def answer() -> None:
            for _ in range(count):
                await back.put(await there.get())

        async def client() -> None:
            for item in range(count):
                await there.put(item)
                await back.get()

        start = perf_counter()
        await asyncio.gather(answer(), client())
        return perf_counter() - start

    async def calls(count: int) -> LatencyRecorder:
        there: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)
        back: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)
        recorder = LatencyRecorder()

        async def answer() -> None:
            for _ in range(count):
                await back.put(await there.get())

        async def client() -> None:
            for item in range(count):
                start = perf_counter_ns()
                await there.put(item)
                await back.get()
                recorder.record(perf_counter_ns() - start)

        await asyncio.gather(answer(), client())
        return recorder

    measure.throughput(asks, calls=ASKS)
    measure.latency("put() to answer", calls, calls=TIMED_ASKS)


@pytest.mark.benchmark(group="ask, 100 at a time")
def test_ask_100_at_a_time(measure: Measure, sink: AgentRef, slo: Slo) -> None:
    ask = sink.ask

    async def asks(count: int) -> float:
        async def client() -> None:
            for item in range(count // CLIENTS):
                await ask(item)

        start = perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return perf_counter() - start

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()

        async def client() -> None:
            for item in range(count // CLIENTS):
                start = perf_counter_ns()
                await ask(item)
                recorder.record(perf_counter_ns() - start)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return recorder

    measure.throughput(asks, calls=ASKS)
    measure.latency("await ask()", calls, calls=TIMED_ASKS, slo=slo)


@pytest.mark.benchmark(group="ask, 100 at a time")
def test_queue_ping_pong_100_at_a_time(measure: Measure) -> None:
    """One queue to the answering task, which all clients share, and one back to each of them."""
    Back = asyncio.Queue[int]  # noqa: N806 - a type

    async def answer(there: asyncio.Queue[tuple[Back, int]], count: int) -> None:
        for _ in range(count):
            back, item = await there.get()
            await back.put(item)

    async def asks(count: int) -> float:
        there: asyncio.Queue[tuple[Back, int]] = asyncio.Queue(IN_FLIGHT)

        async def client() -> None:
            back: Back = asyncio.Queue(IN_FLIGHT)
            for item in range(count // CLIENTS):
                await there.put((back, item))
                await back.get()

        start = perf_counter()
        await asyncio.gather(answer(there, count), *(client() for _ in range(CLIENTS)))
        return perf_counter() - start

    async def calls(count: int) -> LatencyRecorder:
        there: asyncio.Queue[tuple[Back, int]] = asyncio.Queue(IN_FLIGHT)
        recorder = LatencyRecorder()

        async def client() -> None:
            back: Back = asyncio.Queue(IN_FLIGHT)
            for item in range(count // CLIENTS):
                start = perf_counter_ns()
                await there.put((back, item))
                await back.get()
                recorder.record(perf_counter_ns() - start)

        await asyncio.gather(answer(there, count), *(client() for _ in range(CLIENTS)))
        return recorder

    measure.throughput(asks, calls=ASKS)
    measure.latency("put() to answer", calls, calls=TIMED_ASKS)
