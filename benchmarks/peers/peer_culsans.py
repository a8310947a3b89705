"""culsans: the asynchronous side between tasks, the synchronous side from a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import culsans
from queue_work import all_of
from subjects import IN_FLIGHT


def two_sided() -> tuple[Any, Callable[[range], None]]:
    queue: culsans.Queue[int] = culsans.Queue(IN_FLIGHT)

    def put_all(items: range) -> None:
        put = queue.sync_q.put
        for item in items:
            put(item)

    return queue.async_q, put_all


WORK = {"culsans": all_of(lambda size: culsans.Queue(size).async_q, two_sided)}
