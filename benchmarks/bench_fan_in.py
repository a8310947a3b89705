"""Many senders and one receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, Sink, Work, baseline, handled, running_mesh, until_taken, workload

SENDERS = 10

# Whole numbers of shares for the senders.
CALLS = 20_000
TIMED_CALLS = 50_000


@workload("fan-in: of 10 senders", calls=CALLS, beside="asyncio.Queue: 10 to one", timed_calls=TIMED_CALLS)
async def of_10_senders() -> AsyncIterator[Work]:
    """Ten tasks send to one agent, and wait for room."""
    async with running_mesh() as mesh:
        sink = await mesh.spawn(Sink)

        async def messages(calls: int) -> float:
            async def sender() -> None:
                for item in range(calls // SENDERS):
                    await sink.send(item)

            start = perf_counter()
            await asyncio.gather(*(sender() for _ in range(SENDERS)))
            await until_taken(sink)
            return perf_counter() - start

        yield handled(mesh, sink, messages)


@baseline("asyncio.Queue: 10 to one", calls=CALLS // 2)
async def ten_to_one() -> AsyncIterator[Work]:
    async def items(calls: int) -> float:
        queue: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)

        async def produce() -> None:
            for item in range(calls // SENDERS):
                await queue.put(item)

        async def consume() -> None:
            for _ in range(calls):
                await queue.get()

        start = perf_counter()
        await asyncio.gather(consume(), *(produce() for _ in range(SENDERS)))
        return perf_counter() - start

    yield Work(items)
