"""SIGTERM and SIGINT begin a shutdown: who hears of them in an event loop, and how an `async with` block ends then.

The shutdown itself is in `shutdown.py`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import weakref
from typing import Any

from pmesh.errors import InvalidArgument
from pmesh.shutdown import Shutdown

__all__ = ["SignalledBlock"]

logger = logging.getLogger("pmesh")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalledBlock:
    """The `async with` block of one coordinator: a signal cancels what runs in it, and shuts the coordinator down.

    The block swallows that cancellation, and no other, as `asyncio.timeout` does.
    """

    def __init__(self, shutdown: Shutdown) -> None:
        self.shutdown = shutdown
        self._watch: Watch
        self._task: asyncio.Task[Any] | None = None  # that is in the block
        self._cancelling = 0  # cancellations of it that were under way when it entered
        self._cancelled = False
        self._left: asyncio.Future[None]
        shutdown.add_task("before-drain", "end of the async with block", self._until_left)

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear of signals from now on.

        Raises:
            InvalidArgument: Signals do not reach this loop, or have a handler already that could not be put back.
        """
        watch = _watches.get(loop)
        if watch is None:
            watch = Watch(loop)
            _watches[loop] = watch
        self._watch = watch
        watch.blocks.append(self)
        self._left = loop.create_future()
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()

    def interrupt(self, reason: str) -> None:
        """Begin the shutdown, and cancel what runs in the block unless it waits for the end anyway."""
        self.shutdown._begin(reason)
        task = self._task
        if task is not None and not self._cancelled and task not in self.shutdown._waiting:
            self._cancelled = task.cancel()

    def leave(self, error: BaseException | None) -> bool:
        """The block is left with `error`; whether that is the cancellation made here, and nobody else's."""
        task, self._task = self._task, None
        if not self._left.done():
            self._left.set_result(None)
        if not self._cancelled or task is None or task is not asyncio.current_task():
            return False
        return task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)

    async def _until_left(self) -> None:
        if self._cancelled:
            await self._left

    def end(self) -> None:
        """The shutdown is over: hear of no signals any more."""
        self._watch.remove(self)


class Watch:
    """Who is to hear of signals in one event loop, in order of entering, and what was there before.

    The first signal shuts down one coordinator after the other, newest first, as nested blocks are left; the second
    hastens all of them, and the one after that finds what was there before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._before: dict[signal.Signals, Any] = {}
        self._reason: str | None = None
        self.blocks: list[SignalledBlock] = []
        if threading.current_thread() is not threading.main_thread():
            raise InvalidArgument(
                f"signals is True in thread {threading.current_thread().name!r}, but Python hands signals to the main"
                " thread only; enter the coordinator there, or call its shutdown.run()"
            )
        found = {number: signal.getsignal(number) for number in SIGNALS}
        for number, before in found.items():
            if before is None or _is_of_a_loop(before):
                raise InvalidArgument(
                    f"signals is True, but {number.name} has the handler {before!r} already, which could not be put"
                    " back; remove it, or let it call shutdown.run()"
                )
        for number, before in found.items():
            try:
                loop.add_signal_handler(number, self._received, number)
            except NotImplementedError:
                self.restore()
                raise InvalidArgument(
                    f"signals is True, but {type(loop).__name__} has no signal handlers;"
                    " call shutdown.run() from what hears of the program's end here"
                ) from None
            self._before[number] = before

    def _received(self, number: signal.Signals) -> None:
        if self._reason is None:
            logger.info("%s: shutting down; a second signal hastens that", number.name)
            self._reason = number.name
            self._interrupt_next()
            return
        logger.warning("%s: a second signal, everything is ended at once", number.name)
        self.restore()
        for block in reversed(self.blocks):
            block.interrupt(self._reason)
            block.shutdown.hasten()

    def _interrupt_next(self) -> None:
        if self.blocks and self._reason is not None:
            self.blocks[-1].interrupt(self._reason)

    def remove(self, block: SignalledBlock) -> None:
        if block not in self.blocks:
            return
        self.blocks.remove(block)
        if not self.blocks:
            self.restore()
            _watches.pop(self._loop, None)
        self._interrupt_next()

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        before, self._before = self._before, {}
        if self._loop.is_closed():
            return  # that took its handlers with it
        for number, handler in before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, handler)


_watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = weakref.WeakKeyDictionary()


def _is_of_a_loop(handler: Any) -> bool:
    """Whether a loop's own `add_signal_handler` set it: what it calls cannot be found out."""
    return getattr(handler, "__module__", None) == "asyncio.unix_events" or isinstance(
        getattr(handler, "__self__", None), asyncio.AbstractEventLoop
    )
