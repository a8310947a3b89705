"""Handlers that take too long: those that wait, and those that keep the event loop to themselves.

The first kind is found by the core, in the loop; the second cannot be, since nothing else runs there meanwhile, and a
thread looks for it.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pmesh._core import Dispatcher, InHand
from pmesh.stacks import HIDDEN, blocked_frames, frames_text, may_look, suspended_frames, wait_text
from pmesh.units import duration_text
from pmesh.values import Value

if TYPE_CHECKING:
    from pmesh.coordinator import Coordinator

__all__ = ["LoopWatch", "Stall", "Stalls"]

logger = logging.getLogger("pmesh.stalls")

# Reports kept for inspection; each has the text of a stack.
KEPT = 100

# The thread sleeps for no less, however small `stall_after` is.
SHORTEST_SLEEP_SECONDS = 0.001

# Leaving, and a fork, wait so long for the thread to end, which does not hold either up for good.
JOIN_SECONDS = 1.0


class Stall(Value):
    """One handler that took longer than `stall_after` when it was looked at; reported again each time that doubles.

    Attributes:
        agent: Name of the agent.
        handler: The handler, or the lifecycle hook.
        payload_type: Type of the message in hand; None for a lifecycle hook.
        sender: Name of the agent that sent the message; None when none did.
        seconds: How long it had taken; of one that blocks the loop, how long it was seen to.
        blocks_loop: Whether it ran all that time, so that nothing else in the loop did.
        waits_for: What it waited for, in words; None for one that blocks the loop.
        stack: Where it stood, as in a traceback, from the handler down.
    """

    agent: str
    handler: str
    payload_type: str | None
    sender: str | None
    seconds: float
    blocks_loop: bool
    waits_for: str | None
    stack: str

    def __str__(self) -> str:
        sender = "" if self.sender is None else f" from {self.sender!r}"
        message = "" if self.payload_type is None else f" of {self.payload_type}{sender}"
        time_text = duration_text(self.seconds * 1e9)
        doing = (
            f"has blocked the event loop for at least {time_text}"
            if self.blocks_loop
            else f"has not ended after {time_text}: it waits for {self.waits_for}"
        )
        stack = f"\n{self.stack.rstrip()}" if self.stack else ""
        return f"agent {self.agent!r}: {self.handler}{message} {doing}{stack}"


class Stalls:
    """The newest reports of stalled handlers, and how many there have been. They may come from any thread."""

    def __init__(self) -> None:
        self._newest: collections.deque[Stall] = collections.deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._count = 0

    def add(self, stall: Stall) -> None:
        """Count, keep and log one."""
        with self._lock:
            self._count += 1
            self._newest.append(stall)
        logger.warning("%s", stall)

    def add_waiting(self, shown: list[InHand], count: int, now_ns: int) -> None:
        """Report `count` handlers that wait, those in `shown` one by one."""
        for in_hand in shown:
            waits_for = wait_text(in_hand.waits_on, now_ns)
            stack = frames_text(suspended_frames(in_hand.coroutine))
            self.add(_stall(in_hand, now_ns - in_hand.started_ns, waits_for, stack))
        if count > len(shown):
            with self._lock:
                self._count += count - len(shown)
            logger.warning("%d more handlers have not ended either; pmesh.debug.dump shows them", count - len(shown))

    @property
    def count(self) -> int:
        """Reports so far, also those no longer kept."""
        return self._count

    def __iter__(self) -> Iterator[Stall]:
        return iter(tuple(self._newest))

    def __len__(self) -> int:
        """How many are kept, oldest given up first."""
        return len(self._newest)

    def __repr__(self) -> str:
        return f"<Stalls {self._count}>"


class LoopWatch:
    """A thread that looks, twice in `seconds`, whether a handler has kept the event loop for so long.

    It does not keep the coordinator alive, nor the process.

    Args:
        seconds: 0 for no thread at all.
    """

    def __init__(self, mesh: Coordinator, dispatcher: Dispatcher, seconds: float) -> None:
        self._mesh = weakref.ref(mesh)
        self._seconds = seconds
        self._ended = False
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    def start(self) -> None:
        """Look from now on; nothing after `end`."""
        if self._ended or not self._seconds:
            return
        self._wake = threading.Event()
        self._thread = threading.Thread(
            target=_look, args=(self._mesh, self._seconds, self._wake), name="pmesh-stalls", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread, until `start`."""
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._wake.set()
            thread.join(JOIN_SECONDS)

    def end(self) -> None:
        """End the thread for good."""
        self._ended = True
        self.stop()


def _look(mesh_ref: weakref.ref[Coordinator], seconds: float, wake: threading.Event) -> None:
    sleep_seconds = max(seconds / 2, SHORTEST_SLEEP_SECONDS)
    number = 0  # of the step that was seen last
    since_ns = due_ns = 0
    while not wake.wait(sleep_seconds):
        mesh = mesh_ref()
        if mesh is None or mesh._loop.is_closed():
            return
        now_ns = time.monotonic_ns()
        step = mesh._dispatcher.step_in_hand()
        if step is None or step[0] != number:
            number = 0 if step is None else step[0]
            since_ns = now_ns
            due_ns = now_ns + int(seconds * 1e9)
        elif now_ns >= due_ns:
            due_ns = now_ns + (now_ns - since_ns)
            thread_id = mesh._dispatcher.thread_id
            stack = frames_text(blocked_frames(thread_id, step[1])) if may_look(thread_id) else f"  {HIDDEN}\n"
            again = mesh._dispatcher.step_in_hand()
            if again is not None and again[0] == number:
                mesh.stalls.add(_stall(step[1], now_ns - since_ns, None, stack))
            del again
        del mesh, step  # the thread does not keep them alive while it sleeps


def _stall(in_hand: InHand, took_ns: int, waits_for: str | None, stack: str) -> Stall:
    return Stall(
        agent=in_hand.agent,
        handler=in_hand.handler,
        payload_type=in_hand.payload_type,
        sender=in_hand.sender,
        seconds=took_ns / 1e9,
        blocks_loop=waits_for is None,
        waits_for=waits_for,
        stack=stack,
    )
