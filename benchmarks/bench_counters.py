"""Reading the account: of one agent, of all agents, and as what a scrape of the mesh would read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import perf_counter

from judged import test_rate  # noqa: F401 - collected here
from workloads import Sink, Work, running_mesh, workload

AGENTS = 100


@workload("counters: of one agent", calls=100_000)
async def of_one_agent() -> AsyncIterator[Work]:
    async with running_mesh() as mesh:
        sink = await mesh.spawn(Sink)
        sink.tell(1)

        async def readings(calls: int) -> float:
            start = perf_counter()
            for _ in range(calls):
                sink.counters()
            return perf_counter() - start

        yield Work(readings)


@workload("counters: stats of 100 agents", calls=500)
async def stats_of_100_agents() -> AsyncIterator[Work]:
    """With the percentiles of the agents' class, which each has handled a message."""
    async with running_mesh() as mesh:
        for number in range(AGENTS):
            await (await mesh.spawn(Sink)).ask(number)

        async def readings(calls: int) -> float:
            start = perf_counter()
            for _ in range(calls):
                mesh.stats()
            return perf_counter() - start

        yield Work(readings)
