"""`await ask`: one at a time, when the answer is there before the next ask, and 100 at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter, perf_counter_ns

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, Sink, Work, baseline, running_mesh, workload

from pmesh import LatencyRecorder

CLIENTS = 100

# Whole numbers of shares for the clients.
ASKS = 10_000
TIMED_ASKS = 20_000
ROUND_TRIPS = 1_000


@workload("ask: one at a time", calls=ASKS, beside="asyncio.Queue: ping-pong", timed_calls=TIMED_ASKS)
async def one_at_a_time() -> AsyncIterator[Work]:
    async with running_mesh() as mesh:
        ask = (await mesh.spawn(Sink)).ask

        async def asks(calls: int) -> float:
            start = perf_counter()
            for item in range(calls):
                await ask(item)
            return perf_counter() - start

        async def single(calls: int) -> LatencyRecorder:
            recorder = LatencyRecorder()
            for item in range(calls):
                start = perf_counter_ns()
                await ask(item)
                recorder.record(perf_counter_ns() - start)
            return recorder

        yield Work(asks, single)


@baseline("asyncio.Queue: ping-pong", calls=ROUND_TRIPS)
async def ping_pong() -> AsyncIterator[Work]:
    """Two queues, one there and one back."""

    async def round_trips(calls: int) -> float:
        there: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)
        back: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)

        async def answer() -> None:
            for _ in range(calls):
                await back.put(await there.get())

        async def client() -> None:
            for item in range(calls):
                await there.put(item)
                await back.get()

        start = perf_counter()
        await asyncio.gather(answer(), client())
        return perf_counter() - start

    yield Work(round_trips)


@workload("ask: 100 at a time", calls=ASKS, beside="asyncio.Queue: 100 ping-pongs", timed_calls=TIMED_ASKS)
async def hundred_at_a_time() -> AsyncIterator[Work]:
    """100 clients, each with one ask in flight."""
    async with running_mesh() as mesh:
        ask = (await mesh.spawn(Sink)).ask

        async def asks(calls: int) -> float:
            async def client() -> None:
                for item in range(calls // CLIENTS):
                    await ask(item)

            start = perf_counter()
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            return perf_counter() - start

        async def single(calls: int) -> LatencyRecorder:
            recorder = LatencyRecorder()

            async def client() -> None:
                for item in range(calls // CLIENTS):
                    start = perf_counter_ns()
                    await ask(item)
                    recorder.record(perf_counter_ns() - start)

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            return recorder

        yield Work(asks, single)


@baseline("asyncio.Queue: 100 ping-pongs", calls=2 * ROUND_TRIPS)
async def hundred_ping_pongs() -> AsyncIterator[Work]:
    """One queue to the answering task, which all clients share, and one back to each of them."""
    Back = asyncio.Queue[int]  # noqa: N806 - a type

    async def round_trips(calls: int) -> float:
        there: asyncio.Queue[tuple[Back, int]] = asyncio.Queue(IN_FLIGHT)

        async def answer() -> None:
            for _ in range(calls):
                back, item = await there.get()
                await back.put(item)

        async def client() -> None:
            back: Back = asyncio.Queue(IN_FLIGHT)
            for item in range(calls // CLIENTS):
                await there.put((back, item))
                await back.get()

        start = perf_counter()
        await asyncio.gather(answer(), *(client() for _ in range(CLIENTS)))
        return perf_counter() - start

    yield Work(round_trips)
