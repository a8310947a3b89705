"""Spawning an agent beside starting an asyncio Task that waits on an `asyncio.Queue(256)`."""

from __future__ import annotations

import asyncio
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING

import pytest

from pmesh import Agent, Coordinator, LatencyRecorder, handler

if TYPE_CHECKING:
    from conftest import Measure, Slo

SPAWNS = 1_000
TIMED_SPAWNS = 10_000


class Idle(Agent):
    @handler
    async def take(self, message: int) -> None:
        pass


@pytest.mark.benchmark(group="spawn")
def test_spawn(measure: Measure, mesh: Coordinator, slo: Slo) -> None:
    spawn = mesh.spawn

    async def stop_all() -> None:
        for name in mesh.agents:
            await mesh.stop(name)

    async def agents(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            await spawn(Idle)
        seconds = perf_counter() - start
        await stop_all()
        return seconds

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for _ in range(count):
            start = perf_counter_ns()
            await spawn(Idle)
            recorder.record(perf_counter_ns() - start)
        await stop_all()
        return recorder

    measure.throughput(agents, calls=SPAWNS)
    measure.latency("await spawn()", calls, calls=TIMED_SPAWNS, slo=slo)


async def idle(queue: asyncio.Queue[int]) -> None:
    while True:
        await queue.get()


@pytest.mark.benchmark(group="spawn")
def test_create_task(measure: Measure) -> None:
    async def end_all(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def tasks(count: int) -> float:
        made = []
        start = perf_counter()
        for _ in range(count):
            made.append(asyncio.create_task(idle(asyncio.Queue(256))))  # noqa: PERF401 - as spawn is
        await asyncio.sleep(0)  # all of them run up to their wait
        seconds = perf_counter() - start
        await end_all(made)
        return seconds

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        made = []
        for _ in range(count):
            start = perf_counter_ns()
            task = asyncio.create_task(idle(asyncio.Queue(256)))
            recorder.record(perf_counter_ns() - start)
            made.append(task)
        await asyncio.sleep(0)
        await end_all(made)
        return recorder

    measure.throughput(tasks, calls=SPAWNS)
    measure.latency("create_task()", calls, calls=TIMED_SPAWNS)
