"""Ray: an actor is a process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import ray
from subjects import ASKERS, RING, SENDERS, Prepare, Work, require_count


@ray.remote(num_cpus=0)
class Sink:
    """A plain actor: its calls are run in the order they came, one at a time."""

    def __init__(self) -> None:
        self.handled = 0

    def take(self, item: int) -> int:
        self.handled += 1
        return item

    def count(self) -> int:
        handled, self.handled = self.handled, 0
        return handled


@ray.remote(num_cpus=0)
class Sender:
    def send(self, sink: Any, count: int) -> int:
        for item in range(count):
            sink.take.remote(item)
        # Calls of one caller keep their order, so these were all taken.
        return int(ray.get(sink.count.remote()))


@ray.remote(num_cpus=0)
class Hop:
    """Tells whoever waits by ending the call `arrived`, which runs in a thread of its own."""

    def link(self, following: Any, finish: Any) -> None:
        self.following, self.finish = following, finish

    def take(self, hops: int) -> None:
        if hops:
            self.following.take.remote(hops - 1)
        else:
            self.finish.set.remote()


@ray.remote(num_cpus=0)
class Finish:
    """An async actor: `wait` and `set` are under way together."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def set(self) -> None:
        self.event.set()

    async def wait(self) -> None:
        await self.event.wait()
        self.event.clear()


def tell() -> Work:
    sink = Sink.remote()
    ray.get(sink.count.remote())

    def work(count: int) -> float:
        start = perf_counter()
        for item in range(count):
            sink.take.remote(item)
        handled = ray.get(sink.count.remote())
        seconds = perf_counter() - start
        require_count(handled, count)
        return seconds

    return work


def ask() -> Work:
    sink = Sink.remote()

    def work(count: int) -> float:
        start = perf_counter()
        for item in range(count):
            ray.get(sink.take.remote(item))
        return perf_counter() - start

    return work


def ask100() -> Work:
    sink = Sink.remote()

    def work(count: int) -> float:
        start = perf_counter()
        for _ in range(count // ASKERS):
            ray.get([sink.take.remote(item) for item in range(ASKERS)])
        return perf_counter() - start

    return work


def fan_in() -> Work:
    sink, senders = Sink.remote(), [Sender.remote() for _ in range(SENDERS)]
    ray.get([sender.send.remote(sink, 1) for sender in senders])

    def work(count: int) -> float:
        start = perf_counter()
        handled = sum(ray.get([sender.send.remote(sink, count // SENDERS) for sender in senders]))
        handled += ray.get(sink.count.remote())
        seconds = perf_counter() - start
        require_count(handled, count)
        return seconds

    return work


def ring() -> Work:
    finish = Finish.remote()
    hops = [Hop.remote() for _ in range(RING)]
    links = zip(hops, hops[1:] + hops[:1], strict=True)
    ray.get([here.link.remote(following, finish) for here, following in links])

    def work(count: int) -> float:
        start = perf_counter()
        hops[0].take.remote(count)
        ray.get(finish.wait.remote())
        return perf_counter() - start

    return work


def spawn() -> Work:
    def work(count: int) -> float:
        start = perf_counter()
        made = [Sink.remote() for _ in range(count)]
        ray.get([sink.count.remote() for sink in made])
        seconds = perf_counter() - start
        for sink in made:
            ray.kill(sink)
        return seconds

    return work


def memory() -> Work:
    made: list[Any] = []

    def work(count: int) -> float:
        new = [Sink.remote() for _ in range(count)]
        ray.get([sink.count.remote() for sink in new])
        made.extend(new)
        return 0.0

    return work


def in_cluster(make: Callable[[], Work]) -> Prepare:
    @contextmanager
    def prepare() -> Iterator[Work]:
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=tempfile.gettempdir(),
        )
        try:
            yield make()
        finally:
            ray.shutdown()

    return prepare


WORK = {"ray": {make.__name__: in_cluster(make) for make in (tell, ask, ask100, fan_in, ring, spawn, memory)}}
