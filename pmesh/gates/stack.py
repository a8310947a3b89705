"""Room on the interpreter's stack for what is measured.

CPython keeps the frames of Python functions in chunks of 16 KiB, maps the next chunk when a call does not fit, and
unmaps it when that call returns (`push_chunk` in `Python/pystate.c`). Where a chunk happens to end within what is
measured, every call pays for that: `asyncio.sleep(0)` then takes 10 to 40 us instead of 2.5, at 16 of 300 depths of the
stack (3.11, 3.12 and 3.13 alike), so that a plugin more or a wrapper less would look like a regression.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

__all__ = ["with_room"]


def _call(function: Callable[[], Any]) -> Any:
    return function()


# A frame of this many slots fits into no chunk that is begun, and gets one of 8,192 of its own: the size is doubled
# until 1,000 more are free. What is left are some 5,000, the frames of about 150 calls.
SLOTS = 3_200

# Calls a function with room behind it, and returns what it returns.
with_room: Callable[[Callable[[], Any]], Any] = types.FunctionType(
    _call.__code__.replace(co_stacksize=SLOTS), {}, "with_room"
)
