"""Four threads that send into the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from workloads import Work, baseline, handled, running_mesh, workload

from pmesh import Agent, MailboxPolicy, handler

THREADS = 4

# Whole numbers of shares for the threads.
CALLS = 10_000
TIMED_CALLS = 20_000


class Counting(Agent):
    """Says when as many messages as were asked for are there; none is refused, as the baseline's queue refuses none."""

    mailbox = MailboxPolicy(capacity=TIMED_CALLS)

    async def on_start(self) -> None:
        self.left = 0
        self.all_here = asyncio.Event()

    @handler
    def expect(self, count: str) -> None:
        self.left = int(count)
        self.all_here.clear()

    @handler
    def wait(self, here: asyncio.Event) -> None:
        self.all_here = here

    @handler
    async def take(self, message: int) -> None:
        self.left -= 1
        if not self.left:
            self.all_here.set()


async def from_threads(pool: ThreadPoolExecutor, say: Callable[[int], object], calls: int) -> None:
    """Call `say` `calls` times, shared between the threads."""

    def share() -> None:
        for item in range(calls // THREADS):
            say(item)

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(pool, share) for _ in range(THREADS)))


@workload("threads: 4 tell one agent", calls=CALLS, beside="call_soon_threadsafe: 4 threads", timed_calls=TIMED_CALLS)
async def tell_from_threads() -> AsyncIterator[Work]:
    with ThreadPoolExecutor(THREADS) as pool:
        async with running_mesh() as mesh:
            ref = await mesh.spawn(Counting)

            async def messages(calls: int) -> float:
                here = asyncio.Event()
                await ref.ask(here)
                await ref.ask(str(calls))
                start = perf_counter()
                await from_threads(pool, ref.tell, calls)
                await here.wait()
                return perf_counter() - start

            yield handled(mesh, messages)


@baseline("call_soon_threadsafe: 4 threads", calls=CALLS)
async def call_soon_threadsafe() -> AsyncIterator[Work]:
    """Each item by a callback of its own into a queue with one consumer."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(THREADS) as pool:

        async def items(calls: int) -> float:
            queue: asyncio.Queue[int] = asyncio.Queue()

            async def consume() -> None:
                for _ in range(calls):
                    await queue.get()

            start = perf_counter()
            consumer = asyncio.create_task(consume())
            await from_threads(pool, lambda item: loop.call_soon_threadsafe(queue.put_nowait, item), calls)
            await consumer
            return perf_counter() - start

        yield Work(items)
