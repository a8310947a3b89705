"""janus: the asynchronous side between tasks, the synchronous side from a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import janus
from queue_work import all_of
from subjects import IN_FLIGHT


def two_sided() -> tuple[Any, Callable[[range], None]]:
    queue: janus.Queue[int] = janus.Queue(IN_FLIGHT)

    def put_all(items: range) -> None:
        put = queue.sync_q.put
        for item in items:
            put(item)

    return queue.async_q, put_all


WORK = {"janus": all_of(lambda size: janus.Queue(size).async_q, two_sided)}
