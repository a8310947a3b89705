"""Spawning and stopping agents, beside starting and ending an asyncio Task that waits on a queue of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter, perf_counter_ns

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, Sink, Work, baseline, running_mesh, workload

from pmesh import LatencyRecorder

CALLS = 1_000
TIMED_CALLS = 10_000


@workload("spawn: one agent", calls=2 * CALLS, beside="asyncio: create_task", timed_calls=TIMED_CALLS)
async def spawn_one() -> AsyncIterator[Work]:
    """`await spawn` of a class with one handler; stopping is not timed."""
    async with running_mesh() as mesh:

        async def spawns(calls: int) -> float:
            start = perf_counter()
            refs = [await mesh.spawn(Sink) for _ in range(calls)]
            seconds = perf_counter() - start
            for ref in refs:
                await mesh.stop(ref)
            return seconds

        async def single(calls: int) -> LatencyRecorder:
            recorder = LatencyRecorder()
            refs = []
            for _ in range(calls):
                start = perf_counter_ns()
                ref = await mesh.spawn(Sink)
                recorder.record(perf_counter_ns() - start)
                refs.append(ref)
            for ref in refs:
                await mesh.stop(ref)
            return recorder

        yield Work(spawns, single)


@workload("spawn: and stop", calls=CALLS, beside="asyncio: create_task and cancel", timed_calls=TIMED_CALLS)
async def spawn_and_stop() -> AsyncIterator[Work]:
    """One agent after the other lives and ends, idle."""
    async with running_mesh() as mesh:

        async def lives(calls: int) -> float:
            start = perf_counter()
            for _ in range(calls):
                await mesh.stop(await mesh.spawn(Sink))
            return perf_counter() - start

        async def single(calls: int) -> LatencyRecorder:
            recorder = LatencyRecorder()
            for _ in range(calls):
                start = perf_counter_ns()
                await mesh.stop(await mesh.spawn(Sink))
                recorder.record(perf_counter_ns() - start)
            return recorder

        yield Work(lives, single)


async def idle(queue: asyncio.Queue[int]) -> None:
    while True:
        await queue.get()


@baseline("asyncio: create_task", calls=CALLS)
async def create_tasks() -> AsyncIterator[Work]:
    async def tasks(calls: int) -> float:
        start = perf_counter()
        made = [asyncio.create_task(idle(asyncio.Queue(IN_FLIGHT))) for _ in range(calls)]
        await asyncio.sleep(0)  # all of them run up to their wait
        seconds = perf_counter() - start
        for task in made:
            task.cancel()
        await asyncio.gather(*made, return_exceptions=True)
        return seconds

    yield Work(tasks)


@baseline("asyncio: create_task and cancel", calls=CALLS // 2)
async def create_and_cancel() -> AsyncIterator[Work]:
    async def lives(calls: int) -> float:
        start = perf_counter()
        for _ in range(calls):
            task = asyncio.create_task(idle(asyncio.Queue(IN_FLIGHT)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        return perf_counter() - start

    yield Work(lives)
