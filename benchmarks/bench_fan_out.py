"""One sender and many receivers: an agent that deals work out to others in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, Sink, Work, baseline, handled, running_mesh, until_taken, workload

from pmesh import Agent, AgentRef, handler

# Whole numbers of turns for 10 and for 100 receivers.
CALLS = 20_000
TIMED_CALLS = 50_000


class Dealer(Agent):
    """Tells each of so many items to one receiver after the other."""

    def __init__(self, receivers: list[AgentRef]) -> None:
        self.tells = [receiver.tell for receiver in receivers]

    @handler
    async def deal(self, items: int) -> None:
        tells = self.tells
        # No more at a time than a mailbox holds for each of them.
        for first in range(0, items, IN_FLIGHT):
            for item in range(first, min(first + IN_FLIGHT, items)):
                tells[item % len(tells)](item)
            await asyncio.sleep(0)


async def dealt(receivers: int) -> AsyncIterator[Work]:
    async with running_mesh() as mesh:
        refs = [await mesh.spawn(Sink) for _ in range(receivers)]
        dealer = await mesh.spawn(Dealer, refs)

        async def items(calls: int) -> float:
            start = perf_counter()
            await dealer.ask(calls)
            await until_taken(*refs)
            return perf_counter() - start

        yield handled(mesh, refs[0], items)


async def put_in_turn(receivers: int) -> AsyncIterator[Work]:
    async def items(calls: int) -> float:
        queues: list[asyncio.Queue[int]] = [asyncio.Queue(IN_FLIGHT) for _ in range(receivers)]

        async def consume(queue: asyncio.Queue[int]) -> None:
            for _ in range(calls // receivers):
                await queue.get()

        async def produce() -> None:
            for first in range(0, calls, IN_FLIGHT):
                for item in range(first, min(first + IN_FLIGHT, calls)):
                    await queues[item % receivers].put(item)
                await asyncio.sleep(0)

        start = perf_counter()
        await asyncio.gather(produce(), *map(consume, queues))
        return perf_counter() - start

    yield Work(items)


@workload("fan-out: to 10 agents", calls=CALLS, beside="asyncio.Queue: one to 10", timed_calls=TIMED_CALLS)
def to_10() -> AsyncIterator[Work]:
    return dealt(10)


@baseline("asyncio.Queue: one to 10", calls=CALLS // 2)
def one_to_10() -> AsyncIterator[Work]:
    """One producer, ten queues, each with a consumer."""
    return put_in_turn(10)


@workload("fan-out: to 100 agents", calls=CALLS, beside="asyncio.Queue: one to 100", timed_calls=TIMED_CALLS)
def to_100() -> AsyncIterator[Work]:
    return dealt(100)


@baseline("asyncio.Queue: one to 100", calls=CALLS // 2)
def one_to_100() -> AsyncIterator[Work]:
    return put_in_turn(100)
