"""Dead letters: exact counts, a bounded number kept, a short log, and subscription."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentStopped,
    AskTimeout,
    DeadLetter,
    DeadLetterKind,
    DeadLetters,
    InvalidType,
    MailboxFull,
    MailboxPolicy,
    Overflow,
    UnhandledMessage,
    UnknownAgent,
    handler,
)

Run = Callable[..., Any]
Mesh = Callable[..., Any]


def letter(payload: Any = "x", kind: DeadLetterKind = DeadLetterKind.DROPPED) -> DeadLetter:
    return DeadLetter(kind, payload, "receiver", None)


class Ints(Agent):
    mailbox = MailboxPolicy(1, overflow=Overflow.DROP_OLDEST)

    @handler
    async def number(self, payload: int) -> int:
        await asyncio.sleep(payload)
        return payload


def test_every_kind_is_made_by_what_its_name_says(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Ints, name="ints")
            ref.tell("unhandled")
            await asyncio.sleep(0)
            with pytest.raises(UnknownAgent):
                bus.tell("nobody", "unknown")
            cell = bus._life_of(ref).cell
            cell.pause()
            ref.tell("dropped")
            ref.tell("expired", ttl=0.001)
            await asyncio.sleep(0.003)
            cell.resume()
            await asyncio.sleep(0)
            cell.pause()
            ref.tell("stopped")
            await bus.stop(ref)
            assert [(entry.kind, entry.payload, entry.receiver, entry.sender) for entry in bus.dead_letters] == [
                (
                    DeadLetterKind(payload),
                    payload,
                    "nobody" if payload == "unknown" else "ints",
                    None,
                )
                for payload in ("unhandled", "unknown", "dropped", "expired", "stopped")
            ]
            assert bus.dead_letters.counts == dict.fromkeys(DeadLetterKind, 1)
            stats = bus.stats()
            assert (stats.dead, stats.dropped, stats.expired, stats.rejected) == (2, 1, 1, 1)

    run(main)


def test_each_kind_of_dead_ask_raises_its_own_error(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Ints, name="ints")
            cell = bus._life_of(ref).cell
            with pytest.raises(UnhandledMessage):
                await ref.ask("unhandled")
            cell.pause()
            asks = [asyncio.ensure_future(ref.ask(payload, timeout=1)) for payload in ("dropped", "expired")]
            outcomes = await asyncio.gather(*asks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [MailboxFull, AskTimeout]
            cell.resume()
            await asyncio.sleep(0)
            cell.pause()
            asking = asyncio.ensure_future(ref.ask("stopped"))
            await asyncio.sleep(0)
            await bus.stop(ref)
            with pytest.raises(AgentStopped):
                await asking
            assert [entry.kind.value for entry in bus.dead_letters] == [
                "unhandled",
                "dropped",
                "expired",
                "stopped",
            ]

    run(main)


def test_a_letter_names_the_agent_whose_handler_sent_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ints = await bus.spawn(Ints, name="ints")
            sender = await bus.spawn(ints.tell, name="sender")
            sender.tell("not for ints")
            await asyncio.sleep(0)
            assert [entry.sender for entry in bus.dead_letters] == [sender]

    run(main)


def test_an_expired_message_is_not_handled_and_one_in_time_is(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        handled: list[int] = []
        async with mesh() as bus:
            ref = await bus.spawn(handled.append)
            cell = bus._life_of(ref).cell
            cell.pause()
            for number, ttl in enumerate([1, 2, 3, None]):
                ref.tell(number, ttl=ttl)
            await asyncio.sleep(2)
            cell.resume()
            await asyncio.sleep(0)
            # A deadline that is now has passed.
            assert handled == [2, 3]
            assert [entry.payload for entry in bus.dead_letters] == [0, 1]
            counters = ref.counters()
            assert (counters.handled, counters.expired) == (2, 2)

    run(main)


def test_the_time_to_live_of_tell_many_is_that_of_each_message(run: Run, mesh: Mesh) -> None:
    async def slow(payload: int) -> None:
        await asyncio.sleep(1.0)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(slow)
            assert ref.tell_many(range(3), ttl=0.5) == 3
            assert bus.tell_many(ref, range(3, 5), ttl=1.5) == 2
            await asyncio.sleep(3.0)
            assert [letter.payload for letter in bus.dead_letters] == [1, 2, 4]
            counters = ref.counters()
            assert (counters.handled, counters.expired) == (2, 3)

    run(main)


def test_counts_are_exact_and_the_newest_letters_are_kept() -> None:
    letters = DeadLetters(3)
    for number in range(25):
        letters.add(letter(number, list(DeadLetterKind)[number % 5]))
    assert letters.counts == dict.fromkeys(DeadLetterKind, 5)
    assert [entry.payload for entry in letters] == [22, 23, 24]
    assert len(letters) == 3


def test_none_may_be_kept_and_all_are_counted() -> None:
    letters = DeadLetters(0)
    letters.add(letter())
    assert len(letters) == 0
    assert letters.counts[DeadLetterKind.DROPPED] == 1


def test_counts_are_exact_when_threads_add_at_once() -> None:
    letters = DeadLetters(10)
    seen: list[DeadLetter] = []
    letters.subscribe(seen.append)
    threads = [threading.Thread(target=lambda: [letters.add(letter()) for _ in range(2_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert letters.counts[DeadLetterKind.DROPPED] == len(seen) == 8_000


def test_the_log_prints_the_first_ten_and_then_a_summary(caplog: pytest.LogCaptureFixture) -> None:
    letters = DeadLetters()
    with caplog.at_level(logging.WARNING, "pmesh.dead_letters"):
        for _ in range(3_000):
            letters.add(letter())
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:9] == ["dead letter (dropped): str to agent 'receiver'"] * 9
    assert messages[9] == "dead letter (dropped): str to agent 'receiver'; further ones are summed up"
    assert messages[10:] == [f"{count} dead letters so far: {count} dropped" for count in (1_000, 2_000, 3_000)]


def test_what_the_log_left_out_is_summed_up_when_the_coordinator_is_left(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Ints)
            for _ in range(500):
                ref.tell("unhandled")
                await asyncio.sleep(0)
        assert bus.dead_letters.counts[DeadLetterKind.UNHANDLED] == 500
        assert "500 unhandled" in caplog.text

    run(main)


def test_the_log_does_not_show_payloads(caplog: pytest.LogCaptureFixture) -> None:
    DeadLetters().add(letter("a secret"))
    assert "secret" not in caplog.text


def test_a_subscriber_sees_each_letter_until_it_unsubscribes() -> None:
    letters = DeadLetters()
    seen: list[Any] = []
    unsubscribe = letters.subscribe(lambda entry: seen.append(entry.payload))
    letters.add(letter(1))
    letters.add(letter(2))
    unsubscribe()
    unsubscribe()
    letters.add(letter(3))
    assert seen == [1, 2]


def test_a_failing_subscriber_is_logged_and_keeps_nobody_from_the_letters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    letters = DeadLetters()
    seen: list[Any] = []

    def fails(entry: DeadLetter) -> None:
        raise ZeroDivisionError("on purpose")

    letters.subscribe(fails)
    letters.subscribe(seen.append)
    letters.add(letter())
    letters.add(letter())
    assert len(seen) == 2
    assert caplog.text.count("a subscriber of dead letters failed") == 2


def test_a_subscriber_may_unsubscribe_and_subscribe_while_it_is_called() -> None:
    letters = DeadLetters()
    seen: list[str] = []

    def once(entry: DeadLetter) -> None:
        seen.append("once")
        unsubscribe()
        letters.subscribe(lambda entry: seen.append("later"))

    unsubscribe = letters.subscribe(once)
    letters.subscribe(lambda entry: seen.append("always"))
    letters.add(letter())
    letters.add(letter())
    assert seen == ["once", "always", "always", "later"]


def test_the_same_subscriber_subscribed_twice_unsubscribes_one_at_a_time() -> None:
    letters = DeadLetters()
    seen: list[DeadLetter] = []
    first, second = letters.subscribe(seen.append), letters.subscribe(seen.append)
    first()
    first()
    letters.add(letter())
    assert len(seen) == 1
    second()
    letters.add(letter())
    assert len(seen) == 1


def test_a_subscriber_must_be_callable() -> None:
    with pytest.raises(InvalidType, match="subscriber is 5; it must be callable"):
        DeadLetters().subscribe(5)  # type: ignore[arg-type]


def test_a_subscriber_that_sends_what_dies_again_does_not_recurse_without_end(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Ints)
            again = iter(range(100))

            def resend(entry: DeadLetter) -> None:
                if next(again, None) is not None:
                    ref.tell("again")

            bus.dead_letters.subscribe(resend)
            ref.tell("unhandled")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert bus.dead_letters.counts[DeadLetterKind.UNHANDLED] == 101
            assert bus.stats().imbalance is None

    run(main)


def test_threads_that_drop_beside_one_that_keeps_the_interpreter_busy_are_not_slowed_to_its_switches() -> None:
    """A lock of Python's would be handed over every 5 ms at best: minutes for what takes a second."""
    letters = DeadLetters()
    letter = DeadLetter(DeadLetterKind.DROPPED, None, "one", None)
    over = threading.Event()

    def add() -> None:
        for _ in range(100_000):
            letters.add(letter)

    def keep_busy() -> None:
        while not over.is_set():
            sum(range(100_000))

    busy = threading.Thread(target=keep_busy, daemon=True)
    threads = [threading.Thread(target=add, daemon=True) for _ in range(4)]
    busy.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    still = [thread for thread in threads if thread.is_alive()]
    over.set()
    busy.join()
    assert not still
    assert letters.counts[DeadLetterKind.DROPPED] == 400_000
    assert len(letters) == 1_000
