"""The same payload to each of 100 agents, by a loop of `tell`; a call is one delivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, Work, baseline, handled, running_mesh, until_taken, workload

from pmesh import Agent, MailboxPolicy, handler

RECEIVERS = 100

# Whole numbers of broadcasts.
CALLS = 20_000
TIMED_CALLS = 50_000

PAYLOAD = {"topic": "prices", "body": "x" * 1_000}


class Listener(Agent):
    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    async def take(self, message: dict) -> None:
        pass


@workload("broadcast: to 100 agents", calls=CALLS, beside="asyncio.Queue: the same to 100", timed_calls=TIMED_CALLS)
async def to_100_agents() -> AsyncIterator[Work]:
    """One broadcast after the other; all have handled one before the next is made."""
    async with running_mesh() as mesh:
        refs = [await mesh.spawn(Listener) for _ in range(RECEIVERS)]

        async def deliveries(calls: int) -> float:
            start = perf_counter()
            for _ in range(calls // RECEIVERS):
                for ref in refs:
                    ref.tell(PAYLOAD)
                await until_taken(*refs)
            return perf_counter() - start

        yield handled(mesh, refs[0], deliveries)


@baseline("asyncio.Queue: the same to 100", calls=CALLS // 4)
async def queues() -> AsyncIterator[Work]:
    """A queue and a consumer for each; `task_done` and `join` tell that all have it."""
    waiting: list[asyncio.Queue[dict]] = [asyncio.Queue(IN_FLIGHT) for _ in range(RECEIVERS)]

    async def consume(queue: asyncio.Queue[dict]) -> None:
        while True:
            await queue.get()
            queue.task_done()

    async def deliveries(calls: int) -> float:
        start = perf_counter()
        for _ in range(calls // RECEIVERS):
            for queue in waiting:
                queue.put_nowait(PAYLOAD)
            for queue in waiting:
                await queue.join()
        return perf_counter() - start

    consumers = [asyncio.create_task(consume(queue)) for queue in waiting]
    yield Work(deliveries)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
