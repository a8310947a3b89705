"""The stash: mail that an agent keeps for later comes again in order, and is in the account all the while."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    AgentStopped,
    AskTimeout,
    DeadLetterKind,
    InvalidStash,
    MailboxFull,
    MailboxPolicy,
    Overflow,
    StashFull,
    SupervisionPolicy,
    WrongLoop,
    handler,
)
from pmesh._core import cell_of

Run = Callable[..., Any]
Mesh = Callable[..., Any]


class Do:
    """Runs a function in the control lane of a `Gate`, with the agent as its argument."""

    def __init__(self, function: Callable[[Gate], Any]) -> None:
        self.function = function


class Gate(Agent):
    """Stashes all mail until it is opened."""

    supervision = SupervisionPolicy(directives="resume")  # what a handler raises is looked at, the instance goes on
    suspends = "never"  # or "before" or "after" it calls stash()
    raises = False

    def __init__(self) -> None:
        self.got: list[object] = []
        self.is_open = False

    @handler
    async def take(self, payload: object) -> object:
        if self.is_open:
            self.got.append(payload)
            return payload
        if self.suspends == "before":
            await asyncio.sleep(0.01)
        self.context.stash()
        if self.suspends == "after":
            await asyncio.sleep(0.01)
        if self.raises:
            raise ZeroDivisionError
        return "no answer"

    @handler(lane="control")
    def do(self, order: Do) -> object:
        return order.function(self)

    def open(self) -> int:
        self.is_open = True
        return self.context.unstash_all()


class GateOfPlainFunctions(Gate):
    @handler
    def take(self, payload: object) -> object:  # type: ignore[override]
        if self.is_open:
            self.got.append(payload)
            return payload
        self.context.stash()
        return None


class SuspendsBefore(Gate):
    suspends = "before"


class SuspendsAfter(Gate):
    suspends = "after"


GATES = [Gate, GateOfPlainFunctions, SuspendsBefore, SuspendsAfter]


@pytest.fixture(params=GATES, ids=lambda gate: gate.__name__)
def gate(request: pytest.FixtureRequest) -> type[Gate]:
    kind: type[Gate] = request.param
    return kind


def instance(ref: AgentRef) -> Any:
    return cell_of(ref).agent


def accounted(ref: AgentRef) -> dict[str, int]:
    """The terms of the account that are not 0."""
    counters = ref.counters()
    assert counters.imbalance is None
    return {term: value for term, value in counters.as_dict().items() if value}


# Order.


def test_stashed_mail_comes_again_in_order_ahead_of_newer_mail(run: Run, mesh: Mesh, loop_kind: str, gate: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(gate)
            ref.tell_many(range(5))
            while instance(ref).context.stashed < 5:
                await asyncio.sleep(0.001)
            ref.tell_many([5, 6])
            assert await ref.ask(Do(Gate.open)) == 5
            while ref.counters().pending:
                await asyncio.sleep(0.001)
            assert instance(ref).got == [0, 1, 2, 3, 4, 5, 6]

    run(main)


def test_mail_that_waits_when_the_stash_is_given_back_comes_after_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Gate)
            ref.tell_many(range(3))
            await asyncio.sleep(0.1)
            cell_of(ref).pause()
            ref.tell_many(range(3, 6))
            assert instance(ref).open() == 3
            cell_of(ref).resume()
            await asyncio.sleep(0.1)
            assert instance(ref).got == [0, 1, 2, 3, 4, 5]

    run(main)


def test_each_lane_gets_its_own_back(run: Run, mesh: Mesh) -> None:
    class Urgent(int):
        pass

    class Both(Agent):
        def __init__(self) -> None:
            self.got: list[object] = []
            self.is_open = False

        def take(self, payload: object) -> None:
            if self.is_open:
                self.got.append(payload)
            else:
                self.context.stash()

        @handler
        def normal(self, payload: str) -> None:
            self.take(payload)

        @handler(lane="control")
        def urgent(self, payload: Urgent) -> None:
            self.take(payload)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Both)
            ref.tell_many(["a", Urgent(1), "b", Urgent(2)])
            await asyncio.sleep(0.1)
            cell_of(ref).pause()
            ref.tell_many(["c", Urgent(3)])
            instance(ref).is_open = True
            assert instance(ref).context.unstash_all() == 4
            cell_of(ref).resume()
            await asyncio.sleep(0.1)
            assert instance(ref).got == [1, 2, 3, "a", "b", "c"]

    run(main)


def test_what_is_stashed_again_keeps_its_place(run: Run, mesh: Mesh, gate: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(gate)
            for number in range(4):
                ref.tell(number)
                await asyncio.sleep(0.05)
                if number % 2:
                    assert instance(ref).context.unstash_all() == number + 1
                    await asyncio.sleep(0.2)
            assert instance(ref).open() == 4
            await asyncio.sleep(0.1)
            assert instance(ref).got == [0, 1, 2, 3]

    run(main)


@pytest.mark.parametrize("seed", range(20))
def test_handlers_that_overlap_leave_the_stash_in_the_order_in_which_they_began(
    run: Run, mesh: Mesh, seed: int
) -> None:
    generator = random.Random(seed)

    class Wide(Gate):
        concurrency = 4

        @handler
        async def take(self, payload: object) -> object:
            if self.is_open:
                self.got.append(payload)
                return None
            for _ in range(generator.randrange(3)):
                await asyncio.sleep(generator.choice([0, 0.001, 0.01]))
            self.context.stash()
            for _ in range(generator.randrange(3)):
                await asyncio.sleep(generator.choice([0, 0.001, 0.01]))
            return None

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Wide)
            ref.tell_many(range(30))
            for _ in range(generator.randrange(3)):
                await asyncio.sleep(generator.choice([0.001, 0.01]))
                # What is in hand now may be stashed behind what comes again: only a quiet agent keeps all in order.
            while instance(ref).context.stashed < 30:
                await asyncio.sleep(0.001)
            assert instance(ref).open() == 30
            await asyncio.sleep(0.1)
            assert instance(ref).got == list(range(30)), f"seed {seed}"

    run(main)


# The account, and those who wait.


def test_stashed_mail_is_pending_and_is_recorded_once_when_it_is_handled(run: Run, mesh: Mesh, gate: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(gate)
            ref.tell_many(range(3))
            await asyncio.sleep(1.0)
            assert accounted(ref) == {"sent": 3, "accepted": 3, "pending": 3}
            assert ref.depth == 0
            assert bus.latency.count == 0
            instance(ref).open()
            await asyncio.sleep(0.1)
            assert accounted(ref) == {"sent": 3, "accepted": 3, "handled": 3}
            assert bus.latency.count == bus.queue_time.count == 3
            assert bus.queue_time.min >= 990_000_000

    run(main)


def test_an_asker_waits_until_its_message_is_really_handled(run: Run, mesh: Mesh, loop_kind: str, gate: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(gate)
            asking = asyncio.ensure_future(ref.ask("question"))
            while not instance(ref).context.stashed:
                await asyncio.sleep(0.001)
            assert not asking.done()
            instance(ref).open()
            assert await asking == "question"

    run(main)


def test_a_deadline_runs_on_in_the_stash(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Gate)
            with pytest.raises(AskTimeout):
                await ref.ask("late", timeout=0.5)
            ref.tell("short", ttl=1.0)
            ref.tell("long")
            await asyncio.sleep(2.0)
            assert accounted(ref)["pending"] == 3
            instance(ref).open()
            await asyncio.sleep(0.1)
            assert instance(ref).got == ["long"]
            assert accounted(ref) == {"sent": 3, "accepted": 3, "handled": 1, "expired": 2}

    run(main)


def test_a_place_in_the_window_is_given_back(run: Run, mesh: Mesh, gate: Any) -> None:
    async def main() -> None:
        async with mesh(window=2) as bus:
            ref = await bus.spawn(gate)
            for number in range(6):
                await ref.send(number, timeout=1.0)
            await asyncio.sleep(0.2)
            assert bus._dispatcher.in_window == 0
            instance(ref).open()
            await asyncio.sleep(0.2)
            assert instance(ref).got == list(range(6))
            assert bus._dispatcher.in_window == 0

    run(main)


@pytest.mark.parametrize("suspends", ["never", "before", "after"])
def test_a_handler_that_fails_after_all_has_stashed_nothing(
    run: Run, mesh: Mesh, suspends: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Gate):
        raises = True

    Fails.suspends = suspends

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Fails, mailbox=MailboxPolicy(capacity=1))
            with pytest.raises(ZeroDivisionError):
                await ref.ask(1)
            assert instance(ref).context.stashed == 0
            assert accounted(ref) == {"sent": 1, "accepted": 1, "failed": 1}
            # And its place in the stash is free.
            instance(ref).raises = False
            ref.tell(2)
            await asyncio.sleep(0.1)
            assert instance(ref).open() == 1

    with caplog.at_level(logging.CRITICAL):
        run(main)


@pytest.mark.parametrize("suspends", ["before", "after"])
def test_a_handler_that_is_cancelled_has_stashed_nothing(
    run: Run, mesh: Mesh, suspends: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Waits(Gate):
        pass

    Waits.suspends = suspends

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Waits)
            ref.tell(1)
            await asyncio.sleep(0.005)
            assert cell_of(ref).cancel_handlers() == 1
            await asyncio.sleep(0.1)
            assert instance(ref).context.stashed == 0
            assert accounted(ref) == {"sent": 1, "accepted": 1, "failed": 1}

    with caplog.at_level(logging.CRITICAL):
        run(main)


# Bounds.


def test_a_stash_holds_as_many_messages_as_the_mailbox_has_room_for(
    run: Run, mesh: Mesh, gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(gate, name="gate", mailbox=MailboxPolicy(capacity=2))
            for number in range(2):
                ref.tell(number)
                await asyncio.sleep(0.1)
            with pytest.raises(StashFull, match=r"'gate'.*2 messages.*unstash_all") as error:
                await ref.ask("one too many")
            assert isinstance(error.value, MailboxFull)
            assert accounted(ref) == {"sent": 3, "accepted": 3, "failed": 1, "pending": 2}
            instance(ref).open()
            await asyncio.sleep(0.1)
            assert instance(ref).got == [0, 1]

    with caplog.at_level(logging.CRITICAL):
        run(main)


def test_handlers_that_overlap_do_not_overfill_the_stash(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(SuspendsAfter, mailbox=MailboxPolicy(capacity=2), concurrency=4)
            asks = []
            for number in range(4):
                asks.append(asyncio.ensure_future(ref.ask(number, timeout=1.0)))
                await asyncio.sleep(0)
            done = await asyncio.gather(*asks, return_exceptions=True)
            assert [type(result) for result in done] == [AskTimeout, AskTimeout, StashFull, StashFull]
            assert instance(ref).context.stashed == 2
            instance(ref).open()

    with caplog.at_level(logging.CRITICAL):
        run(main)


@pytest.mark.parametrize("overflow", list(Overflow))
def test_mail_from_the_stash_takes_no_room_of_newer_mail_and_is_not_dropped_for_it(
    run: Run, mesh: Mesh, overflow: Overflow
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Gate, mailbox=MailboxPolicy(capacity=2, max_bytes=8, overflow=overflow))
            for payload in ("1111", "2222"):
                assert ref.tell(payload)
                await asyncio.sleep(0.1)
            cell_of(ref).pause()
            instance(ref).open()
            assert ref.depth == 2
            assert ref.tell("3333")
            assert ref.tell("4444")
            if overflow is not Overflow.STOP:
                assert ref.tell("5555") is (overflow is not Overflow.REJECT)
            cell_of(ref).resume()
            await asyncio.sleep(0.1)
            newer = ["4444", "5555"] if overflow is Overflow.DROP_OLDEST else ["3333", "4444"]
            assert instance(ref).got == ["1111", "2222", *newer]

    run(main)


def test_a_sender_that_waits_for_room_gets_it_when_its_turn_comes(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Gate, mailbox=MailboxPolicy(capacity=1))
            ref.tell("stashed")
            await asyncio.sleep(0.1)
            cell_of(ref).pause()
            ref.tell("waits")
            sending = asyncio.ensure_future(ref.send("later"))
            await asyncio.sleep(0.1)
            instance(ref).open()
            await asyncio.sleep(0.1)
            assert not sending.done()
            cell_of(ref).resume()
            await sending
            await asyncio.sleep(0.1)
            assert instance(ref).got == ["stashed", "waits", "later"]

    run(main)


# The end.


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_stash_of_an_agent_that_ends_becomes_dead_letters(run: Run, mesh: Mesh, how: str, gate: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(gate)
            asking = asyncio.ensure_future(ref.ask("asked"))
            ref.tell("told")
            await asyncio.sleep(0.1)
            cell_of(ref).pause()
            ref.tell("waits")
            await getattr(bus, how)(ref)
            with pytest.raises(AgentStopped):
                await asking
            assert accounted(ref) == {"sent": 3, "accepted": 3, "dead": 3}
            letters = [(letter.kind, letter.payload) for letter in bus.dead_letters]
            assert letters == [
                (DeadLetterKind.STOPPED, payload) for payload in ("told", "asked", "waits")
            ] or letters == [(DeadLetterKind.STOPPED, payload) for payload in ("asked", "told", "waits")]

    run(main)


@pytest.mark.parametrize("how", ["stop", "drain"])
def test_what_is_stashed_while_the_agent_stops_becomes_a_dead_letter(run: Run, mesh: Mesh, how: str) -> None:
    class Slow(Gate):
        @handler
        async def take(self, payload: object) -> None:  # type: ignore[override]
            await asyncio.sleep(1.0)
            self.context.stash()

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Slow)
            asking = asyncio.ensure_future(ref.ask("asked"))
            await asyncio.sleep(0.5)
            if how == "stop":
                await bus.stop(ref)
            else:
                assert await bus.drain(ref, timeout=2.0) is False
            with pytest.raises(AgentStopped):
                await asking
            assert accounted(ref) == {"sent": 1, "accepted": 1, "dead": 1}
            assert [letter.kind for letter in bus.dead_letters] == [DeadLetterKind.STOPPED]

    run(main)


def test_a_drain_waits_for_the_stash_and_says_so_at_once(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(Gate, name="gate")
            ref.tell_many([1, 2])
            await asyncio.sleep(0.1)
            begin = loop.time()
            draining = asyncio.ensure_future(bus.drain(ref, timeout=5.0))
            await asyncio.sleep(0.1)
            assert "'gate'" in caplog.text
            assert "2 stashed messages" in caplog.text
            assert not draining.done()
            instance(ref).open()
            assert await draining is True
            assert loop.time() - begin < 1.0
            assert accounted(ref) == {"sent": 2, "accepted": 2, "handled": 2}

    run(main)


@pytest.mark.parametrize("how", ["drain", "close"])
def test_a_stash_that_is_never_given_back_is_dead_when_the_time_to_drain_is_over(
    run: Run, mesh: Mesh, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(Gate)
            cell_of(ref).pause()
            ref.tell_many([1, 2])
            begin = loop.time()
            if how == "drain":
                draining = asyncio.ensure_future(bus.drain(ref, timeout=5.0))
                await asyncio.sleep(0.1)
                cell_of(ref).resume()
                assert await draining is False
            else:
                cell_of(ref).resume()
                await bus.close(timeout=5.0)
            assert 4.9 < loop.time() - begin < 5.2
            assert accounted(ref) == {"sent": 2, "accepted": 2, "dead": 2}
        assert caplog.text.count("2 stashed messages") == 1

    run(main)


def test_the_last_message_that_is_handled_leaves_the_stash_to_be_told_of(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    class First(Gate):
        @handler
        async def take(self, payload: object) -> None:  # type: ignore[override]
            if payload == "stash":
                self.context.stash()
            else:
                await asyncio.sleep(1.0)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(First)
            ref.tell_many(["stash", "handle"])
            draining = asyncio.ensure_future(bus.drain(ref, timeout=5.0))
            await asyncio.sleep(0.5)
            assert "stashed" not in caplog.text
            await asyncio.sleep(1.0)
            assert "1 stashed messages" in caplog.text
            assert await draining is False

    run(main)


def test_an_instance_that_is_replaced_leaves_its_stash_in_the_mailbox(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(SuspendsAfter, concurrency=4)
            for number in range(3):
                ref.tell(number)
                await asyncio.sleep(0.1 if number < 2 else 0.005)
            old = instance(ref)
            assert old.context.stashed == 2
            # As a restart does, while the third one is still in its handler.
            cell_of(ref).pause()
            cell_of(ref).end_instance()
            assert ref.depth == 2
            new = SuspendsAfter()
            new.is_open = True
            new.context = type(old.context)(ref, bus)
            cell_of(ref).agent = new
            await asyncio.sleep(0.1)
            assert ref.depth == 3
            assert old.context.stashed == new.context.stashed == 0
            cell_of(ref).resume()
            await asyncio.sleep(0.1)
            assert sorted(new.got) == [0, 1, 2]
            assert accounted(ref) == {"sent": 3, "accepted": 3, "handled": 3}

    run(main)


def test_the_tick_of_a_timer_that_is_stashed_does_not_pile_up(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Gate)
            timers = instance(ref).context.timers
            timers.every(1.0, "tick", key="tick")
            timers.after(1.0, "once", key="once")
            await asyncio.sleep(5.5)
            assert instance(ref).context.stashed == 2
            assert timers.missed == 4
            # What a handler has seen has arrived: it is mail like any other.
            assert timers.cancel("once") is False
            assert timers.cancel("tick") is True
            instance(ref).open()
            await asyncio.sleep(5.0)
            assert instance(ref).got == ["tick", "once"] or instance(ref).got == ["once", "tick"]

    run(main)


# Misuse.


def test_outside_of_its_handler_nothing_can_be_stashed(run: Run, mesh: Mesh) -> None:
    class Hooks(Gate):
        async def on_start(self) -> None:
            with pytest.raises(InvalidStash, match=r"stash\(\) of agent 'hooks' outside of a handler"):
                self.context.stash()

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Hooks, name="hooks")
            other = await bus.spawn(Gate)
            with pytest.raises(InvalidStash):
                instance(ref).context.stash()
            with pytest.raises(InvalidStash):
                await other.ask(Do(lambda agent: instance(ref).context.stash()))
            tasks: list[asyncio.Task[None]] = []

            async def too_late(agent: Gate) -> None:
                await asyncio.sleep(1.0)
                agent.context.stash()

            await ref.ask(Do(lambda agent: tasks.append(asyncio.ensure_future(too_late(agent)))))
            with pytest.raises(InvalidStash, match="before it ends"):
                await tasks[0]
            assert accounted(ref) == {"sent": 1, "accepted": 1, "handled": 1}

    logging.getLogger("pmesh").disabled = True
    try:
        run(main)
    finally:
        logging.getLogger("pmesh").disabled = False


def test_a_task_of_the_handler_may_stash_its_message_while_that_runs(run: Run, mesh: Mesh) -> None:
    class Delegates(Gate):
        @handler
        async def take(self, payload: object) -> None:  # type: ignore[override]
            if self.is_open:
                self.got.append(payload)
                return

            async def decide() -> None:
                self.context.stash()

            await asyncio.create_task(decide())

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Delegates)
            ref.tell(1)
            await asyncio.sleep(0.1)
            assert instance(ref).open() == 1
            await asyncio.sleep(0.1)
            assert instance(ref).got == [1]

    run(main)


def test_a_message_can_be_stashed_once(run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    class Twice(Gate):
        @handler
        async def take(self, payload: str) -> None:  # type: ignore[override]
            self.context.stash()
            self.context.stash()

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Twice, name="twice")
            with pytest.raises(InvalidStash, match=r"'twice' for the second time in the handler of one str"):
                await ref.ask("x")
            assert accounted(ref) == {"sent": 1, "accepted": 1, "failed": 1}
            assert instance(ref).context.unstash_all() == 0

    with caplog.at_level(logging.CRITICAL):
        run(main)


def test_other_threads_are_told_that_the_stash_belongs_to_the_loop(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            context = instance(await bus.spawn(Gate)).context
            errors: list[str] = []

            def elsewhere() -> None:
                for call in (context.stash, context.unstash_all, lambda: context.become(None)):
                    try:
                        call()
                    except WrongLoop as error:
                        errors.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert [error.partition("(")[0] for error in errors] == ["stash", "unstash_all", "become"]

    run(main)


def test_after_the_end_there_is_nothing_to_give_back(run: Run, mesh: Mesh) -> None:
    class Last(Gate):
        async def on_stop(self, reason: object) -> None:
            given_back.append(self.context.unstash_all())

    given_back: list[int] = []

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Last)
            ref.tell(1)
            await asyncio.sleep(0.1)
            await bus.stop(ref)
            assert given_back == [0]
            assert accounted(ref) == {"sent": 1, "accepted": 1, "dead": 1}

    run(main)


# Anything, in any order.


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_each_sender_sees_its_mail_handled_once_and_in_order(run: Run, mesh: Mesh, seed: int) -> None:
    generator = random.Random(seed)
    capacity = generator.choice([1, 2, 8])
    concurrency = generator.choice([1, 1, 3])

    class Fickle(Agent):
        def __init__(self) -> None:
            self.got: list[int] = []
            self.is_open = False

        @handler
        async def take(self, payload: int) -> None:
            if self.is_open:
                self.got.append(payload)
                return
            if generator.random() < 0.3:
                await asyncio.sleep(generator.choice([0, 0.001]))
            self.context.stash()
            if generator.random() < 0.3:
                await asyncio.sleep(generator.choice([0, 0.001]))

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Fickle, mailbox=MailboxPolicy(capacity=capacity), concurrency=concurrency)
            agent = instance(ref)
            numbers = itertools.count()
            accepted: list[int] = []
            for _ in range(60):
                for _ in range(generator.randrange(3)):
                    number = next(numbers)
                    if agent.context.stashed + ref.counters().pending < capacity and ref.tell(number):
                        accepted.append(number)
                await asyncio.sleep(generator.choice([0, 0.0005, 0.002]))
                if generator.random() < 0.2 and ref.counters().pending == agent.context.stashed:
                    agent.is_open = generator.random() < 0.5
                    agent.context.unstash_all()
                    await asyncio.sleep(0.01)
                    agent.is_open = False
                assert ref.counters().imbalance is None
            await asyncio.sleep(0.1)
            agent.is_open = True
            agent.context.unstash_all()
            await asyncio.sleep(0.1)
            assert agent.got == accepted, f"seed {seed}"

    logging.getLogger("pmesh").disabled = True
    try:
        run(main)
    finally:
        logging.getLogger("pmesh").disabled = False


def test_a_message_that_was_stashed_keeps_nothing_alive(run: Run, mesh: Mesh) -> None:
    class Payload:
        pass

    async def main() -> None:
        async with mesh(dead_letters=0) as bus:
            for end in ("handled", "stopped"):
                ref = await bus.spawn(Gate)
                payload = Payload()
                gone = weakref.ref(payload)
                ref.tell(payload)
                del payload
                await asyncio.sleep(0.1)
                assert gone() is not None
                if end == "handled":
                    instance(ref).open()
                    await asyncio.sleep(0.1)
                    instance(ref).got.clear()
                else:
                    await bus.stop(ref)
                for _ in range(3):
                    gc.collect()
                assert gone() is None, end

    run(main)
