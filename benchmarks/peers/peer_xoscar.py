"""xoscar: actors in a pool without sub-processes, so that all are in this process and loop.

Two entries. `create_actor` gives a reference that goes through the pool's server, in-process; that is the one its guide
uses throughout. `xo.actor_ref` gives, in the pool's own process, a reference that calls the actor in place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import xoscar
from subjects import ASKERS, RING, SENDERS, Prepare, Work


class Sink(xoscar.Actor):
    def __init__(self) -> None:
        self.left = 0
        self.reached = asyncio.Event()

    async def expect(self, count: int) -> None:
        self.left = count
        self.reached.clear()

    async def take(self, item: int) -> int:
        self.left -= 1
        if not self.left:
            self.reached.set()
        return item

    @xoscar.no_lock
    async def wait(self) -> None:
        await self.reached.wait()


class Hop(xoscar.Actor):
    async def link(self, following: Any, arrived: asyncio.Event) -> None:
        self.following, self.arrived = following, arrived

    async def take(self, hops: int) -> None:
        if hops:
            await self.following.take.tell(hops - 1)
        else:
            self.arrived.set()


Start = Callable[[type[xoscar.Actor], str], Awaitable[Any]]


async def tell_all(sink: Any, count: int) -> None:
    give = sink.take.tell
    for item in range(count):
        await give(item)


async def tell(start_actor: Start) -> Work:
    sink = await start_actor(Sink, "sink")

    async def work(count: int) -> float:
        await sink.expect(count)
        start = perf_counter()
        await tell_all(sink, count)
        await sink.wait()
        return perf_counter() - start

    return work


async def fan_in(start_actor: Start) -> Work:
    sink = await start_actor(Sink, "sink")

    async def work(count: int) -> float:
        await sink.expect(count)
        start = perf_counter()
        await asyncio.gather(*(tell_all(sink, count // SENDERS) for _ in range(SENDERS)))
        await sink.wait()
        return perf_counter() - start

    return work


async def ask(start_actor: Start) -> Work:
    sink = await start_actor(Sink, "sink")

    async def work(count: int) -> float:
        take = sink.take
        start = perf_counter()
        for item in range(count):
            await take(item)
        return perf_counter() - start

    return work


async def ask100(start_actor: Start) -> Work:
    sink = await start_actor(Sink, "sink")

    async def client(count: int) -> None:
        for item in range(count):
            await sink.take(item)

    async def work(count: int) -> float:
        start = perf_counter()
        await asyncio.gather(*(client(count // ASKERS) for _ in range(ASKERS)))
        return perf_counter() - start

    return work


async def ring(start_actor: Start) -> Work:
    arrived = asyncio.Event()
    refs = [await start_actor(Hop, f"hop {number}") for number in range(RING)]
    for here, following in zip(refs, refs[1:] + refs[:1], strict=True):
        await here.link(following, arrived)

    async def work(count: int) -> float:
        arrived.clear()
        start = perf_counter()
        await refs[0].take.tell(count)
        await arrived.wait()
        return perf_counter() - start

    return work


async def spawn(start_actor: Start) -> Work:
    async def work(count: int) -> float:
        start = perf_counter()
        refs = [await start_actor(Sink, f"sink {number}") for number in range(count)]
        seconds = perf_counter() - start
        for ref in refs:
            await xoscar.destroy_actor(ref)
        return seconds

    return work


async def memory(start_actor: Start) -> Work:
    made = 0

    async def work(count: int) -> float:
        nonlocal made
        for _ in range(count):
            made += 1
            await start_actor(Sink, f"sink {made}")
        return 0.0

    return work


def in_pool(make: Callable[[Start], Awaitable[Work]], *, local: bool) -> Prepare:
    @asynccontextmanager
    async def prepare() -> AsyncIterator[Work]:
        pool = await xoscar.create_actor_pool("127.0.0.1", n_process=0)
        address = pool.external_address

        async def start_actor(kind: type[xoscar.Actor], uid: str) -> Any:
            ref = await xoscar.create_actor(kind, address=address, uid=uid)
            return await xoscar.actor_ref(address=address, uid=uid) if local else ref

        try:
            yield await make(start_actor)
        finally:
            await pool.stop()

    return prepare


WORKS = (tell, ask, ask100, fan_in, ring, spawn, memory)
WORK = {
    "xoscar": {make.__name__: in_pool(make, local=False) for make in WORKS},
    "xoscar-local": {make.__name__: in_pool(make, local=True) for make in WORKS},
}
