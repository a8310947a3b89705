"""What the model's threads do, on the real core: real loops and threads that race for it, round after round.

Each scenario runs for at most ROUNDS rounds and 0.3 s; with the environment variable PMESH_RACE_SECONDS it runs
for so many seconds, however many rounds that takes. Who begins how late is drawn from a seed; a failure prints it.
The model shows every interleaving of a few steps, these show some of the core itself: most on a build without a GIL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    AgentStopped,
    Coordinator,
    DeadLetter,
    MailboxFull,
    MailboxPolicy,
    Overflow,
)

ROUNDS = 150
SECONDS = float(os.environ.get("PMESH_RACE_SECONDS", "0.3"))
LIMIT = sys.maxsize if "PMESH_RACE_SECONDS" in os.environ else ROUNDS

# Real seconds after which something that should come has been lost.
PATIENCE_SECONDS = 20.0

# Bytecodes, about: how far apart the two sides of a race begin.
JITTER = 60

SCENARIOS: dict[str, Callable[[Round], Awaitable[None]]] = {}


def scenario(play: Callable[[Round], Awaitable[None]]) -> Callable[[Round], Awaitable[None]]:
    SCENARIOS[play.__name__.replace("_", " ")] = play
    return play


def wait_a_bit(turns: int) -> None:
    for _ in range(turns):
        pass


class Racer:
    """A foreign thread that does one job after the other, each begun when the loop says so."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.waits = self.go = False
        self.done = True
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.waits = True
            while not self.go:
                pass
            self.waits = self.go = False
            try:
                job()
            except BaseException as error:
                self.errors.append(error)
            self.done = True

    def prepare(self, job: Callable[[], None]) -> None:
        self.done = False
        self.jobs.put(job)

    def end(self) -> None:
        self.jobs.put(None)
        self.thread.join(PATIENCE_SECONDS)


class Round:
    """One race: its agents, what was told, and what became of it."""

    def __init__(self, bus: Coordinator, racers: list[Racer], draws: random.Random) -> None:
        self.bus = bus
        self.racers = racers
        self.draws = draws
        self.handled: dict[str, list[Any]] = {}
        self.buried: list[tuple[str, Any]] = []
        self.told: list[tuple[str, Any, bool]] = []
        self.refs: list[AgentRef] = []
        self.before = bus.stats().sent
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sentinels = itertools.count()

    async def spawn(self, *, suspends: bool = False, then: Callable[[Any], None] | None = None, **options: Any) -> Any:
        """An agent that notes what it handles."""
        name = f"agent{len(self.refs)}"
        handled = self.handled[name] = []

        async def slowly(payload: Any) -> None:
            handled.append(payload)
            await asyncio.sleep(0)

        def at_once(payload: Any) -> Any:
            handled.append(payload)
            if then is not None:
                then(payload)
            return payload

        self.refs.append(await self.bus.spawn(slowly if suspends else at_once, name=name, **options))
        return self.refs[-1]

    def tell(self, ref: AgentRef, sender: str, number: int) -> bool:
        accepted = ref.tell((sender, number))
        self.told.append((ref.name, (sender, number), accepted))
        return accepted

    async def race(
        self, *jobs: Callable[[], None], action: Callable[[], Any] | None = None, woken: bool = True
    ) -> None:
        """Let threads do `jobs` while the loop does `action`, each beginning a little later than the other.

        `woken`: a message wakes the loop at the end, as the last of each thread; else the agents' own must do.
        """
        count = len(jobs)
        end = None
        if woken:
            ended: list[int] = []

            def at_end(payload: int) -> None:
                ended.append(payload)
                if len(ended) == count and not self.over.done():
                    self.over.set_result(None)

            end = await self.bus.spawn(at_end, name="end")

        def work(job: Callable[[], None], late: int) -> None:
            wait_a_bit(late)
            job()
            if end is not None:
                end.tell(1)

        racing = list(zip(self.racers, jobs, strict=False))
        for racer, job in racing:
            racer.prepare(functools.partial(work, job, self.draws.randrange(JITTER)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(racer.waits for racer, _ in racing):
                await asyncio.sleep(0)
        for racer, _ in racing:
            racer.go = True
        wait_a_bit(self.draws.randrange(JITTER))
        if action is not None:
            for _ in range(self.draws.randrange(3)):
                await asyncio.sleep(0)
            result = action()
            if result is not None:
                await result
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.over  # set in a handler: nothing but the core wakes this loop
            while not all(racer.done for racer, _ in racing):
                await asyncio.sleep(0)
            while any(ref.counters().pending for ref in self.refs):
                await asyncio.sleep(0)
        for racer, _ in racing:
            assert racer.errors == []
        if end is not None:
            await self.bus.stop(end)

    def when(self, count: int) -> Callable[[Any], None]:
        """For `spawn(then=...)`: the race is over when so many messages were handled."""

        def then(payload: Any) -> None:
            if sum(map(len, self.handled.values())) == count:
                self.over.set_result(None)

        return then

    def check(self, extra: int = 0) -> None:
        """Each message met one fate, the one that its sender was told of, and every account agrees."""
        for ref in self.refs:
            counters = ref.counters()
            handled = self.handled[ref.name]
            mine = [(payload, accepted) for name, payload, accepted in self.told if name == ref.name]
            buried = [payload for name, payload in self.buried if name == ref.name]
            assert counters.imbalance is None
            assert counters.pending == 0
            assert counters.sent == len(mine)
            assert counters.accepted == sum(accepted for _, accepted in mine)
            assert counters.handled == len(handled)
            assert counters.dropped + counters.dead == len(buried)
            for payload, accepted in mine:
                assert handled.count(payload) + buried.count(payload) == accepted, payload
            for sender in {payload[0] for payload in handled}:
                numbers = [payload[1] for payload in handled if payload[0] == sender]
                assert numbers == sorted(set(numbers))
        stats = self.bus.stats()
        assert stats.imbalance is None
        assert stats.sent == self.before + len(self.told) + extra


def tells(game: Round, *refs: AgentRef, sender: str = "t") -> Callable[[], None]:
    def job() -> None:
        for number, ref in enumerate(refs, 1):
            game.tell(ref, sender, number)

    return job


@scenario
async def one_message_to_an_idle_agent(game: Round) -> None:
    a = await game.spawn(then=game.when(1))
    await game.race(tells(game, a), woken=False)
    game.check()


@scenario
async def three_messages_to_one_agent(game: Round) -> None:
    a = await game.spawn(then=game.when(3))
    await game.race(tells(game, a, a, a), woken=False)
    game.check()


@scenario
async def three_messages_to_two_agents(game: Round) -> None:
    a, b = await game.spawn(then=game.when(3)), await game.spawn(then=game.when(3))
    await game.race(tells(game, a, b, a), woken=False)
    game.check()


@scenario
async def three_agents_one_message_each(game: Round) -> None:
    refs = [await game.spawn(then=game.when(3)) for _ in range(3)]
    await game.race(tells(game, *refs), woken=False)
    game.check()


@scenario
async def tell_many(game: Round) -> None:
    a = await game.spawn(then=game.when(4))

    def job() -> None:
        assert a.tell_many([("t", 1), ("t", 2), ("t", 3)]) == 3

    await game.race(job, action=lambda: game.tell(a, "l", 1) and None, woken=False)
    game.told += [("agent0", ("t", number), True) for number in (1, 2, 3)]
    game.check()


@scenario
async def a_handler_tells_the_agent_that_the_thread_tells(game: Round) -> None:
    b = await game.spawn(then=game.when(5))
    a = await game.spawn(then=lambda payload: game.tell(b, "a", payload[1]) and None)
    await game.race(tells(game, a, b, a), woken=False)
    # "a" has told b of 1 and 3; b was told 2 by the thread.
    assert [payload[0] for payload in game.handled[b.name]].count("a") == 2
    game.check()


@scenario
async def a_handler_that_suspends(game: Round) -> None:
    a = await game.spawn(suspends=True)
    await game.race(tells(game, a, a, a))
    game.check(extra=1)


@scenario
async def two_handlers_that_suspend_side_by_side(game: Round) -> None:
    class Slow(Agent):
        concurrency = 2

        async def receive(self, payload: Any) -> None:
            handled.append(payload)
            await asyncio.sleep(0)

    handled = game.handled["agent0"] = []
    a = await game.bus.spawn(Slow, name="agent0")
    game.refs.append(a)
    await game.race(tells(game, a, a, a))
    game.check(extra=1)


@scenario
async def tell_against_the_start(game: Round) -> None:
    class Slow(Agent):
        async def on_start(self) -> None:
            started.set_result(self.context.ref)
            for _ in range(game.draws.randrange(3)):
                await asyncio.sleep(0)

        def receive(self, payload: Any) -> None:  # type: ignore[override]
            handled.append(payload)

    started: asyncio.Future[AgentRef] = asyncio.get_running_loop().create_future()
    handled = game.handled["agent0"] = []
    spawning = asyncio.create_task(game.bus.spawn(Slow, name="agent0"))
    a = await started
    game.refs.append(a)
    await game.race(tells(game, a, a, a))
    await spawning
    game.check(extra=1)


@scenario
async def tell_against_suspend_and_resume(game: Round) -> None:
    a = await game.spawn()

    async def turn() -> None:
        game.bus.suspend(a)
        for _ in range(game.draws.randrange(3)):
            await asyncio.sleep(0)
        game.bus.resume(a)

    await game.race(tells(game, a, a, a), action=turn)
    game.check(extra=1)


@scenario
async def tell_against_stop(game: Round) -> None:
    a = await game.spawn()
    await game.race(tells(game, a, a, a, a, a, a), action=lambda: game.bus.stop(a))
    game.check(extra=1)


@scenario
async def tell_against_stop_with_a_handler_suspended(game: Round) -> None:
    a = await game.spawn(suspends=True)
    await game.race(tells(game, a, a, a, a, a, a), action=lambda: game.bus.stop(a))
    game.check(extra=1)


@scenario
async def tell_against_drain_of_the_agent(game: Round) -> None:
    a = await game.spawn()
    await game.race(tells(game, a, a, a, a, a, a), action=lambda: game.bus.drain(a))
    assert game.buried == []
    game.check(extra=1)


@scenario
async def tell_against_leaving_the_coordinator(game: Round) -> None:
    async with Coordinator() as inner:
        outer, game.bus, game.before = game.bus, inner, 0
        a = await game.spawn()
        game.bus = outer
        listen(inner, game)
        racing = asyncio.create_task(game.race(tells(game, *[a] * 10)))
        while not game.racers[0].waits and not racing.done():
            await asyncio.sleep(0)
    await racing
    game.bus = inner
    game.check()


def with_policy(policy: Overflow) -> Callable[[Round], Awaitable[None]]:
    async def play(game: Round) -> None:
        a = await game.spawn(mailbox=MailboxPolicy(1, overflow=policy))
        await game.race(tells(game, a, a, a))
        if policy in (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST):
            assert all(accepted for _, _, accepted in game.told)
        game.check(extra=1)

    return play


for policy in Overflow:
    SCENARIOS[f"capacity 1, {policy.name}"] = with_policy(policy)


@scenario
async def a_thread_displaces_an_ask(game: Round) -> None:
    a = await game.spawn(mailbox=MailboxPolicy(1, overflow=Overflow.DROP_OLDEST))

    async def ask() -> None:
        payload = ("l", 1)
        game.told.append((a.name, payload, True))
        try:
            assert await a.ask(payload, timeout=PATIENCE_SECONDS) == payload
            assert payload in game.handled[a.name]
        except MailboxFull:
            assert (a.name, payload) in game.buried

    await game.race(tells(game, a, a, a), action=ask)
    game.check(extra=1)


@scenario
async def a_thread_displaces_an_ask_while_the_agent_stops(game: Round) -> None:
    a = await game.spawn(mailbox=MailboxPolicy(1, overflow=Overflow.DROP_OLDEST))

    async def ask() -> None:
        payload = ("l", 1)
        asking = asyncio.ensure_future(a.ask(payload, timeout=PATIENCE_SECONDS))
        if game.draws.random() < 0.5:
            await asyncio.sleep(0)
        await game.bus.stop(a)
        with contextlib.suppress(MailboxFull, AgentStopped):
            await asking
        game.told.append((a.name, payload, payload in game.handled[a.name] or (a.name, payload) in game.buried))

    await game.race(tells(game, a, a, a), action=ask)
    game.check(extra=1)


@scenario
async def two_threads_tell_one_agent(game: Round) -> None:
    a = await game.spawn(then=game.when(6))
    await game.race(tells(game, a, a, a), tells(game, a, a, a, sender="u"), woken=False)
    game.check()


@scenario
async def two_threads_overflow_one_agent(game: Round) -> None:
    a = await game.spawn(mailbox=MailboxPolicy(1, overflow=Overflow.DROP_OLDEST))
    await game.race(tells(game, a, a, a), tells(game, a, a, a, sender="u"))
    game.check(extra=2)


def listen(bus: Coordinator, game: Round) -> None:
    def note(letter: DeadLetter) -> None:
        game.buried.append((letter.receiver, letter.payload))

    bus.dead_letters.subscribe(note)


@pytest.fixture
def racers() -> Iterator[list[Racer]]:
    """Two foreign threads; all threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    both = [Racer(), Racer()]
    try:
        yield both
    finally:
        for racer in both:
            racer.end()
        sys.setswitchinterval(interval)


def rounds() -> Iterator[int]:
    until = time.monotonic() + SECONDS
    for number in range(LIMIT):
        if number >= 5 and time.monotonic() > until:
            break
        yield number


@pytest.mark.parametrize("slice_seconds", [0.001, 1e-9], ids=["slices", "slices of one message"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_handled_twice_or_out_of_order(
    name: str, slice_seconds: float, racers: list[Racer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    seed = random.randrange(2**32)
    draws = random.Random(seed)
    reported: list[Any] = []
    played = 0

    async def main() -> None:
        nonlocal played
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        for played in rounds():  # noqa: B007 - a failure prints it
            async with Coordinator(slice_seconds=slice_seconds) as bus:
                game = Round(bus, racers, draws)
                listen(bus, game)
                await SCENARIOS[name](game)

    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(main())
        assert reported == []
    except BaseException as error:
        error.add_note(f"{name}: round {played} of seed {seed}")
        raise
    sys.stdout.write(f"{name}: {played + 1} rounds\n")


@pytest.mark.parametrize("policy", list(Overflow))
# Coroutines that the closed loop left suspended are reported when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tell_that_races_with_the_closing_of_the_loop_says_true_or_false_and_is_counted_so(
    policy: Overflow, racers: list[Racer], caplog: pytest.LogCaptureFixture
) -> None:
    """The loop is closed under a coordinator that was never left."""
    caplog.set_level(logging.CRITICAL)
    seed = random.randrange(2**32)
    draws = random.Random(seed)
    played = 0
    racer = racers[0]
    for played in rounds():
        loop = asyncio.SelectorEventLoop()

        async def enter() -> tuple[Coordinator, AgentRef]:
            bus = Coordinator()
            await bus.__aenter__()
            return bus, await bus.spawn(lambda payload: payload, mailbox=MailboxPolicy(2, overflow=policy))

        _bus, ref = loop.run_until_complete(enter())
        tasks = asyncio.all_tasks(loop)
        results: list[bool] = []
        closed_at: list[int] = []

        def job(ref: AgentRef = ref, results: list[bool] = results, late: int = draws.randrange(JITTER)) -> None:
            wait_a_bit(late)
            for number in range(40):
                results.append(ref.tell(number))

        racer.prepare(job)
        while not racer.waits:
            time.sleep(0)
        racer.go = True
        wait_a_bit(draws.randrange(JITTER))
        for _ in range(draws.randrange(3)):
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        closed_at.append(len(results))
        until = time.monotonic() + PATIENCE_SECONDS
        while not racer.done and time.monotonic() < until:
            time.sleep(0)
        for task in tasks:
            with contextlib.suppress(AttributeError):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
        counters = ref.counters()
        told = f"round {played} of seed {seed}: {results}"
        assert racer.errors == [], told
        assert counters.imbalance is None, told
        assert (counters.sent, counters.accepted) == (40, sum(results)), told
        # One tell may have been under way when the loop was closed.
        assert not any(results[closed_at[0] + 1 :]), told
        assert ref.tell("late") is False
    sys.stdout.write(f"{policy.name}: {played + 1} rounds\n")
