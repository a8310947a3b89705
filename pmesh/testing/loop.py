"""An asyncio event loop in virtual time.

Time stands still while there is anything to do, and jumps to the next timer when there is not. The
loop's `clock` is a virtual `pmesh.Clock` that shows the same time; `Coordinator(clock=loop.clock)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

from pmesh._core import Clock, timeout_seconds
from pmesh.errors import InvalidArgument

__all__ = ["HORIZON_SECONDS", "SECOND_NS", "START_NS", "Deadlock", "VirtualTimeLoop"]

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

SECOND_NS = 1_000_000_000

# Virtual time starts here rather than at 0, which could be taken for "no time".
START_NS = 1_000 * SECOND_NS

# A test that is busy for longer than this in virtual time goes round in circles.
HORIZON_SECONDS = 7 * 86_400.0

# Real seconds between two looks whether threads are still alive.
LOOK_SECONDS = 0.02

# Real seconds to wait for a thread that a test said it expects something of.
THREAD_PATIENCE_SECONDS = 30.0


class Deadlock(AssertionError):
    """Nothing is ready, nothing is scheduled, and no thread was announced that could change it."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A `SelectorEventLoop` whose time is virtual; it never sleeps.

    For `asyncio.Runner(loop_factory=VirtualTimeLoop)`. What it waits for must come from timers, from callbacks or from
    threads that it was told of: calls in an executor, `expect_calls_of`, `threads_at_work`.

    Args:
        horizon_seconds: Virtual seconds after which a program that is still busy goes round in circles.

    Attributes:
        clock: A virtual `Clock` that shows the loop's time, for `Coordinator(clock=)`.

    Raises:
        Deadlock: Out of `run_until_complete` and what calls it: nothing can happen any more, or the horizon is
            reached. The text lists the tasks.
    """

    # Until there is one, which must be closed: of one that is refused, nothing is left to close.
    _closed = True

    def __init__(self, *, horizon_seconds: float = HORIZON_SECONDS) -> None:
        self._horizon_ns = START_NS + round(timeout_seconds(horizon_seconds, "horizon_seconds") * SECOND_NS)
        self.clock = Clock(virtual=True)
        self._now_ns = START_NS
        self.clock.set_ns(START_NS)
        self._threads = 0
        self._expected: list[threading.Thread] = []
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_ns / SECOND_NS

    def advance(self, seconds: float) -> None:
        """Let time pass inside a callback, as code does that keeps the loop busy."""
        if not seconds >= 0:
            raise InvalidArgument(f"seconds is {seconds}; time passes forwards, by 0 or more seconds")
        self._now_ns += round(seconds * SECOND_NS)
        if self._now_ns > self._horizon_ns:
            busy_seconds = (self._horizon_ns - START_NS) / SECOND_NS
            raise Deadlock(f"still busy after {busy_seconds:g} virtual s (horizon_seconds); tasks:\n{self._tasks()}")
        self.clock.set_ns(self._now_ns)

    def expect_calls_of(self, threads: Iterable[threading.Thread]) -> None:
        """As long as one of `threads` lives it may call this loop: it waits for that, and no time passes."""
        self._expected.extend(threads)

    @contextlib.contextmanager
    def threads_at_work(self) -> Iterator[None]:
        """While inside, other threads may call this loop: it waits for them, and no time passes."""
        self._threads += 1
        try:
            yield
        finally:
            self._threads -= 1

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Arguments]], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        self._threads += 1
        try:
            future = super().run_in_executor(executor, func, *args)
        except BaseException:
            self._threads -= 1
            raise
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: Any) -> None:
        self._threads -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        with self.threads_at_work():
            await super().shutdown_default_executor(*args, **kwargs)

    def wait_for_events(self, selector: selectors.BaseSelector, timeout: float | None) -> Any:
        """What is ready; if nothing is, jump by `timeout` (None: nothing is scheduled)."""
        events = selector.select(0)
        if events or timeout == 0:
            return events
        # A thread can be half way through a call: the callback is queued, and the loop not yet woken.
        while not events and any(thread.is_alive() for thread in self._expected):
            events = selector.select(LOOK_SECONDS)
        events = events or selector.select(0)
        if events:
            return events
        if self._threads:
            events = selector.select(THREAD_PATIENCE_SECONDS)
            if not events:
                raise Deadlock(
                    f"no thread called the loop for {THREAD_PATIENCE_SECONDS:g} real seconds; tasks:\n{self._tasks()}"
                )
        elif timeout is None:
            # Without the loop's own pipe, by which threads wake it up.
            files = len(selector.get_map()) - 1
            watched = (
                f"; sockets, pipes or processes that it waits for ({files}) go by the real time: threads_at_work() says"
                " that one will answer"
                if files > 0
                else "; a thread or process of the program's own that should call the loop must be announced: in a"
                " simulation in_thread() makes its call, and threads_at_work() waits for any"
            )
            raise Deadlock(f"nothing is ready and nothing is scheduled{watched}; tasks:\n{self._tasks()}")
        else:
            self.advance(max(timeout, 1 / SECOND_NS))
        return events

    def _tasks(self) -> str:
        return "\n".join(f"  {task!r}" for task in asyncio.all_tasks(self)) or "  (none)"


class _JumpingSelector(selectors.BaseSelector):
    """Hands every wait to the loop, the rest to a real selector."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> Any:
        return self._loop.wait_for_events(self._real, timeout)

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> Any:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Any:
        return self._real.get_map()
