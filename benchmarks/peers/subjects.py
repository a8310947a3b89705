"""What is measured, and the shape of a measurement; knows nothing of the peers nor of how a table looks.

A peer does a subject's work in a context manager, synchronous or asynchronous, that sets everything up and yields
`work`: a function, or a coroutine function, that does `count` units and returns the seconds they took, without what it
needs before and after. For `memory` it makes `count` idle agents and keeps them; its result is not looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass

IN_FLIGHT = 256  # messages waiting at most, wherever there is a bound
ASKERS = 100
SENDERS = 10
RING = 100

Work = Callable[[int], float | Awaitable[float]]
Prepare = Callable[[], AbstractContextManager[Work] | AbstractAsyncContextManager[Work]]


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of work; `step` is the smallest number of units that can be asked for."""

    key: str
    title: str
    unit: str
    about: str
    step: int = 1
    less_is_better: bool = False


SUBJECTS = {
    subject.key: subject
    for subject in (
        Subject("tell", "tell to handled", "messages/s", "one sender, one agent, until the last message is handled"),
        Subject("ask", "ask, one at a time", "asks/s", "one client that waits for each answer"),
        Subject("ask100", "ask, 100 at a time", "asks/s", "100 asks under way, one agent answers", step=ASKERS),
        Subject("fan_in", "fan-in of 10", "messages/s", "10 senders, one agent, until all is handled", step=SENDERS),
        Subject("ring", "ring of 100", "hops/s", "one token, passed on by 100 agents in a circle", step=RING),
        Subject("threads", "thread into the loop", "items/s", "a thread gives, an asyncio task or agent takes"),
        Subject("spawn", "spawn", "agents/s", "agents made until each can take a message"),
        Subject("memory", "memory of an idle agent", "bytes", "growth of all its processes", less_is_better=True),
    )
}


def require_count(observed: int, expected: int, what: str = "handled") -> None:
    """A peer that loses messages is not fast, it has failed."""
    if observed != expected:
        raise RuntimeError(f"{observed:,} messages were {what}, and {expected:,} were sent")
