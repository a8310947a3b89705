"""Cancellation: of calls in each of their three moments, of handlers, of idle slots, of the whole loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import make_loop

from pmesh import (
    Agent,
    AgentStopped,
    AskTimeout,
    Coordinator,
    HandlerCancelled,
    InvalidArgument,
    MailboxFull,
    MailboxPolicy,
    StopReason,
    handler,
)


class Gated(Agent):
    """Handles an int after the gate is open; tells what it did."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started: list[object] = []
        self.handled: list[object] = []
        self.cancelled: list[object] = []
        self.tasks: list[asyncio.Task[Any]] = []

    @handler
    async def handle(self, message: int) -> int:
        self.started.append(message)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise
        self.handled.append(message)
        return message


async def gated(bus: Coordinator, **options: Any) -> tuple[Any, Gated]:
    made: list[Gated] = []

    class Here(Gated):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    ref = await bus.spawn(Here, **options)
    return ref, made[0]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# A call that is cancelled before, during, and in the same tick.


def test_a_send_cancelled_before_it_began_counts_nowhere(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus)
            sending = asyncio.create_task(ref.send(1))
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert bus.stats().sent == 0
            assert agent.started == []

    run(main)


def test_a_send_cancelled_while_it_waits_for_room_counts_nowhere(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus, mailbox=MailboxPolicy(capacity=1))
            ref.tell(1)
            await turns()
            ref.tell(2)
            sending = asyncio.create_task(ref.send(3))
            after = asyncio.create_task(ref.send(4))
            await turns()
            assert not sending.done()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert bus.stats().sent == 2
            agent.gate.set()
            await after
            while bus.stats().pending:
                await turns()
            assert agent.handled == [1, 2, 4]

    run(main)


def test_a_send_cancelled_in_the_tick_of_its_grant_passes_the_place_on(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus, mailbox=MailboxPolicy(capacity=1))
            ref.tell(1)
            await turns()
            ref.tell(2)
            first = asyncio.create_task(ref.send(3))
            second = asyncio.create_task(ref.send(4))
            await turns()
            agent.gate.set()

            def cancel_in_the_tick_of_the_grant() -> None:
                # Runs each turn until message 2 was taken, which grants its place to `first`.
                if 2 in agent.started:
                    first.cancel()
                elif not first.done():
                    asyncio.get_running_loop().call_soon(cancel_in_the_tick_of_the_grant)

            cancel_in_the_tick_of_the_grant()
            with contextlib.suppress(asyncio.CancelledError):
                await first
            await second
            while bus.stats().pending:
                await turns()
            stats = bus.stats()
            assert stats.sent == stats.handled == (3 if first.cancelled() else 4)
            assert ref.tell(5)

    run(main)


@pytest.mark.parametrize("kind", ["room", "window", "both"])
@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_place_granted_to_a_cancelled_send_is_never_lost(
    run: Any, mesh: Any, loop_kind: str, kind: str, places: int, ahead: int
) -> None:
    async def main() -> None:
        mailbox = MailboxPolicy(capacity=1000 if kind == "window" else places)
        got: list[int] = []
        senders: list[asyncio.Task[None]] = []

        class Canceller(Agent):
            """Plain, so that what it cancels may be granted a place in the very same drain."""

            @handler
            def handle(self, message: int) -> None:
                got.append(message)
                victim = message + places + ahead
                if message % 3 == 0 and victim < len(senders):
                    senders[victim].cancel()

        async with mesh(window=None if kind == "room" else places, drain_timeout=1) as bus:
            ref = await bus.spawn(Canceller, mailbox=mailbox)
            senders += [asyncio.create_task(ref.send(number, timeout=1)) for number in range(30)]
            results = await asyncio.gather(*senders, return_exceptions=True)
            while bus.stats().pending:
                await turns()
            refused = [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)]
            assert refused == []
            assert got == sorted(got)
            assert [n for n, result in enumerate(results) if result is None] == got
            assert bus.stats().sent == bus.stats().handled == len(got)
            # Every place is free again.
            for number in range(100, 100 + 3 * places):
                await ref.send(number, timeout=1)

    run(main)


@pytest.mark.parametrize("kind", ["room", "window"])
def test_a_place_that_falls_free_as_a_send_times_out_is_never_lost(run: Any, mesh: Any, kind: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        class Slow(Agent):
            @handler
            def handle(self, message: int) -> None:
                # Others time out while this keeps the loop busy, and are swept in the turn it ends.
                loop.advance(0.4)

        policy = MailboxPolicy(capacity=1000 if kind == "window" else 2)
        async with mesh(window=2 if kind == "window" else None) as bus:
            ref = await bus.spawn(Slow, mailbox=policy)
            results = await asyncio.gather(*(ref.send(n, timeout=1) for n in range(40)), return_exceptions=True)
            assert any(isinstance(result, MailboxFull) for result in results)
            while bus.stats().pending:
                await turns()
            stats = bus.stats()
            assert stats.handled == results.count(None)
            assert stats.rejected == 40 - results.count(None)
            for number in range(10):
                await ref.send(number, timeout=5)

    run(main)


@pytest.mark.parametrize("when", ["before", "during", "same tick"])
def test_a_send_that_waits_for_the_window_can_be_cancelled(run: Any, mesh: Any, loop_kind: str, when: str) -> None:
    async def main() -> None:
        released = []

        class Slow(Agent):
            @handler
            def handle(self, message: int) -> None:
                released.append(message)
                if when == "same tick" and message == 1:
                    sending.cancel()

        async with mesh(window=1) as bus:
            ref = await bus.spawn(Slow)
            # Takes the window's one place until the dispatcher has its turn.
            await ref.send(1)
            sending = asyncio.create_task(ref.send(2))
            if when == "before":
                sending.cancel()
            elif when == "during":
                asyncio.get_running_loop().call_soon(sending.cancel)
            third = asyncio.create_task(ref.send(3))
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            await third
            while bus.stats().pending:
                await turns()
            assert released in ([1, 3], [1, 2, 3])
            assert (2 in released) is not sending.cancelled()
            assert bus.stats().sent == len(released)
            async with asyncio.timeout(1):
                await ref.send(4)

    run(main)


def test_an_ask_cancelled_before_it_began_sends_nothing(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus)
            asking = asyncio.create_task(ref.ask(1))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert bus.stats().sent == 0
            assert agent.started == []

    run(main)


def test_an_ask_cancelled_while_it_waits_is_still_handled_and_its_answer_discarded(
    run: Any, mesh: Any, loop_kind: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus)
            asking = asyncio.create_task(ref.ask(1))
            await turns()
            asking.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert agent.cancelled == []
            agent.gate.set()
            assert await ref.ask(2) == 2
            assert agent.handled == [1, 2]
            assert bus.stats().handled == 2

    run(main)


def test_an_ask_cancelled_in_the_tick_of_its_answer_is_cancelled(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        asking: asyncio.Task[Any]

        def answer_and_cancel(payload: str) -> str:
            if payload == "first":
                # The answer is settled when this returns, in the same turn.
                asyncio.get_running_loop().call_soon(asking.cancel)
            elif payload == "second":
                asking.cancel()
            return payload

        async with mesh() as bus:
            ref = await bus.spawn(answer_and_cancel)
            for payload in ("first", "second"):
                asking = asyncio.create_task(ref.ask(payload))
                await asyncio.wait([asking])
                if payload == "second":
                    assert asking.cancelled()
                else:
                    assert asking.cancelled() or asking.result() == payload
            assert await ref.ask("third") == "third"
            assert bus.stats().handled == 3

    run(main)


def test_wait_for_around_an_ask_times_out_and_leaves_the_agent_alone(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus)
            with pytest.raises(TimeoutError) as caught:
                await asyncio.wait_for(ref.ask(1), 0.002)
            assert not isinstance(caught.value, AskTimeout)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):
                    await ref.ask(2)
            agent.gate.set()
            assert await asyncio.wait_for(ref.ask(3), 5) == 3
            assert agent.cancelled == []
            assert agent.handled == [1, 2, 3]

    run(main)


def test_shield_keeps_an_ask_going(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus)
            asking = asyncio.ensure_future(ref.ask(1))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):
                    await asyncio.shield(asking)
            agent.gate.set()
            assert await asking == 1

    run(main)


# A handler whose own task is cancelled.


@pytest.mark.parametrize("suspended", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("warm", [False, True], ids=["first", "later"])
def test_a_handler_that_cancels_its_own_task_is_cancelled_at_its_next_wait(
    run: Any, mesh: Any, loop_kind: str, suspended: bool, warm: bool
) -> None:
    reached: list[str] = []

    async def agent(payload: str) -> str:
        if suspended:
            await asyncio.sleep(0)
        if payload == "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel("by myself")
            reached.append("before the wait")
            await asyncio.sleep(60)
            reached.append("after the wait")
        return payload

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent)
            if warm:
                assert await ref.ask("ok") == "ok"
            with pytest.raises(HandlerCancelled) as caught:
                await ref.ask("cancel")
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
            assert reached == ["before the wait"]
            assert await ref.ask("ok") == "ok"
            assert bus.stats().failed == 1
            assert ref.is_alive

    run(main)


def test_the_message_of_a_cancellation_reaches_the_handler(run: Any, mesh: Any, loop_kind: str) -> None:
    caught: list[object] = []

    async def agent(payload: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if payload == 1:
            task.cancel("reason 1")
        else:
            asyncio.get_running_loop().call_soon(task.cancel, "reason 2")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            caught.extend(error.args)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent)
            await ref.ask(1)
            await ref.ask(2)
            assert caught == ["reason 1", "reason 2"]

    run(main)


@pytest.mark.parametrize("warm", [False, True], ids=["first", "later"])
def test_a_cancel_between_hand_over_and_resumption_reaches_what_the_handler_waits_for(
    run: Any, mesh: Any, loop_kind: str, warm: bool
) -> None:
    waited: list[asyncio.Future[None]] = []
    tasks: list[asyncio.Task[Any]] = []
    outcome: list[str] = []

    async def waiter(payload: str) -> str:
        if payload == "warm":
            return payload
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        waited.append(asyncio.get_running_loop().create_future())
        try:
            await waited[0]
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise
        return payload

    def canceller(payload: str) -> None:
        # Runs in the same drain, right after the waiter was handed over.
        tasks[0].cancel()

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(waiter, name="waiter")
            other = await bus.spawn(canceller)
            if warm:
                await ref.ask("warm")
            asking = asyncio.create_task(ref.ask("wait"))
            cancelling = asyncio.create_task(other.ask("cancel"))
            await cancelling
            with pytest.raises(HandlerCancelled):
                await asking
            assert waited[0].cancelled()
            assert outcome == ["cancelled"]
            assert ref.is_alive
            assert bus.stats().agents["waiter"].failed == 1
            assert await ref.ask("warm") == "warm"

    run(main)


class Refusing(asyncio.Future[Any]):
    """A future that cannot be cancelled."""

    def cancel(self, msg: object = None) -> bool:
        return False


@pytest.mark.parametrize("when", ["at hand-over", "later"])
@pytest.mark.parametrize("warm", [False, True], ids=["first", "later"])
def test_a_handler_waiting_for_a_future_that_refuses_is_cancelled_all_the_same(
    run: Any, mesh: Any, loop_kind: str, warm: bool, when: str
) -> None:
    outcome: list[str] = []
    futures: list[Refusing] = []
    tasks: list[asyncio.Task[Any]] = []

    async def agent(payload: str) -> str:
        if payload == "wait":
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            futures.append(Refusing(loop=asyncio.get_running_loop()))
            try:
                await futures[0]
            except asyncio.CancelledError:
                outcome.append("cancelled")
                raise
        return payload

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent)
            if warm:
                await ref.ask("ok")
            other = await bus.spawn(lambda payload: tasks[0].cancel())
            asking = asyncio.create_task(ref.ask("wait"))
            try:
                if when == "at hand-over":
                    # In the same drain, right after the handler was handed over.
                    cancelling = asyncio.create_task(other.ask(1))
                    await cancelling
                else:
                    await turns()
                    tasks[0].cancel()
                await turns()
            finally:
                # As with any task, the cancellation is delivered once the future lets go.
                if futures and not futures[0].done():
                    futures[0].set_result("too late")
            with pytest.raises(HandlerCancelled):
                await asking
            assert outcome == ["cancelled"]
            assert await ref.ask("ok") == "ok"
            assert bus.stats().pending == 0

    run(main)


def test_cancelling_the_task_of_a_handler_from_outside_fails_that_message_only(
    run: Any, mesh: Any, loop_kind: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus, concurrency=2)
            first = asyncio.create_task(ref.ask(1))
            second = asyncio.create_task(ref.ask(2))
            third = asyncio.create_task(ref.ask(3))
            await turns()
            agent.tasks[0].cancel()
            with pytest.raises(HandlerCancelled):
                await first
            agent.gate.set()
            assert await second == 2
            assert await third == 3
            assert ref.is_alive
            assert (bus.stats().failed, bus.stats().handled) == (1, 2)

    run(main)


def test_a_handler_may_refuse_a_cancellation(run: Any, mesh: Any, loop_kind: str) -> None:
    async def stubborn(payload: int) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "stayed"

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(stubborn, name="stubborn")
            asking = asyncio.create_task(ref.ask(1))
            await turns()
            (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "stubborn")
            task.cancel()
            assert await asking == "stayed"
            assert bus.stats().handled == 1

    run(main)


# An idle slot whose task is cancelled.


@pytest.mark.parametrize("handled_before", [0, 1], ids=["after_on_start", "after_a_message"])
def test_cancelling_an_idle_task_kills_the_agent(
    run: Any, mesh: Any, loop_kind: str, handled_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    reasons: list[StopReason] = []

    class Idle(Agent):
        async def on_start(self) -> None:
            self.task = asyncio.current_task()

        async def receive(self, payload: object) -> object:
            return self.task

        async def on_stop(self, reason: StopReason) -> None:
            await asyncio.sleep(0)
            reasons.append(reason)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Idle, name="idle")
            for _ in range(handled_before):
                await ref.ask(1)
            await turns()
            (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "idle")
            task.cancel()
            while "idle" in bus.agents:
                await turns()
            assert reasons == [StopReason.KILLED]
            assert not ref.tell(1)
            with pytest.raises(AgentStopped):
                await ref.ask(1)

    run(main)
    assert "cancelled from outside" in caplog.text


@pytest.mark.parametrize("told", ["before", "after"])
def test_mail_told_in_the_tick_of_an_idle_cancel_is_accounted_for(
    run: Any, mesh: Any, loop_kind: str, told: str
) -> None:
    async def agent(payload: int) -> int:
        await asyncio.sleep(0)
        return payload

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent, name="idle")
            assert await ref.ask(1) == 1
            await turns()
            (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "idle")
            if told == "before":
                ref.tell(2)
            task.cancel()
            if told == "after":
                ref.tell(2)
            while "idle" in bus.agents:
                await turns()
            stats = bus.stats()
            assert stats.pending == 0
            assert stats.imbalance is None

    run(main)


def test_a_handler_that_cancels_another_idle_slot_of_its_agent_loses_no_mail(
    run: Any, mesh: Any, loop_kind: str
) -> None:
    tasks: set[asyncio.Task[Any]] = set()

    async def agent(payload: str) -> str:
        mine = asyncio.current_task()
        assert mine is not None
        tasks.add(mine)
        if payload == "cancel":
            for task in tasks - {mine}:
                task.cancel()
        await asyncio.sleep(0.001)
        return payload

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(agent, concurrency=2, name="two")
            await asyncio.gather(ref.ask("a"), ref.ask("b"))
            assert len(tasks) == 2
            results = await asyncio.gather(
                ref.ask("cancel", timeout=1), ref.ask("c", timeout=1), ref.ask("d", timeout=1),
                return_exceptions=True,
            )  # fmt: skip
            # The agent was killed by that; each asker has heard so or got its answer.
            assert not any(isinstance(result, AskTimeout) for result in results), results
            while "two" in bus.agents:
                await turns()
            assert bus.stats().pending == 0

    run(main)


# kill.


def test_kill_cancels_the_handler_and_counts_its_message_failed(
    run: Any, mesh: Any, loop_kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus)
            asks = [asyncio.create_task(ref.ask(number)) for number in range(3)]
            await turns()
            await bus.kill(ref)
            results = await asyncio.gather(*asks, return_exceptions=True)
            assert isinstance(results[0], HandlerCancelled | AgentStopped)
            assert [type(result) for result in results[1:]] == [AgentStopped] * 2
            assert agent.cancelled == [0]
            stats = bus.stats()
            assert (stats.failed, stats.dead, stats.pending) == (1, 2, 0)

    run(main)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("suspended", [False, True], ids=["before", "after"])
def test_a_handler_may_kill_its_own_agent(run: Any, mesh: Any, loop_kind: str, suspended: bool) -> None:
    reached: list[str] = []

    class Suicide(Agent):
        async def receive(self, payload: object) -> None:
            if suspended:
                await asyncio.sleep(0)
            await self.context.coordinator.kill(self.context.ref)
            reached.append("kill returned")
            await asyncio.sleep(60)
            reached.append("went on")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Suicide, name="s")
            with pytest.raises((HandlerCancelled, AgentStopped)):
                await ref.ask(1)
            while "s" in bus.agents:
                await turns()
            assert "went on" not in reached
            assert (bus.stats().failed, bus.stats().pending) == (1, 0)

    run(main)


def test_kill_wakes_those_who_wait_for_room(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await gated(bus, mailbox=MailboxPolicy(capacity=1))
            ref.tell(1)
            await turns()
            ref.tell(2)
            sending = asyncio.create_task(ref.send(3))
            await turns()
            await bus.kill(ref)
            with pytest.raises(AgentStopped):
                await sending

    run(main)


def test_an_asker_that_is_killed_leaves_its_ask_to_be_handled(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, agent = await gated(bus)
            front = await bus.spawn(lambda payload: ref.ask(payload))
            asking = asyncio.create_task(front.ask(1))
            await turns()
            await bus.kill(front)
            with pytest.raises((HandlerCancelled, AgentStopped)):
                await asking
            assert agent.cancelled == []
            agent.gate.set()
            assert await ref.ask(2) == 2
            assert agent.handled == [1, 2]

    run(main)


def test_a_send_to_an_own_full_mailbox_fails_at_once(run: Any, mesh: Any, loop_kind: str) -> None:
    class Self(Agent):
        mailbox = MailboxPolicy(capacity=1)

        async def receive(self, payload: object) -> str:
            if payload != "start":
                return "done"
            self.context.ref.tell("fills it")
            with pytest.raises(MailboxFull, match="its own full mailbox"):
                await self.context.ref.send("no room")
            return "refused"

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Self)
            assert await ref.ask("start") == "refused"

    run(main)


# The end of the loop under a coordinator that was never left.


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("stop_waits", [0, 5], ids=["prompt_on_stop", "waiting_on_stop"])
def test_teardown_by_asyncio_run_kills_the_agents_and_does_not_hang(
    loop_kind: str, busy: bool, stop_waits: int, caplog: pytest.LogCaptureFixture
) -> None:
    reasons: list[StopReason] = []
    cancelled: list[object] = []
    reported: list[dict[str, Any]] = []
    kept: list[Any] = []

    class Worker(Agent):
        async def on_start(self) -> None:
            await asyncio.sleep(0)

        async def receive(self, payload: object) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(payload)
                raise

        async def on_stop(self, reason: StopReason) -> None:
            for _ in range(stop_waits):
                await asyncio.sleep(0)
            reasons.append(reason)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        bus = Coordinator("left", clock=getattr(loop, "clock", None))
        await bus.__aenter__()
        refs = [await bus.spawn(Worker, name=f"w{number}") for number in range(3)]
        if busy:
            for ref in refs:
                ref.tell_many(["in hand", "waits"])
            await turns()
        kept.extend([bus, *refs])

    with asyncio.Runner(loop_factory=lambda: make_loop(loop_kind)) as runner:
        runner.run(main())
    assert reasons == [StopReason.KILLED] * 3
    assert cancelled == (["in hand"] * 3 if busy else [])
    bus, *refs = kept
    stats = bus.stats()
    assert stats.imbalance is None
    assert (stats.failed, stats.dead, stats.pending) == ((3, 3, 0) if busy else (0, 0, 0))
    assert not any(ref.tell("late") for ref in refs)
    gc.collect()
    assert reported == []
    assert "was not left" in caplog.text


def test_teardown_of_a_loop_that_was_cancelled_while_leaving_is_bounded(loop_kind: str) -> None:
    async def main() -> None:
        clock = getattr(asyncio.get_running_loop(), "clock", None)

        async def forever(payload: object) -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                async with Coordinator("slow to leave", clock=clock) as bus:
                    ref = await bus.spawn(forever)
                    ref.tell(1)
        assert not ref.is_alive
        assert bus.stats().pending == 0

    with asyncio.Runner(loop_factory=lambda: make_loop(loop_kind)) as runner:
        runner.run(main())


# A call that nobody awaits.


@pytest.mark.parametrize("call", ["ask", "send"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_call_that_is_never_awaited_warns_and_names_the_agent(run: Any, mesh: Any, call: str, by_name: bool) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, name="forgotten")
            begin = functools.partial(getattr(bus, call), "forgotten") if by_name else getattr(ref, call)
            with pytest.warns(RuntimeWarning, match=rf"{call}\(\) to agent 'forgotten' was never awaited") as caught:
                begin(1)
            assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
            assert bus.stats().sent == 0

    run(main)


@pytest.mark.parametrize("call", ["ask", "send"])
def test_a_call_that_was_awaited_closed_cancelled_or_refused_does_not_warn(run: Any, mesh: Any, call: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            begin = getattr(ref, call)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                await begin(1)
                begin(2).close()
                await asyncio.wait_for(begin(3), timeout=1.0)
                task = asyncio.create_task(begin(4))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                with pytest.raises(InvalidArgument):
                    await begin(5, timeout=-1)
                await bus.stop(ref)
                with pytest.raises(AgentStopped):
                    await begin(6)
                del begin, task
                gc.collect()
            assert caught == []

    run(main)
