"""The registry of workloads: what the benchmarks time, each defined once, usable without pytest.

    async with WORKLOADS["tell: accepted"].prepare() as work:
        seconds = await work(calls)

The workloads themselves are in the `bench_*.py` files, one file per subject, each beside a baseline that does
the same work without pmesh; `load_all` imports them. How they are timed and judged is in `conftest.py`. Here
is also the one workload that all of them are held against, and what several of them need.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from pmesh import Agent, AgentRef, Coordinator, LatencyRecorder, MailboxPolicy, handler

__all__ = [
    "BASELINES",
    "IN_FLIGHT",
    "REFERENCE",
    "WORKLOADS",
    "Sink",
    "Work",
    "Workload",
    "baseline",
    "handled",
    "load_all",
    "running_mesh",
    "until_taken",
    "workload",
]

# Messages in flight: the capacity of a mailbox, of a queue, and of the coordinator's window.
IN_FLIGHT = 256


@dataclass(frozen=True, slots=True)
class Work:
    """A workload that is set up.

    Attributes:
        seconds: Does so many calls and returns the seconds that they took, without what had to be done around
            them; calling the Work itself does that too.
        latency: Does so many calls, each timed by itself, and returns the recorder with their times; None where
            single calls say nothing.
    """

    seconds: Callable[[int], Awaitable[float]]
    latency: Callable[[int], Awaitable[LatencyRecorder]] | None = None

    def __call__(self, calls: int) -> Awaitable[float]:
        return self.seconds(calls)


@dataclass(frozen=True, slots=True)
class Workload:
    """What a benchmark times.

    Attributes:
        name: "subject: what of it".
        calls: How many make a round of 5 to 20 ms.
        prepare: Sets up in the running loop, gives the `Work`, and cleans up.
        beside: The name of the baseline that does the same work; None where there is none.
        timed_calls: How many single calls are timed for the latency; 0 where it is not judged.
    """

    name: str
    calls: int
    prepare: Callable[[], AbstractAsyncContextManager[Work]]
    beside: str | None = None
    timed_calls: int = 0

    @property
    def subject(self) -> str:
        return self.name.partition(":")[0]


WORKLOADS: dict[str, Workload] = {}
BASELINES: dict[str, Workload] = {}

Prepare = Callable[[], AsyncIterator[Work]]


def workload(
    name: str, *, calls: int, beside: str | None = None, timed_calls: int = 0
) -> Callable[[Prepare], Callable[[], AbstractAsyncContextManager[Work]]]:
    """Register what is decorated, an async generator that yields its `Work` once."""
    return _register(WORKLOADS, name, calls, beside, timed_calls)


def baseline(name: str, *, calls: int) -> Callable[[Prepare], Callable[[], AbstractAsyncContextManager[Work]]]:
    """Register a workload without pmesh, that others stand beside."""
    return _register(BASELINES, name, calls, None, 0)


def _register(
    registry: dict[str, Workload], name: str, calls: int, beside: str | None, timed_calls: int
) -> Callable[[Prepare], Callable[[], AbstractAsyncContextManager[Work]]]:
    if name in WORKLOADS or name in BASELINES:
        raise ValueError(f"two workloads are called {name!r}; a name must be of one only")

    def decorate(prepare: Prepare) -> Callable[[], AbstractAsyncContextManager[Work]]:
        manager = contextlib.asynccontextmanager(prepare)
        registry[name] = Workload(name, calls, manager, beside, timed_calls)
        return manager

    return decorate


def load_all() -> dict[str, Workload]:
    """Import every `bench_*.py`, and return all workloads by name."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(path.stem)
    return WORKLOADS


# A fast machine is fast at this too: what is gated is a workload's rate divided by this one's in the same run.
REFERENCE = "asyncio.Queue: put and get"


@baseline(REFERENCE, calls=10_240)
async def queue_put_and_get() -> AsyncIterator[Work]:
    """`asyncio.Queue(256)` between one producer and one consumer task, with `await` on put and get."""

    async def items(calls: int) -> float:
        queue: asyncio.Queue[int] = asyncio.Queue(IN_FLIGHT)

        async def produce() -> None:
            for item in range(calls):
                await queue.put(item)

        async def consume() -> None:
            for _ in range(calls):
                await queue.get()

        start = perf_counter()
        await asyncio.gather(produce(), consume())
        return perf_counter() - start

    yield Work(items)


class Sink(Agent):
    """One async handler, which answers with its payload; as many messages waiting as the queue's items."""

    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    async def take(self, message: int) -> int:
        return message


@contextlib.asynccontextmanager
async def running_mesh(**options: Any) -> AsyncIterator[Coordinator]:
    """A coordinator; in the end its account must balance, and all mail be handled.

    Raises:
        RuntimeError: A message was lost, or ended in any other way: what was timed is not what was meant.
    """
    async with Coordinator("bench", **{"window": IN_FLIGHT, **options}) as mesh:
        yield mesh
    stats = mesh.stats()
    if stats.imbalance is not None or stats.handled != stats.accepted:
        raise RuntimeError(f"the account must balance, with all mail handled; it is {stats}")


async def until_taken(*refs: AgentRef) -> None:
    """Let the loop turn until no message waits in a mailbox of `refs`."""
    for ref in refs:
        while ref.depth:
            await asyncio.sleep(0)


def handled(mesh: Coordinator, ref: AgentRef, seconds: Callable[[int], Awaitable[float]]) -> Work:
    """The work whose latency is what the recorders of the class of `ref` saw, from accepted to handled."""

    async def latency(calls: int) -> LatencyRecorder:
        mesh.reset_latency()
        await seconds(calls)
        return mesh.latency_of(ref).latency.snapshot()

    return Work(seconds, latency)
