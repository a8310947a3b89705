"""Thespian, with two of its system bases.

`simpleSystemBase` calls actors in place, in the thread that tells or asks. `multiprocTCPBase` runs each actor in a
process of its own. Senders and clients are actors where more than one thing is under way, as only actors can wait for
several answers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter
from typing import Any

from subjects import ASKERS, IN_FLIGHT, RING, SENDERS, Prepare, Work, require_count
from thespian.actors import Actor, ActorAddress, ActorExitRequest, ActorSystem

LIMIT = timedelta(seconds=55)
SILENT = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING", "handlers": []}}
BURST = IN_FLIGHT // SENDERS


@dataclass(frozen=True)
class Count:
    """Asks a sink for how many it handled, once they are `expected`."""

    expected: int


@dataclass(frozen=True)
class Burst:
    """Told after a burst, and answered: more than so many are never under way."""


@dataclass(frozen=True)
class Send:
    sink: ActorAddress
    count: int


@dataclass(frozen=True)
class Ask:
    sink: ActorAddress
    count: int


@dataclass(frozen=True)
class Link:
    following: ActorAddress


@dataclass(frozen=True)
class Hops:
    left: int
    reply_to: Any


class Sink(Actor):
    def __init__(self) -> None:
        self.handled = 0
        self.goal: tuple[int, Any] | None = None

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802  Thespian's name
        if isinstance(message, int):
            self.handled += 1
        elif isinstance(message, Burst):
            self.send(sender, message)
        elif isinstance(message, Count):
            self.goal = message.expected, sender
        if self.goal is not None and self.handled >= self.goal[0]:
            self.send(self.goal[1], self.handled)
            self.handled, self.goal = 0, None


class Echo(Actor):
    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        if isinstance(message, int):
            self.send(sender, message)


class Sender(Actor):
    """Sends in bursts, so that all senders together have as many messages under way as a mailbox of pmesh holds."""

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        if isinstance(message, Send):
            self.sink, self.left = message.sink, message.count
        elif not isinstance(message, Burst):
            return
        if self.left:
            burst = min(self.left, BURST)
            for item in range(burst):
                self.send(self.sink, item)
            self.left -= burst
            self.send(self.sink, Burst())


class Client(Actor):
    """Has as many asks under way as there are clients elsewhere."""

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        if isinstance(message, Ask):
            self.sink, self.asker = message.sink, sender
            self.unsent, self.unanswered = message.count - ASKERS, message.count
            for item in range(ASKERS):
                self.send(self.sink, item)
        elif isinstance(message, int):
            self.unanswered -= 1
            if self.unsent:
                self.unsent -= 1
                self.send(self.sink, message)
            if not self.unanswered:
                self.send(self.asker, "done")


class Hop(Actor):
    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        if isinstance(message, Link):
            self.following = message.following
            self.send(sender, message)
        elif isinstance(message, Hops):
            if message.left:
                self.send(self.following, Hops(message.left - 1, message.reply_to or sender))
            else:
                self.send(message.reply_to or sender, "done")


def answered(answer: Any) -> Any:
    """ask() returns None when the time is up."""
    if answer is None:
        raise TimeoutError(f"no answer within {LIMIT.total_seconds():g} s")
    return answer


def tell(system: ActorSystem) -> Work:
    sink = system.createActor(Sink)

    def work(count: int) -> float:
        give = system.tell
        start = perf_counter()
        for item in range(count):
            give(sink, item)
        handled = answered(system.ask(sink, Count(count), LIMIT))
        seconds = perf_counter() - start
        require_count(handled, count)
        return seconds

    return work


def fan_in(system: ActorSystem) -> Work:
    sink = system.createActor(Sink)
    senders = [system.createActor(Sender) for _ in range(SENDERS)]

    def work(count: int) -> float:
        start = perf_counter()
        for sender in senders:
            system.tell(sender, Send(sink, count // SENDERS))
        handled = answered(system.ask(sink, Count(count), LIMIT))
        seconds = perf_counter() - start
        require_count(handled, count)
        return seconds

    return work


def ask(system: ActorSystem) -> Work:
    echo = system.createActor(Echo)

    def work(count: int) -> float:
        start = perf_counter()
        for item in range(count):
            answered(system.ask(echo, item, LIMIT))
        return perf_counter() - start

    return work


def ask100(system: ActorSystem) -> Work:
    echo, client = system.createActor(Echo), system.createActor(Client)

    def work(count: int) -> float:
        start = perf_counter()
        answered(system.ask(client, Ask(echo, count), LIMIT))
        return perf_counter() - start

    return work


def ring(system: ActorSystem) -> Work:
    hops = [system.createActor(Hop) for _ in range(RING)]
    for here, following in zip(hops, hops[1:] + hops[:1], strict=True):
        answered(system.ask(here, Link(following), LIMIT))

    def work(count: int) -> float:
        start = perf_counter()
        answered(system.ask(hops[0], Hops(count, None), LIMIT))
        return perf_counter() - start

    return work


def ready(system: ActorSystem, count: int) -> list[ActorAddress]:
    """createActor returns before the actor runs; its first answer shows that it does."""
    made = [system.createActor(Echo) for _ in range(count)]
    for echo in made:
        answered(system.ask(echo, 1, LIMIT))
    return made


def spawn(system: ActorSystem) -> Work:
    def work(count: int) -> float:
        start = perf_counter()
        made = ready(system, count)
        seconds = perf_counter() - start
        for echo in made:
            system.tell(echo, ActorExitRequest())
        return seconds

    return work


def memory(system: ActorSystem) -> Work:
    def work(count: int) -> float:
        ready(system, count)
        return 0.0

    return work


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def in_system(make: Callable[[ActorSystem], Work], base: str) -> Prepare:
    @contextmanager
    def prepare() -> Iterator[Work]:
        # A port of its own: the usual one leads to whatever Thespian system this machine runs already.
        capabilities = {"Admin Port": free_port()} if base == "multiprocTCPBase" else None
        system = ActorSystem(base, capabilities=capabilities, logDefs=SILENT)
        try:
            yield make(system)
        finally:
            system.shutdown()

    return prepare


WORKS = (tell, ask, ask100, fan_in, ring, spawn, memory)
WORK = {
    "thespian-simple": {make.__name__: in_system(make, "simpleSystemBase") for make in WORKS},
    "thespian-tcp": {make.__name__: in_system(make, "multiprocTCPBase") for make in WORKS},
}
