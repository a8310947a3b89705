"""The compiled mailbox by itself: offer, poll, and the account of both."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from time import perf_counter, perf_counter_ns

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import IN_FLIGHT, Work, baseline, workload

from pmesh import LatencyRecorder
from pmesh._core import Mailbox

# Whole numbers of bursts.
CALLS = 200 * IN_FLIGHT
TIMED_CALLS = 200 * IN_FLIGHT


def empty(mailbox: Mailbox) -> None:
    while mailbox.poll() is not None:
        mailbox.finish("handled")


@workload("mailbox: offer", calls=CALLS, beside="deque: append", timed_calls=TIMED_CALLS)
async def offer() -> AsyncIterator[Work]:
    """A burst that fills the mailbox; emptying it is not timed."""
    mailbox = Mailbox(IN_FLIGHT)
    take = mailbox.offer

    async def bursts(calls: int) -> float:
        seconds = 0.0
        for _ in range(calls // IN_FLIGHT):
            start = perf_counter()
            for item in range(IN_FLIGHT):
                take(item)
            seconds += perf_counter() - start
            empty(mailbox)
        return seconds

    async def single(calls: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for _ in range(calls // IN_FLIGHT):
            for item in range(IN_FLIGHT):
                start = perf_counter_ns()
                take(item)
                recorder.record(perf_counter_ns() - start)
            empty(mailbox)
        return recorder

    yield Work(bursts, single)
    if mailbox.counters().imbalance is not None or mailbox.counters().rejected:
        raise RuntimeError(f"every offer must be accepted and taken; the account is {mailbox.counters()}")


@baseline("deque: append", calls=CALLS)
async def append() -> AsyncIterator[Work]:
    queue: deque[int] = deque()

    async def bursts(calls: int) -> float:
        seconds = 0.0
        for _ in range(calls // IN_FLIGHT):
            start = perf_counter()
            for item in range(IN_FLIGHT):
                queue.append(item)
            seconds += perf_counter() - start
            queue.clear()
        return seconds

    yield Work(bursts)


@workload("mailbox: offer, poll and finish", calls=CALLS, beside="asyncio.Queue: put_nowait and get_nowait")
async def offer_and_poll() -> AsyncIterator[Work]:
    """One message at a time, all the way through the account."""
    mailbox = Mailbox(IN_FLIGHT)
    take, poll, finish = mailbox.offer, mailbox.poll, mailbox.finish

    async def messages(calls: int) -> float:
        start = perf_counter()
        for item in range(calls):
            take(item)
            poll()
            finish("handled")
        return perf_counter() - start

    yield Work(messages)


@baseline("asyncio.Queue: put_nowait and get_nowait", calls=CALLS // 2)
async def put_and_get_nowait() -> AsyncIterator[Work]:
    queue: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)

    async def items(calls: int) -> float:
        start = perf_counter()
        for item in range(calls):
            queue.put_nowait(item)
            queue.get_nowait()
        return perf_counter() - start

    yield Work(items)
