"""Pykka: an actor is a thread around a queue.Queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import pykka
from subjects import ASKERS, RING, SENDERS, Prepare, Work, require_count


class Sink(pykka.ThreadingActor):
    def __init__(self) -> None:
        super().__init__()
        self.handled = 0

    def on_receive(self, message: Any) -> Any:
        if message is None:  # told all: how many were they?
            handled, self.handled = self.handled, 0
            return handled
        self.handled += 1
        return message


class Sender(pykka.ThreadingActor):
    def on_receive(self, message: tuple[pykka.ActorRef[Sink], int]) -> None:
        sink, count = message
        for item in range(count):
            sink.tell(item)


class Hop(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> None:
        if isinstance(message, int):
            if message:
                self.following.tell(message - 1)
            else:
                self.arrived.set()
        else:
            self.following, self.arrived = message


def tell(sink: pykka.ActorRef[Sink]) -> Work:
    def work(count: int) -> float:
        give = sink.tell
        start = perf_counter()
        for item in range(count):
            give(item)
        handled = sink.ask(None)
        seconds = perf_counter() - start
        require_count(handled, count)
        return seconds

    return work


def ask(sink: pykka.ActorRef[Sink]) -> Work:
    def work(count: int) -> float:
        start = perf_counter()
        for item in range(count):
            sink.ask(item)
        return perf_counter() - start

    return work


def ask100(sink: pykka.ActorRef[Sink]) -> Work:
    def work(count: int) -> float:
        start = perf_counter()
        for _ in range(count // ASKERS):
            pykka.get_all([sink.ask(item, block=False) for item in range(ASKERS)])
        return perf_counter() - start

    return work


def fan_in(sink: pykka.ActorRef[Sink]) -> Work:
    senders = [Sender.start() for _ in range(SENDERS)]

    def work(count: int) -> float:
        start = perf_counter()
        pykka.get_all([sender.ask((sink, count // SENDERS), block=False) for sender in senders])
        handled = sink.ask(None)
        seconds = perf_counter() - start
        require_count(handled, count)
        return seconds

    return work


def ring(_: pykka.ActorRef[Sink]) -> Work:
    arrived = threading.Event()
    refs = [Hop.start() for _ in range(RING)]
    for here, following in zip(refs, refs[1:] + refs[:1], strict=True):
        here.ask((following, arrived))

    def work(count: int) -> float:
        arrived.clear()
        start = perf_counter()
        refs[0].tell(count)
        arrived.wait()
        return perf_counter() - start

    return work


def spawn(_: pykka.ActorRef[Sink]) -> Work:
    def work(count: int) -> float:
        start = perf_counter()
        refs = [Sink.start() for _ in range(count)]
        seconds = perf_counter() - start
        for stopping in [ref.stop(block=False) for ref in refs]:
            stopping.get()
        return seconds

    return work


def memory(_: pykka.ActorRef[Sink]) -> Work:
    def work(count: int) -> float:
        for _ in range(count):
            Sink.start()
        return 0.0

    return work


def with_sink(make: Callable[[pykka.ActorRef[Sink]], Work]) -> Prepare:
    @contextmanager
    def prepare() -> Iterator[Work]:
        try:
            yield make(Sink.start())
        finally:
            pykka.ActorRegistry.stop_all()

    return prepare


WORK = {"pykka": {work.__name__: with_sink(work) for work in (tell, ask, ask100, fan_in, ring, spawn, memory)}}
