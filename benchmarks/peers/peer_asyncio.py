"""asyncio.Queue: the baseline that everybody has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from queue_work import all_of


def two_sided() -> tuple[Any, Callable[[range], None]]:
    """Without a bound: what waits for room, `run_coroutine_threadsafe`, takes a turn of the loop for every item."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[int] = asyncio.Queue()

    def put_all(items: range) -> None:
        call, put = loop.call_soon_threadsafe, queue.put_nowait
        for item in items:
            call(put, item)

    return queue, put_all


WORK = {"asyncio": all_of(asyncio.Queue, two_sided)}
