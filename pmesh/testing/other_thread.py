"""Another thread that makes one call while the calling one stands still, in microseconds."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["StuckError", "call_elsewhere"]


class StuckError(Exception):
    """The call has not returned in time; its thread is left to it."""


class _OtherThread:
    """Waits for calls; a thread pool wakes up three times for what this does in one."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._asked = threading.Lock()
        self._answered = threading.Lock()
        self._asked.acquire()
        self._answered.acquire()
        self._call: tuple[Callable[..., Any], tuple[Any, ...]] = (repr, ())
        self._result: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._serve, name="pmesh-simulated", daemon=True).start()

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], patience_seconds: float
    ) -> tuple[Any, BaseException | None]:
        """The result, or the error, of the call."""
        self._call = function, args
        self._asked.release()
        if not self._answered.acquire(timeout=patience_seconds):
            raise StuckError
        outcome = self._result, self._error
        self._result = self._error = None
        return outcome

    def _serve(self) -> None:
        while True:
            self._asked.acquire()
            function, args = self._call
            try:
                # As a thread of its own would: in an empty context.
                self._result = contextvars.Context().run(function, *args)
            except BaseException as error:  # noqa: BLE001 - the one who waits raises it
                self._error = error
            del function, args
            self._call = (repr, ())
            self._answered.release()


_free: list[_OtherThread] = []


def call_elsewhere(
    function: Callable[..., Any], args: tuple[Any, ...], patience_seconds: float
) -> tuple[Any, BaseException | None]:
    """What `function(*args)` returns in another thread, and what it raises there: only this thread's own errors, such
    as that of Ctrl-C, are raised here.

    Raises:
        StuckError: It has not returned after `patience_seconds`.
    """
    thread = _free.pop() if _free else None
    if thread is None or thread.process != os.getpid():  # threads do not survive a fork
        thread = _OtherThread()
    # Where this raises, as on Ctrl-C, the thread is busy and serves nobody else.
    outcome = thread.call(function, args, patience_seconds)
    _free.append(thread)
    return outcome
