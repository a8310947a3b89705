"""`await send`, which waits for room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import perf_counter, perf_counter_ns

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, REFERENCE, Sink, Work, running_mesh, until_taken, workload

from pmesh import LatencyRecorder


@workload("send: to handled", calls=100 * IN_FLIGHT, beside=REFERENCE, timed_calls=200 * IN_FLIGHT)
async def to_handled() -> AsyncIterator[Work]:
    """One sender, 256 in flight; the latency is that of `await send` alone."""
    async with running_mesh() as mesh:
        sink = await mesh.spawn(Sink)
        send = sink.send

        async def messages(calls: int) -> float:
            start = perf_counter()
            for item in range(calls):
                await send(item)
            await until_taken(sink)
            return perf_counter() - start

        async def single(calls: int) -> LatencyRecorder:
            recorder = LatencyRecorder()
            for item in range(calls):
                start = perf_counter_ns()
                await send(item)
                recorder.record(perf_counter_ns() - start)
            await until_taken(sink)
            return recorder

        yield Work(messages, single)
