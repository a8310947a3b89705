"""Four threads that send into the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from judged import test_rate  # noqa: F401 - collected here
from workloads import Work, baseline, running_mesh, workload

from pmesh import MailboxPolicy

THREADS = 4

# Whole numbers of shares for the threads.
CALLS = 20_000


async def from_threads(pool: ThreadPoolExecutor, say: Callable[[int], object], calls: int) -> None:
    """Call `say` `calls` times, shared between the threads."""

    def share() -> None:
        for item in range(calls // THREADS):
            say(item)

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(pool, share) for _ in range(THREADS)))


@workload("threads: 4 tell one agent", calls=CALLS, beside="call_soon_threadsafe: 4 threads")
async def tell_from_threads() -> AsyncIterator[Work]:
    """How long a message waits is not judged: that is the interval at which the interpreter switches threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        async with running_mesh() as mesh:
            left = 0
            all_here = asyncio.Event()

            async def take(message: int) -> None:
                nonlocal left
                left -= 1
                if not left:
                    all_here.set()

            # None is refused, as the baseline's queue refuses none.
            ref = await mesh.spawn(take, mailbox=MailboxPolicy(capacity=1_000_000))

            async def messages(calls: int) -> float:
                nonlocal left
                left = calls
                all_here.clear()
                start = perf_counter()
                await from_threads(pool, ref.tell, calls)
                if ref.counters().rejected:
                    raise RuntimeError(
                        f"{ref.counters().rejected} messages were rejected; the mailbox must hold them all"
                    )
                await all_here.wait()
                return perf_counter() - start

            yield Work(messages)


@baseline("call_soon_threadsafe: 4 threads", calls=CALLS // 10)
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
