"""The subjects done with queues between tasks, for every library whose queue has asyncio's `put` and `get`.

A queue has no agents: what people write instead is a task that loops around a queue of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from subjects import ASKERS, IN_FLIGHT, RING, SENDERS, Prepare, Work

MakeQueue = Callable[[int], Any]  # of at most so many items; its asynchronous side
MakeTwoSided = Callable[[], tuple[Any, Callable[[range], None]]]  # that side, and what a thread calls to put items


async def end_all(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def take(queue: Any, count: int) -> None:
    get = queue.get
    for _ in range(count):
        await get()


async def give(queue: Any, count: int) -> None:
    put = queue.put
    for item in range(count):
        await put(item)


@asynccontextmanager
async def tell(make: MakeQueue) -> AsyncIterator[Work]:
    queue = make(IN_FLIGHT)

    async def work(count: int) -> float:
        start = perf_counter()
        await asyncio.gather(give(queue, count), take(queue, count))
        return perf_counter() - start

    yield work


@asynccontextmanager
async def fan_in(make: MakeQueue) -> AsyncIterator[Work]:
    queue = make(IN_FLIGHT)

    async def work(count: int) -> float:
        start = perf_counter()
        await asyncio.gather(take(queue, count), *(give(queue, count // SENDERS) for _ in range(SENDERS)))
        return perf_counter() - start

    yield work


@asynccontextmanager
async def ask(make: MakeQueue) -> AsyncIterator[Work]:
    there, back = make(IN_FLIGHT), make(IN_FLIGHT)

    async def answer() -> None:
        while True:
            await back.put(await there.get())

    async def work(count: int) -> float:
        put, get = there.put, back.get
        start = perf_counter()
        for item in range(count):
            await put(item)
            await get()
        return perf_counter() - start

    answering = asyncio.create_task(answer())
    yield work
    await end_all([answering])


@asynccontextmanager
async def ask100(make: MakeQueue) -> AsyncIterator[Work]:
    there = make(IN_FLIGHT)

    async def answer() -> None:
        while True:
            back, item = await there.get()
            await back.put(item)

    async def client(count: int) -> None:
        back = make(IN_FLIGHT)
        for item in range(count):
            await there.put((back, item))
            await back.get()

    async def work(count: int) -> float:
        start = perf_counter()
        await asyncio.gather(*(client(count // ASKERS) for _ in range(ASKERS)))
        return perf_counter() - start

    answering = asyncio.create_task(answer())
    yield work
    await end_all([answering])


@asynccontextmanager
async def ring(make: MakeQueue) -> AsyncIterator[Work]:
    queues = [make(IN_FLIGHT) for _ in range(RING)]
    arrived = asyncio.Event()

    async def pass_on(own: Any, following: Any) -> None:
        while True:
            hops = await own.get()
            if hops:
                await following.put(hops - 1)
            else:
                arrived.set()

    async def work(count: int) -> float:
        arrived.clear()
        start = perf_counter()
        await queues[0].put(count)
        await arrived.wait()
        return perf_counter() - start

    tasks = [asyncio.create_task(pass_on(*pair)) for pair in zip(queues, queues[1:] + queues[:1], strict=True)]
    yield work
    await end_all(tasks)


async def idle(queue: Any) -> None:
    while True:
        await queue.get()


@asynccontextmanager
async def spawn(make: MakeQueue) -> AsyncIterator[Work]:
    async def work(count: int) -> float:
        start = perf_counter()
        tasks = [asyncio.create_task(idle(make(IN_FLIGHT))) for _ in range(count)]
        await asyncio.sleep(0)
        seconds = perf_counter() - start
        await end_all(tasks)
        return seconds

    yield work


@asynccontextmanager
async def memory(make: MakeQueue) -> AsyncIterator[Work]:
    tasks: list[asyncio.Task[None]] = []

    async def work(count: int) -> float:
        tasks.extend(asyncio.create_task(idle(make(IN_FLIGHT))) for _ in range(count))
        await asyncio.sleep(0)
        return 0.0

    yield work


@asynccontextmanager
async def threads(make_two_sided: MakeTwoSided) -> AsyncIterator[Work]:
    queue, put_all = make_two_sided()

    async def work(count: int) -> float:
        thread = threading.Thread(target=put_all, args=(range(count),))
        start = perf_counter()
        thread.start()
        await take(queue, count)
        seconds = perf_counter() - start
        await asyncio.to_thread(thread.join)
        return seconds

    yield work


def all_of(make: MakeQueue, make_two_sided: MakeTwoSided) -> dict[str, Prepare]:
    """Every subject with the queues that `make` makes, and `make_two_sided` for the one between a thread and a task."""
    return {
        "tell": lambda: tell(make),
        "ask": lambda: ask(make),
        "ask100": lambda: ask100(make),
        "fan_in": lambda: fan_in(make),
        "ring": lambda: ring(make),
        "threads": lambda: threads(make_two_sided),
        "spawn": lambda: spawn(make),
        "memory": lambda: memory(make),
    }
