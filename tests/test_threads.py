"""tell from other threads: order per thread, the account at every instant, and closed loops."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentStopped,
    Coordinator,
    DeadLetter,
    MailboxFull,
    MailboxPolicy,
    Overflow,
    PmeshError,
)
from pmesh.testing.loop import VirtualTimeLoop

Run = Callable[..., Any]
Mesh = Callable[..., Any]

THREADS = 4
MESSAGES = 100_000


class Receiver:
    """Checks, per thread, that numbers come in order; `gaps` where some may have been dropped."""

    def __init__(self) -> None:
        self.last = [-1] * THREADS
        self.count = 0
        self.out_of_order: list[tuple[int, int]] = []

    def __call__(self, payload: tuple[int, int]) -> int:
        thread, number = payload
        if number <= self.last[thread]:
            self.out_of_order.append(payload)
        self.last[thread] = number
        self.count += 1
        return number


def start(function: Callable[[int], None]) -> tuple[list[threading.Thread], list[BaseException]]:
    """THREADS threads that all begin at once and may call the running loop; what they raise lands in the list."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(THREADS)

    def work(number: int) -> None:
        try:
            barrier.wait()
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualTimeLoop):
        loop.expect_calls_of(threads)
    return threads, errors


async def finished(threads: list[threading.Thread]) -> None:
    """Wait for `threads` without keeping the loop from running."""
    loop = asyncio.get_running_loop()
    for thread in threads:
        await loop.run_in_executor(None, thread.join)


def test_four_threads_tell_one_agent_each_in_order_and_every_message_is_accounted_for(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        receiver = Receiver()
        async with mesh() as bus:
            ref = await bus.spawn(receiver, mailbox=MailboxPolicy(THREADS * MESSAGES), name="one")

            def work(thread: int) -> None:
                for number in range(MESSAGES):
                    assert ref.tell((thread, number)) is True

            threads, errors = start(work)
            await finished(threads)
            assert errors == []
        stats = bus.stats()
        assert receiver.out_of_order == []
        assert receiver.last == [MESSAGES - 1] * THREADS
        assert receiver.count == THREADS * MESSAGES
        assert (stats.sent, stats.accepted, stats.handled) == (receiver.count,) * 3
        assert bus.latency.count == receiver.count

    run(main)


@pytest.mark.parametrize("policy", [Overflow.REJECT, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
def test_stats_balance_at_every_instant_while_threads_tell_and_overflow(run: Run, mesh: Mesh, policy: Overflow) -> None:
    async def main() -> None:
        receiver = Receiver()
        imbalances: list[Any] = []
        looks = {"loop": 0, "thread": 0}
        over = threading.Event()
        told = [0] * THREADS
        refused = [0] * THREADS

        async with mesh() as bus:
            ref = await bus.spawn(receiver, mailbox=MailboxPolicy(8, overflow=policy), name="one")

            def look(who: str) -> None:
                stats = bus.stats()
                one = stats.agents["one"]
                for account in (stats, one):
                    ended = account.handled + account.failed + account.expired + account.dropped + account.dead
                    if (
                        account.sent != account.accepted + account.rejected
                        or account.accepted != ended + account.pending
                    ):
                        imbalances.append(account)
                if stats.imbalance is not None or one.imbalance is not None or not 0 <= one.pending <= 9:
                    imbalances.append(stats)
                looks[who] += 1

            def look_from_a_thread() -> None:
                while not over.is_set():
                    look("thread")

            def work(thread: int) -> None:
                for number in range(MESSAGES // 5):
                    if ref.tell((thread, number)):
                        told[thread] += 1
                    else:
                        refused[thread] += 1

            looker = threading.Thread(target=look_from_a_thread, daemon=True)
            looker.start()
            threads, errors = start(work)
            while any(thread.is_alive() for thread in threads) or looks["loop"] < 20:
                look("loop")
                await asyncio.sleep(0)
            over.set()
            await finished([*threads, looker])
            assert errors == []
        stats = bus.stats()
        assert imbalances == []
        assert min(looks.values()) > 10
        assert stats.sent == THREADS * (MESSAGES // 5)
        assert (stats.accepted, stats.rejected) == (sum(told), sum(refused))
        assert stats.handled == receiver.count
        assert receiver.out_of_order == []
        assert sum(bus.dead_letters.counts.values()) == stats.dropped
        assert (stats.rejected == 0) is (policy is not Overflow.REJECT)

    run(main)


def test_a_refused_tell_repeated_until_it_is_accepted_keeps_the_order(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        receiver = Receiver()
        refused = [0] * THREADS
        async with mesh() as bus:
            ref = await bus.spawn(receiver, mailbox=MailboxPolicy(64))
            over = threading.Event()

            def work(thread: int) -> None:
                for number in range(5_000):
                    while not ref.tell((thread, number)):
                        refused[thread] += 1
                        over.wait(0.0001)

            threads, errors = start(work)
            await finished(threads)
            assert errors == []
        stats = bus.stats()
        assert receiver.last == [4_999] * THREADS
        assert receiver.out_of_order == []
        assert (stats.handled, stats.rejected) == (20_000, sum(refused))

    run(main)


def test_asks_are_answered_while_threads_flood_the_agent(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        receiver = Receiver()
        async with mesh() as bus:
            ref = await bus.spawn(receiver, mailbox=MailboxPolicy(THREADS * MESSAGES))
            echo = await bus.spawn(lambda payload: payload)

            def work(thread: int) -> None:
                for number in range(MESSAGES // 4):
                    ref.tell((thread, number))

            threads, errors = start(work)
            asked = 0
            while asked < 50 or any(thread.is_alive() for thread in threads):
                assert await echo.ask(asked, timeout=60) == asked
                asked += 1
                # Asks that are answered within the turn never let go of the GIL, which the threads need to begin.
                await asyncio.sleep(0.001)
            await finished(threads)
            assert errors == []
        assert bus.stats().handled == THREADS * (MESSAGES // 4) + asked
        assert receiver.out_of_order == []

    run(main)


def test_asks_that_threads_displace_are_each_answered_once(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        receiver = Receiver()
        async with mesh() as bus:
            ref = await bus.spawn(
                lambda payload: receiver(payload) if isinstance(payload, tuple) else payload,
                mailbox=MailboxPolicy(2, overflow=Overflow.DROP_OLDEST),
            )

            def work(thread: int) -> None:
                for number in range(5_000):
                    ref.tell((thread, number))

            threads, errors = start(work)
            outcomes: list[Any] = []
            while len(outcomes) < 500 or any(thread.is_alive() for thread in threads):
                outcomes += await asyncio.gather(
                    *(ref.ask(number, timeout=60) for number in range(5)), return_exceptions=True
                )
            await finished(threads)
            assert errors == []
        assert {type(outcome).__name__ for outcome in outcomes} <= {"int", "MailboxFull"}
        stats = bus.stats()
        assert stats.sent == THREADS * 5_000 + len(outcomes)
        assert stats.sent == stats.accepted == stats.handled + stats.dropped
        assert receiver.out_of_order == []

    run(main)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_out_of_what_a_thread_caused_keeps_what_it_caused_besides(
    kind: type[BaseException],
) -> None:
    """A subscriber of dead letters leaves the loop; the letters after that one come when the loop runs again."""
    letters: list[object] = []

    def leave_at_the_first(letter: Any) -> None:
        letters.append(letter.payload)
        if letter.payload == 0:
            raise kind

    async def main() -> None:
        async with Coordinator() as bus:
            ref = await bus.spawn(lambda payload: payload, mailbox=MailboxPolicy(1, overflow=Overflow.DROP_OLDEST))
            bus.suspend(ref)
            bus.dead_letters.subscribe(leave_at_the_first)
            thread = threading.Thread(target=ref.tell_many, args=(range(4),))
            thread.start()
            thread.join()
            async with asyncio.timeout(5):
                while len(letters) < 3:
                    await asyncio.sleep(0.001)
            bus.resume(ref)
        assert bus.stats().dropped == 3

    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(kind):
        loop.run_until_complete(task)
    loop.run_until_complete(task)
    loop.close()
    assert letters == [0, 1, 2]


def test_agents_that_stop_meanwhile_lose_nothing_uncounted(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            current = [await bus.spawn(lambda payload: payload)]
            sent = [0] * THREADS
            over = threading.Event()

            def work(thread: int) -> None:
                while not over.is_set():
                    current[0].tell(thread)
                    sent[thread] += 1

            threads, errors = start(work)
            for _ in range(50):
                old, current[0] = current[0], await bus.spawn(lambda payload: payload)
                await bus.stop(old)
                assert bus.stats().imbalance is None
            over.set()
            await finished(threads)
            assert errors == []
        assert bus.stats().sent == sum(sent)

    run(main)


def test_totals_read_in_a_thread_show_agents_that_stop_meanwhile_once_each(run: Run, mesh: Mesh) -> None:
    """From the living into the total of those that have stopped: in neither, or in both, for nobody to see."""
    agents = 300
    interval = sys.getswitchinterval()

    async def main() -> None:
        async with mesh() as bus:
            refs = [await bus.spawn(lambda payload: payload) for _ in range(agents)]
            for ref in refs:
                await ref.ask(0)
            over = threading.Event()
            looks = [0] * THREADS
            seen: set[tuple[int, int]] = set()

            def look(thread: int) -> None:
                while not over.is_set():
                    seen.add((bus.stats().handled, bus.totals().handled))
                    looks[thread] += 1

            threads, errors = start(look)
            while not all(looks) and not errors:
                await asyncio.sleep(0)
            for ref in refs:
                await bus.stop(ref)
            over.set()
            await finished(threads)
            assert errors == []
            assert seen == {(agents, agents)}

    sys.setswitchinterval(1e-6)
    try:
        run(main)
    finally:
        sys.setswitchinterval(interval)


# Closed loops.


class Busy(Agent):
    """Its handler waits for ever."""

    async def receive(self, payload: Any) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("policy", list(Overflow))
@pytest.mark.parametrize("state", ["idle", "waiting", "busy", "busy and full"])
# Coroutines that the closed loop left suspended are reported when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tell_after_the_loop_was_closed_returns_false_and_raises_nothing(
    mesh: Mesh, policy: Overflow, state: str
) -> None:
    """The loop is closed under a coordinator that was never left."""
    loop = asyncio.new_event_loop()

    async def main() -> tuple[Any, Any]:
        bus = mesh()
        await bus.__aenter__()
        ref = await bus.spawn(Busy, mailbox=MailboxPolicy(1, overflow=policy))
        if state.startswith("busy"):
            ref.tell("in the handler")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if state in ("waiting", "busy and full"):
            ref.tell("waits")
        return bus, ref

    bus, ref = loop.run_until_complete(main())
    tasks = asyncio.all_tasks(loop)
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    outcomes: list[Any] = []

    def tell() -> None:
        for _ in range(3):
            try:
                outcomes.append(ref.tell("late"))
            except BaseException as error:
                outcomes.append(error)

    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    tell()
    assert outcomes == [False] * 6
    stats = bus.stats()
    assert stats.imbalance is None
    assert stats.sent == stats.accepted + 6


class ClosesWhenAsked(asyncio.SelectorEventLoop):
    """Says that it is open, and is closed right after that: as if its own thread had closed it just then."""

    asked = False

    def is_closed(self) -> bool:
        closed = super().is_closed()
        if self.asked:
            self.asked = False
            self.close()
        return closed


@pytest.mark.parametrize("policy", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.STOP])
def test_a_tell_that_overflows_while_the_loop_is_closed_counts_its_message_and_raises_nothing(
    mesh: Mesh, policy: Overflow
) -> None:
    """What is dropped is counted; its dead letter, or the agent's failure, would have come in the loop."""
    loop = ClosesWhenAsked()

    async def main() -> tuple[Any, Any]:
        bus = mesh()
        await bus.__aenter__()
        ref = await bus.spawn(lambda payload: payload, mailbox=MailboxPolicy(1, overflow=policy))
        bus.suspend(ref)
        assert ref.tell("waits") is True
        return bus, ref

    bus, ref = loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    outcomes: list[Any] = []

    def tell() -> None:
        try:
            outcomes.append(ref.tell("overflows"))
        except BaseException as error:
            outcomes.append(error)

    loop.asked = True
    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    assert loop.is_closed()
    assert outcomes == [policy is not Overflow.STOP]
    stats = bus.stats()
    assert stats.imbalance is None
    assert (stats.sent, stats.dropped, stats.rejected) == ((2, 0, 1) if policy is Overflow.STOP else (2, 1, 0))


def test_a_tell_that_meets_the_very_end_of_the_loop_is_refused_and_counted(
    run: Run, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is closed after the teller has looked whether it is, and before it is called."""

    def closed(*arguments: object, **options: object) -> None:
        raise RuntimeError("Event loop is closed")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            await asyncio.sleep(0.001)
            outcomes: list[bool] = []
            thread = threading.Thread(target=lambda: outcomes.extend([ref.tell(1), ref.tell(2)]))
            with monkeypatch.context() as patch:
                patch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", closed)
                thread.start()
                thread.join()
            assert outcomes == [False, False]
            counters = ref.counters()
            assert (counters.sent, counters.rejected, counters.accepted) == (2, 2, 0)

    run(main)


def test_tell_after_asyncio_run_ended_returns_false(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[Any, Any]:
        bus = mesh()
        await bus.__aenter__()
        return bus, await bus.spawn(lambda payload: payload)

    bus, ref = asyncio.run(main())
    outcomes: list[bool] = []
    thread = threading.Thread(target=lambda: outcomes.append(ref.tell("late")))
    thread.start()
    thread.join()
    assert outcomes == [False]
    assert ref.tell("late") is False
    assert "was not left before its event loop ended" in caplog.text
    assert bus.stats().imbalance is None


def test_tell_from_threads_while_the_coordinator_is_left_is_counted_once_each(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        accepted = [0] * THREADS
        sent = [0] * THREADS
        over = threading.Event()
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)

            def work(thread: int) -> None:
                while not over.is_set():
                    sent[thread] += 1
                    accepted[thread] += ref.tell(thread)

            threads, errors = start(work)
            await asyncio.sleep(0)
        with pytest.raises((AgentStopped, PmeshError)):
            await ref.ask(1)
        over.set()
        await finished(threads)
        assert errors == []
        counters = ref.counters()
        assert counters.imbalance is None
        assert counters.accepted == sum(accepted) == counters.handled + counters.dead
        assert counters.sent == sum(sent) + 1
        assert counters.pending == 0

    run(main)


def test_what_threads_cause_in_the_loop_leaves_it_its_turn_when_the_slice_is_over(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        letters: list[object] = []
        seen: list[int] = []

        def take(letter: DeadLetter) -> None:
            letters.append(letter.payload)
            loop.advance(0.0001)

        def look() -> None:
            seen.append(len(letters))
            if len(letters) < 200:
                loop.call_soon(look)

        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: None, mailbox=MailboxPolicy(200, overflow=Overflow.DROP_OLDEST))
            bus.suspend(ref)
            bus.dead_letters.subscribe(take)
            # Asks that a thread displaces are answered in the loop.
            asks = [asyncio.ensure_future(ref.ask(number)) for number in range(200)]
            await asyncio.sleep(0)
            thread = threading.Thread(target=ref.tell_many, args=(range(200),))
            thread.start()
            thread.join()
            loop.call_soon(look)
            assert all(isinstance(error, MailboxFull) for error in await asyncio.gather(*asks, return_exceptions=True))
            assert letters == list(range(200))
        # The slice is a millisecond, ten of them; the clock is read at every sixteenth.
        assert max(after - before for before, after in itertools.pairwise(seen)) <= 32

    run(main)


@pytest.mark.parametrize("policy", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
def test_what_threads_drop_while_the_loop_stands_still_does_not_pile_up(run: Run, mesh: Mesh, policy: Overflow) -> None:
    async def main() -> None:
        told: list[int] = []
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: None, mailbox=MailboxPolicy(1, overflow=policy))
            bus.dead_letters.subscribe(lambda letter: told.append(threading.get_ident()))
            thread = threading.Thread(target=lambda: ref.tell_many(range(30_000)))
            thread.start()
            thread.join()
            # All but so many as may wait for the loop.
            assert 20_000 < len(told) < 25_000
            assert threading.get_ident() not in told
            while len(told) < 29_999:
                await asyncio.sleep(0)
            assert bus.stats().dropped == sum(bus.dead_letters.counts.values()) == 29_999
            assert threading.get_ident() in told

    run(main)
