"""The overflow policies through the runtime: what senders hear, and what becomes of the message."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentStopped,
    DeadLetterKind,
    MailboxFull,
    MailboxPolicy,
    Overflow,
    State,
    StopReason,
    handler,
)

Run = Callable[..., Any]
Mesh = Callable[..., Any]
POLICIES = list(Overflow)


class Held(Agent):
    """Handles one message at a time, each only when `gate` is set; notes what it handled."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.handled: list[Any] = []
        self.reason: StopReason | None = None

    async def receive(self, payload: Any) -> Any:
        await self.gate.wait()
        self.handled.append(payload)
        return payload

    @handler(lane="control")
    def control(self, payload: complex) -> str:
        return "control"

    def on_stop(self, reason: StopReason) -> None:
        self.reason = reason


class Eager(Agent):
    """Takes whatever it gets, numbers with an imaginary part before all else."""

    def receive(self, payload: Any) -> None:
        pass

    @handler(lane="control")
    def control(self, payload: complex) -> None:
        pass


async def held(bus: Any, capacity: int = 2, **policy: Any) -> tuple[Any, Held]:
    """A `Held` agent with 0 in its handler and 1 to `capacity` in its full mailbox."""
    made: list[Held] = []

    class Noted(Held):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    ref = await bus.spawn(Noted, mailbox=MailboxPolicy(capacity, **policy), name="held")
    for payload in range(capacity + 1):
        assert ref.tell(payload)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert ref.depth == capacity
    return ref, made[0]


def letters(bus: Any) -> list[tuple[DeadLetterKind, Any]]:
    return [(letter.kind, letter.payload) for letter in bus.dead_letters]


def account(ref: Any, **terms: int) -> None:
    counters = ref.counters()
    assert {name: value for name, value in counters.as_dict().items() if value} == terms
    assert counters.imbalance is None


async def in_a_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


def test_reject_makes_tell_return_false_and_loses_nothing(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus)
            assert ref.tell("late") is False
            assert ref.tell_many(["late", "later"]) == 0
            account(ref, sent=6, accepted=3, rejected=3, pending=3)
            agent.gate.set()
        assert agent.handled == [0, 1, 2]
        assert letters(bus) == []

    run(main)


def test_reject_makes_ask_raise_mailbox_full_at_once(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, agent = await held(bus)
            started = loop.time()
            with pytest.raises(MailboxFull, match=r"'held'.*full.*2"):
                await ref.ask("late", timeout=5)
            assert loop.time() == started
            account(ref, sent=4, accepted=3, rejected=1, pending=3)
            agent.gate.set()

    run(main)


def test_drop_newest_accepts_the_message_and_makes_it_a_dead_letter(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=Overflow.DROP_NEWEST)
            assert ref.tell("late") is True
            assert letters(bus) == [(DeadLetterKind.DROPPED, "late")]
            account(ref, sent=4, accepted=4, dropped=1, pending=3)
            agent.gate.set()
        assert agent.handled == [0, 1, 2]

    run(main)


def test_drop_newest_answers_an_ask_with_mailbox_full_at_once(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=Overflow.DROP_NEWEST)
            started = loop.time()
            with pytest.raises(MailboxFull, match="dropped"):
                await ref.ask("late", timeout=5)
            assert loop.time() == started
            account(ref, sent=4, accepted=4, dropped=1, pending=3)
            agent.gate.set()

    run(main)


def test_drop_oldest_makes_the_displaced_message_a_dead_letter(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=Overflow.DROP_OLDEST)
            assert ref.tell("late") is True
            assert letters(bus) == [(DeadLetterKind.DROPPED, 1)]
            account(ref, sent=4, accepted=4, dropped=1, pending=3)
            agent.gate.set()
        assert agent.handled == [0, 2, "late"]

    run(main)


@pytest.mark.parametrize("where", ["in the loop", "in a thread"])
def test_an_ask_that_is_displaced_gets_mailbox_full_at_once(run: Run, mesh: Mesh, loop_kind: str, where: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, agent = await held(bus, capacity=1, overflow=Overflow.DROP_OLDEST)
            asking = asyncio.ensure_future(ref.ask("asked", timeout=5))
            await asyncio.sleep(0)
            assert letters(bus) == [(DeadLetterKind.DROPPED, 1)]
            started = loop.time()
            told = ref.tell("displaces") if where == "in the loop" else await in_a_thread(lambda: ref.tell("displaces"))
            assert told is True
            with pytest.raises(MailboxFull, match=r"'held'.*dropped"):
                await asking
            assert loop.time() - started < 1
            assert letters(bus)[1:] == [(DeadLetterKind.DROPPED, "asked")]
            account(ref, sent=4, accepted=4, dropped=2, pending=2)
            agent.gate.set()
        assert agent.handled == [0, "displaces"]

    run(main)


def test_stop_rejects_the_message_and_fails_the_agent(
    run: Run, mesh: Mesh, loop_kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=Overflow.STOP)
            asking = asyncio.ensure_future(ref.ask(1j))  # control mail, to be in the mailbox too
            assert ref.tell("overflows") is False
            account(ref, sent=4, accepted=3, rejected=1, pending=3)
            with pytest.raises(AgentStopped):
                await asking
            assert ref.tell("after") is False
            assert sorted(letters(bus), key=repr) == sorted(
                [(DeadLetterKind.STOPPED, payload) for payload in (1, 2, 1j)], key=repr
            )
            assert bus.state(ref) is State.STOPPING
            agent.gate.set()
            await bus.stop(ref)
            assert agent.handled == [0]
            assert agent.reason is StopReason.FAILED
            account(ref, sent=6, accepted=4, rejected=2, handled=1, dead=3)
            assert bus.agents == ()
        assert "'held' failed: its mailbox overflowed with str" in caplog.text

    run(main)


def test_stop_makes_an_overflowing_ask_raise_mailbox_full(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=Overflow.STOP)
            with pytest.raises(MailboxFull):
                await ref.ask("overflows")
            await asyncio.sleep(0)  # it fails on the loop
            agent.gate.set()
            await bus.stop(ref)
            assert agent.reason is StopReason.FAILED

    run(main)


def test_stop_fails_the_agent_on_the_loop_also_when_a_thread_overflows_it(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        threads: list[int] = []
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=Overflow.STOP)
            bus.dead_letters.subscribe(lambda letter: threads.append(threading.get_ident()))
            assert await in_a_thread(lambda: ref.tell_many(["overflows"] * 5)) == 0
            # A thread that is done before it is awaited gives the loop no turn.
            await asyncio.sleep(0)
            agent.gate.set()
            await bus.stop(ref)
            assert agent.reason is StopReason.FAILED
            assert agent.handled == [0]
            assert set(threads) == {threading.get_ident()}

    run(main)


def test_dead_letters_of_mail_dropped_by_a_thread_are_told_on_the_loop(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        threads: list[int] = []
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=Overflow.DROP_OLDEST)
            bus.dead_letters.subscribe(lambda letter: threads.append(threading.get_ident()))
            assert await in_a_thread(lambda: ref.tell_many(range(5))) == 5
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert threads == [threading.get_ident()] * 5
            account(ref, sent=8, accepted=8, dropped=5, pending=3)
            agent.gate.set()

    run(main)


@pytest.mark.parametrize("policy", POLICIES)
def test_send_waits_for_room_under_every_policy(run: Run, mesh: Mesh, policy: Overflow, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=policy)
            sending = asyncio.ensure_future(ref.send("patient"))
            await asyncio.sleep(0)
            assert not sending.done()
            account(ref, sent=3, accepted=3, pending=3)
            agent.gate.set()
            await sending
            assert (ref.counters().sent, ref.counters().accepted) == (4, 4)
        assert agent.handled == [0, 1, 2, "patient"]
        assert letters(bus) == []

    run(main)


@pytest.mark.parametrize("policy", POLICIES)
def test_send_raises_mailbox_full_at_its_timeout_under_every_policy(run: Run, mesh: Mesh, policy: Overflow) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, agent = await held(bus, overflow=policy)
            started = loop.time()
            with pytest.raises(MailboxFull, match=r"'held'.*2\.5 s"):
                await ref.send("patient", timeout=2.5)
            assert loop.time() - started == pytest.approx(2.5, abs=1e-6)
            account(ref, sent=4, accepted=3, rejected=1, pending=3)
            assert bus.state(ref) is State.RUNNING
            agent.gate.set()

    run(main)


@pytest.mark.parametrize("policy", [Overflow.DROP_NEWEST, Overflow.DROP_OLDEST])
def test_a_tell_cannot_take_the_place_that_was_promised_to_a_waiting_sender(
    run: Run, mesh: Mesh, policy: Overflow
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, capacity=1, overflow=policy)
            sending = asyncio.ensure_future(ref.send("patient"))
            await asyncio.sleep(0)
            agent.gate.set()
            while not sending.done():
                ref.tell("pushy")
                await asyncio.sleep(0)
            await sending
        assert "patient" in agent.handled
        assert bus.stats().dropped == len(letters(bus))

    run(main)


# Control lane and bytes.


@pytest.mark.parametrize("policy", POLICIES)
def test_control_mail_finds_room_beside_a_full_normal_lane(run: Run, mesh: Mesh, policy: Overflow) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, capacity=1, overflow=policy)
            assert ref.tell(1j) is True
            assert ref.tell(2j) is False
            assert letters(bus) == []
            assert bus.state(ref) is State.RUNNING
            agent.gate.set()

    run(main)


def test_a_control_send_does_not_wait_behind_senders_of_normal_mail(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, capacity=1)
            normal = asyncio.ensure_future(ref.send("waits"))
            await asyncio.sleep(0)
            await ref.send(1j, timeout=1)
            assert not normal.done()
            agent.gate.set()
            await normal

    run(main)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_payload_larger_than_max_bytes_is_refused_at_once_under_every_policy(
    run: Run, mesh: Mesh, policy: Overflow
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(len, mailbox=MailboxPolicy(max_bytes=10, overflow=policy), name="small")
            started = loop.time()
            assert ref.tell(b"x" * 11) is False
            for call in (ref.ask, ref.send):
                with pytest.raises(MailboxFull, match=r"'small'.*11 bytes.*10"):
                    await call("x" * 11)
            assert loop.time() == started
            assert await ref.ask(b"x" * 10) == 10
            assert bus.state(ref) is State.RUNNING
            account(ref, sent=4, accepted=1, rejected=3, handled=1)

    run(main)


def test_drop_oldest_displaces_as_many_as_the_bytes_need(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(
                bus,
                capacity=4,
                overflow=Overflow.DROP_OLDEST,
                max_bytes=4,
                size=lambda payload: 4 if payload == "big" else 1,
            )
            assert ref.tell("big") is True
            assert letters(bus) == [(DeadLetterKind.DROPPED, payload) for payload in (1, 2, 3, 4)]
            agent.gate.set()
        assert agent.handled == [0, "big"]

    run(main)


def test_send_waits_for_bytes_as_it_does_for_places(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await held(bus, capacity=3, max_bytes=3, size=lambda payload: 2 if payload == "two" else 1)
            sends = [asyncio.ensure_future(ref.send(payload)) for payload in ("two", "one")]
            await asyncio.sleep(0)
            assert [send.done() for send in sends] == [False, False]
            agent.gate.set()
            await asyncio.gather(*sends)
        assert agent.handled == [0, 1, 2, 3, "two", "one"]

    run(main)


def test_a_send_that_would_fit_waits_behind_one_that_does_not(run: Run, mesh: Mesh) -> None:
    handled: list[Any] = []

    async def main() -> None:
        permits = asyncio.Semaphore(0)

        async def handle(payload: Any) -> None:
            await permits.acquire()
            handled.append(payload)

        policy = MailboxPolicy(max_bytes=3, size=lambda payload: 2 if payload == "two" else 1)
        async with mesh() as bus:
            ref = await bus.spawn(handle, mailbox=policy)
            for payload in range(4):
                ref.tell(payload)
                await asyncio.sleep(0.001)
            sends = [asyncio.ensure_future(ref.send("two"))]
            await asyncio.sleep(0.001)
            permits.release()
            await asyncio.sleep(0.001)
            assert (ref.depth, handled) == (2, [0])  # a byte is free, which is not enough for the one that waits
            sends.append(asyncio.ensure_future(ref.send("one")))
            await asyncio.sleep(0.001)
            assert [send.done() for send in sends] == [False, False]
            for _ in range(5):
                permits.release()
            await asyncio.gather(*sends)
        assert handled == [0, 1, 2, 3, "two", "one"]

    run(main)


@pytest.mark.parametrize("payload", ["normal", 1j], ids=["normal", "control"])
@pytest.mark.parametrize("capacity", [1, 2])
def test_any_number_of_sends_one_after_the_other_find_room_in_either_lane(
    run: Run, mesh: Mesh, payload: Any, capacity: int
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Eager, mailbox=MailboxPolicy(capacity))
            for _ in range(10):
                await ref.send(payload, timeout=1.0)
                await asyncio.sleep(0.001)
            account(ref, sent=10, accepted=10, handled=10)

    run(main)


@pytest.mark.parametrize("how", ["tell", "ask", "send"])
@pytest.mark.parametrize("value", [-1, "many", ZeroDivisionError])
def test_a_failing_size_raises_in_the_sender_and_counts_nothing(run: Run, mesh: Mesh, how: str, value: Any) -> None:
    def size(payload: object) -> Any:
        if value is ZeroDivisionError:
            raise value
        return value

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, mailbox=MailboxPolicy(max_bytes=10, size=size))
            with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
                if how == "tell":
                    ref.tell(1)
                else:
                    await getattr(ref, how)(1)
            account(ref)
            assert bus._dispatcher.in_window == 0

    run(main)
