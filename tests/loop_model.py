"""What an asyncio loop does across threads: its callbacks, what wakes its selector, and its closing.

As in `asyncio.base_events` and `asyncio.selector_events`; beside it a task in that loop, as a script.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from schedules import Steps, Wait

__all__ = ["LoopClosed", "LoopModel"]


class LoopClosed(RuntimeError):
    """What `call_soon` and `call_soon_threadsafe` raise on a closed loop."""


class LoopModel:
    """One event loop, run by the thread that `run_forever` is."""

    def __init__(self) -> None:
        self.callbacks: deque[Callable[[], Steps]] = deque()
        self.self_pipe = 0  # bytes that wake the selector
        self.loop_closed = False
        self.script: list[Callable[[], Steps]] = []  # what a task in the loop does

    def later(self, function: Callable[..., Steps], *args: Any) -> Callable[[], Steps]:
        """A callback, named for `state`."""

        def callback() -> Steps:
            return function(*args)

        callback.__qualname__ = " ".join([function.__name__, *(str(getattr(arg, "name", arg)) for arg in args)])
        return callback

    def call_soon(self, callback: Callable[[], Steps]) -> Steps:
        yield "loop.call_soon"
        if self.loop_closed:
            raise LoopClosed("Event loop is closed")
        self.callbacks.append(callback)

    def call_soon_threadsafe(self, callback: Callable[[], Steps]) -> Steps:
        yield "loop.call_soon_threadsafe: closed?"
        if self.loop_closed:
            raise LoopClosed("Event loop is closed")
        yield "loop.call_soon_threadsafe: append"
        self.callbacks.append(callback)
        yield "loop.call_soon_threadsafe: wake the selector"
        self.self_pipe += 1

    def run_forever(self) -> Steps:
        while not self.loop_closed:
            yield "loop: anything to call?"
            if not self.callbacks:
                yield Wait("loop: select", lambda: self.self_pipe > 0)
            self.self_pipe = 0
            count = len(self.callbacks)
            for _turn in range(count):
                if self.loop_closed:
                    break
                callback = self.callbacks.popleft()
                yield from callback()

    def close_loop(self) -> Steps:
        yield "loop.close"
        self.loop_closed = True
        self.callbacks.clear()

    def act(self, number: int) -> Steps:
        """What a task in the loop does in one turn; its next action comes a turn later."""
        yield from self.script[number]()
        if number + 1 < len(self.script) and not self.loop_closed:
            self.callbacks.append(self.later(self.act, number + 1))
