"""Timers of agents: when their messages arrive, and that none arrives of a timer that was cancelled."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    AgentStopped,
    DeadLetterKind,
    InvalidArgument,
    InvalidType,
    MailboxPolicy,
    Overflow,
    SupervisionPolicy,
    Timers,
    WrongLoop,
    handler,
)
from pmesh._core import cell_of

Run = Callable[..., Any]
Mesh = Callable[..., Any]

TINY = MailboxPolicy(capacity=1)


class Clockwork(Agent):
    """Keeps what its timers send and when, and runs the functions that it is sent."""

    def __init__(self) -> None:
        self.got: list[tuple[float, object]] = []

    def on_start(self) -> None:  # type: ignore[override]
        self.start = asyncio.get_running_loop().time()

    def receive(self, payload: Any) -> object:  # type: ignore[override]
        if callable(payload):
            return payload(self)
        self.got.append((round(asyncio.get_running_loop().time() - self.start, 9), payload))
        return None

    @property
    def timers(self) -> Timers:
        return self.context.timers


class Urgent:
    """A payload for the control lane."""


class TwoLanes(Clockwork):
    @handler(lane="control")
    def urgent(self, payload: Urgent) -> None:
        self.got.append((0.0, payload))


def instance(ref: AgentRef) -> Any:
    return cell_of(ref).agent


def accounted(ref: AgentRef) -> dict[str, int]:
    """The terms of the account that are not 0."""
    counters = ref.counters()
    assert counters.imbalance is None
    return {term: value for term, value in counters.as_dict().items() if value}


def hold(ref: AgentRef) -> None:
    """Take mail and handle none."""
    cell_of(ref).pause()


def let_go(ref: AgentRef) -> None:
    cell_of(ref).resume()


# Once.


def test_a_message_set_for_later_arrives_then_and_once(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.after(1.5, "late", key="late")
            agent.timers.after(0.25, "soon")
            await asyncio.sleep(10)
            assert agent.got == [(0.25, "soon"), (1.5, "late")]
            assert len(agent.timers) == 0

    run(main)


def test_timers_keep_their_time_on_real_clocks(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived: list[tuple[str, float]] = []
        done = asyncio.Event()

        class Real(Agent):
            def on_start(self) -> None:  # type: ignore[override]
                for key, seconds in (("c", 0.03), ("a", 0.01), ("b", 0.02)):
                    self.context.timers.after(seconds, key, key=key)

            def receive(self, payload: str) -> None:  # type: ignore[override]
                arrived.append((payload, loop.time()))
                if len(arrived) == 3:
                    done.set()

        async with mesh() as bus:
            begin = loop.time()
            await bus.spawn(Real)
            await done.wait()
        assert [key for key, _ in arrived] == ["a", "b", "c"]
        # uvloop's time() is that of the start of the turn, in milliseconds.
        assert all(at - begin >= due - 0.003 for (_, at), due in zip(arrived, (0.01, 0.02, 0.03), strict=True))

    run(main)


def test_a_delay_of_zero_arrives_in_a_later_turn_of_the_loop(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            seen = await ref.ask(lambda agent: (agent.timers.after(0, "now"), list(agent.got))[1])
            assert seen == []
            while not agent.got:
                await asyncio.sleep(0)
            assert [payload for _, payload in agent.got] == ["now"]

    run(main)


def test_a_million_seconds_more_or_less_come_in_the_order_of_their_times(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            delays = [(number * 7919) % 1000 / 8 for number in range(1000)]
            for delay in delays:
                agent.timers.after(delay, delay)
            await asyncio.sleep(200)
            assert [payload for _, payload in agent.got] == sorted(delays)
            assert all(at == payload for at, payload in agent.got)

    run(main)


def test_the_message_of_a_timer_has_no_sender_and_is_timed_from_when_it_was_due(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        seen: list[Any] = []
        loop = asyncio.get_running_loop()

        class Looks(Agent):
            def on_start(self) -> None:  # type: ignore[override]
                self.context.timers.after(3.0, "tick")

            def receive(self, payload: object) -> None:  # type: ignore[override]
                message = self.context.message
                assert message is not None
                seen.append((payload, message.payload, message.sender, message.accepted_ns, message.expects_reply))

        async with mesh() as bus:
            ref = await bus.spawn(Looks)
            due_ns = loop.clock.now_ns() + 3_000_000_000  # type: ignore[attr-defined]
            hold(ref)
            await asyncio.sleep(5.0)
            let_go(ref)
            await asyncio.sleep(0.1)
            assert seen == [("tick", "tick", None, due_ns, False)]
            assert bus.queue_time.max == pytest.approx(2_000_000_000, rel=0.001)

    run(main)


# Repeatedly.


def test_a_fixed_delay_runs_from_when_the_last_message_was_sent(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.every(1.0, "tick")
            await asyncio.sleep(1.5)
            loop.advance(2.0)  # the loop is busy until 3.5
            await asyncio.sleep(3.0)
            assert [at for at, _ in agent.got] == [1.0, 3.5, 4.5, 5.5]
            assert agent.timers.missed == 0

    run(main)


def test_a_fixed_rate_keeps_to_the_grid_and_leaves_out_what_the_loop_was_late_for(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.every(1.0, "tick", fixed_rate=True, initial=0.5)
            await asyncio.sleep(1.75)
            loop.advance(3.0)  # until 4.75; those of 2.5, 3.5 and 4.5 come as one
            await asyncio.sleep(2.0)
            assert [at for at, _ in agent.got] == [0.5, 1.5, 4.75, 5.5, 6.5]
            assert agent.timers.missed == 2

    run(main)


@pytest.mark.parametrize(("initial", "first"), [(None, 2.0), (0, 0.0), (0.5, 0.5), (5, 5.0)])
def test_the_first_of_a_repeated_timer_comes_after_the_initial_delay(
    run: Run, mesh: Mesh, initial: float | None, first: float
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.every(2.0, "tick", initial=initial)
            await asyncio.sleep(first + 4.5)
            # At 0 the loop takes a nanosecond of virtual time to turn.
            assert [at for at, _ in agent.got] == pytest.approx([first, first + 2.0, first + 4.0], abs=1e-6)

    run(main)


@pytest.mark.parametrize("fixed_rate", [False, True])
def test_ticks_do_not_pile_up_before_a_busy_agent(run: Run, mesh: Mesh, fixed_rate: bool) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.every(1.0, "tick", fixed_rate=fixed_rate)
            hold(ref)
            await asyncio.sleep(10.5)
            assert ref.depth == 1
            assert agent.timers.missed == 9
            let_go(ref)
            await asyncio.sleep(1.0)
            assert [at for at, _ in agent.got] == [10.5, 11.0]
            assert accounted(ref) == {"sent": 2, "accepted": 2, "handled": 2}

    run(main)


def test_a_tick_may_come_while_the_last_one_is_in_its_handler(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        running = 0
        most = 0

        class Slow(Agent):
            concurrency = 3

            def on_start(self) -> None:  # type: ignore[override]
                self.context.timers.every(1.0, "tick")

            async def receive(self, payload: str) -> None:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await asyncio.sleep(2.5)
                running -= 1

        async with mesh() as bus:
            ref = await bus.spawn(Slow)
            await asyncio.sleep(6.0)
            assert most == 3
            assert instance(ref).context.timers.missed == 0

    run(main)


def test_an_interval_shorter_than_the_loop_can_follow_lets_others_go_on(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.every(1e-9, "tick", key="tick", fixed_rate=True)
            for _ in range(20):
                await asyncio.sleep(1e-6)
            assert agent.timers.cancel("tick")
            assert agent.got

    run(main)


# Keys.


def test_a_timer_takes_the_place_of_the_one_with_its_key(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.after(1.0, "first", key="k")
            agent.timers.every(0.5, "other", key=("k", 1))
            agent.timers.every(2.0, "second", key="k")
            assert agent.timers.keys() == ("k", ("k", 1))
            await asyncio.sleep(2.25)
            assert [payload for _, payload in agent.got] == ["other"] * 3 + ["second", "other"]
            agent.timers.after(0.1, "third", key="k")
            agent.timers.cancel(("k", 1))
            await asyncio.sleep(10.0)
            assert [payload for _, payload in agent.got][5:] == ["third"]

    run(main)


def test_timers_without_a_key_are_told_apart_by_the_one_they_get(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            timers = instance(ref).timers
            keys = [timers.after(1.0, number) for number in range(5)]
            assert len(set(keys)) == len(timers) == 5
            assert timers.keys() == tuple(keys)
            assert timers.cancel(keys[1])
            assert timers.cancel(keys[1]) is False
            assert timers.is_active(keys[2])
            await asyncio.sleep(2.0)
            assert [payload for _, payload in instance(ref).got] == [0, 2, 3, 4]
            assert not any(map(timers.is_active, keys))

    run(main)


def test_a_given_key_comes_back(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            timers = instance(await bus.spawn(Clockwork)).timers
            assert timers.after(1.0, None, key="a") == "a"
            assert timers.every(1.0, None, key=7) == 7

    run(main)


def test_cancel_all_ends_every_timer_of_that_agent_only(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            one, two = await bus.spawn(Clockwork), await bus.spawn(Clockwork)
            for ref in (one, two):
                hold(ref)
                instance(ref).timers.every(1.0, "tick", key="tick")
                instance(ref).timers.after(1.0, "once")
                instance(ref).timers.after(5.0, "later")
            one.tell("mail")
            await asyncio.sleep(2.0)
            assert one.depth == 3
            assert instance(one).timers.cancel_all() == 3
            assert instance(one).timers.cancel_all() == 0
            assert accounted(one) == {"sent": 1, "accepted": 1, "pending": 1}
            let_go(one)
            let_go(two)
            await asyncio.sleep(10.0)
            assert [payload for _, payload in instance(one).got] == ["mail"]
            assert "later" in [payload for _, payload in instance(two).got]

    run(main)


# No stale message.


@pytest.mark.parametrize("policy", [TINY, MailboxPolicy(capacity=2, overflow=Overflow.DROP_OLDEST)])
@pytest.mark.parametrize("how", ["cancel", "replace", "cancel_all"])
@pytest.mark.parametrize("repeats", [False, True])
def test_a_message_that_waits_is_withdrawn_with_its_timer(
    run: Run, mesh: Mesh, how: str, repeats: bool, policy: MailboxPolicy
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork, mailbox=policy)
            agent = instance(ref)
            hold(ref)
            assert ref.tell("before")
            if repeats:
                agent.timers.every(1.0, "stale", key="k")
            else:
                agent.timers.after(1.0, "stale", key="k")
            await asyncio.sleep(1.5)
            assert ref.depth == 2
            assert agent.timers.is_active("k")
            if how == "cancel":
                assert agent.timers.cancel("k")
            elif how == "replace":
                agent.timers.after(1.0, "fresh", key="k")
            else:
                assert agent.timers.cancel_all() == 1
            assert accounted(ref) == {"sent": 1, "accepted": 1, "pending": 1}
            let_go(ref)
            await asyncio.sleep(5.0)
            expected = ["before", "fresh"] if how == "replace" else ["before"]
            assert [payload for _, payload in agent.got] == expected
            assert accounted(ref)["handled"] == len(expected)

    run(main)


def test_a_timer_cancelled_in_the_turn_in_which_it_fired_sends_nothing(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            outcomes = []

            def cancel() -> None:
                outcomes.append((ref.depth, agent.timers.cancel("k")))

            for _ in range(5):
                agent.timers.after(0.002, "stale", key="k")
                # Before the sweep, in its turn before the mail is handled, and as far after it as the loop goes.
                loop.call_later(0.002, cancel)
                loop.call_later(0.002, loop.call_soon, cancel)
                await asyncio.sleep(0.01)
            handled = [payload for _, payload in agent.got]
            cancelled = [done for _, done in outcomes if done]
            assert len(handled) + len(cancelled) == 5
            assert accounted(ref).get("sent", 0) == len(handled)

    run(main)


def test_a_handler_cancels_the_message_that_waits_behind_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            agent.timers.after(1.0, lambda agent: agent.timers.cancel("second"), key="first")
            agent.timers.after(1.0, "second", key="second")
            agent.timers.after(1.0, "third", key="third")
            await asyncio.sleep(0.5)
            loop.advance(1.0)
            await asyncio.sleep(1.0)
            assert [payload for _, payload in agent.got] == ["third"]
            assert accounted(ref) == {"sent": 2, "accepted": 2, "handled": 2}

    run(main)


def test_a_timer_that_a_handler_of_it_sets_again_stays(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)

            def again(agent: Clockwork) -> None:
                assert not agent.timers.is_active("k")
                agent.timers.after(1.0, "done", key="k")

            agent.timers.after(1.0, again, key="k")
            await asyncio.sleep(1.5)
            assert agent.timers.is_active("k")
            await asyncio.sleep(1.0)
            assert agent.got == [(2.0, "done")]

    run(main)


def test_what_was_sent_between_two_messages_of_timers_stays_when_those_are_withdrawn(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            for keep in range(8):
                ref = await bus.spawn(Clockwork)
                agent = instance(ref)
                hold(ref)
                for number in range(3):
                    agent.timers.after(0.5, f"timer {number}", key=number)
                    await asyncio.sleep(1.0)
                    ref.tell(f"mail {number}")
                gone = [number for number in range(3) if not keep & 1 << number]
                for number in gone:
                    assert agent.timers.cancel(number)
                let_go(ref)
                await asyncio.sleep(1.0)
                expected = [
                    f"{what} {n}" for n in range(3) for what in ("timer", "mail") if what == "mail" or keep & 1 << n
                ]
                assert [payload for _, payload in agent.got] == expected

    run(main)


# The mailbox and the account.


@pytest.mark.parametrize("overflow", list(Overflow))
def test_a_full_mailbox_refuses_no_timer_and_drops_none(run: Run, mesh: Mesh, overflow: Overflow) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork, mailbox=MailboxPolicy(capacity=1, max_bytes=4, overflow=overflow))
            agent = instance(ref)
            hold(ref)
            agent.timers.after(1.0, "one timer, more than four bytes", key=1)
            await asyncio.sleep(1.0)
            assert ref.tell("mail")
            agent.timers.after(1.0, "another", key=2)
            await asyncio.sleep(1.0)
            assert ref.depth == 3
            if overflow is not Overflow.STOP:
                for _ in range(3):
                    assert ref.tell("more") is (overflow is not Overflow.REJECT)
            let_go(ref)
            await asyncio.sleep(1.0)
            mail = "more" if overflow is Overflow.DROP_OLDEST else "mail"
            timers = ["one timer, more than four bytes", "another"]
            expected = [*timers, mail] if overflow is Overflow.DROP_OLDEST else [timers[0], mail, timers[1]]
            assert [payload for _, payload in agent.got] == expected

    run(main)


def test_a_message_of_a_timer_leaves_the_room_of_others_as_it_is(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork, mailbox=TINY)
            agent = instance(ref)
            hold(ref)
            for key in range(3):
                agent.timers.after(0.5, "tick", key=key)
            await asyncio.sleep(1.0)
            assert ref.tell("fits") is True
            assert ref.tell("does not") is False
            waiting = asyncio.ensure_future(ref.send("waits", timeout=1.0))
            await asyncio.sleep(0.1)
            agent.timers.cancel(0)
            await asyncio.sleep(0.1)
            assert not waiting.done()
            let_go(ref)
            await waiting
            await asyncio.sleep(0.1)
            assert [payload for _, payload in agent.got] == ["tick", "tick", "fits", "waits"]

    run(main)


def test_a_message_comes_by_the_lane_that_the_agent_has_for_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(TwoLanes, mailbox=TINY)
            agent = instance(ref)
            hold(ref)
            ref.tell("first")
            ref.tell(urgent := Urgent())
            timed = Urgent()
            agent.timers.after(1.0, timed, key="k")
            await asyncio.sleep(1.5)
            assert ref.tell(Urgent()) is False
            let_go(ref)
            await asyncio.sleep(0.1)
            assert [payload for _, payload in agent.got] == [urgent, timed, "first"]
            hold(ref)
            ref.tell(Urgent())
            agent.timers.after(1.0, timed, key="k")
            await asyncio.sleep(1.5)
            agent.timers.cancel("k")
            let_go(ref)
            await asyncio.sleep(0.1)
            assert len(agent.got) == 4

    run(main)


def test_withdrawing_the_last_that_waits_ends_the_wait_for_quiet(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            for how in ("cancel", "cancel_all"):
                ref = await bus.spawn(Clockwork)
                agent = instance(ref)
                hold(ref)
                agent.timers.after(0.5, "tick", key="k")
                await asyncio.sleep(1.0)
                draining = asyncio.ensure_future(bus.drain(ref, timeout=20.0))
                before = loop.time()
                await asyncio.sleep(1.0)
                assert agent.timers.cancel("k") if how == "cancel" else agent.timers.cancel_all()
                assert await draining is True
                assert loop.time() - before < 2.0

    run(main)


def test_a_message_with_a_handler_that_fails_counts_failed_and_the_timer_goes_on(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork, supervision=SupervisionPolicy(directives="resume"))
            instance(ref).timers.every(1.0, lambda agent: 1 / 0)
            await asyncio.sleep(3.5)
            assert accounted(ref) == {"sent": 3, "accepted": 3, "failed": 3}

    with caplog.at_level(logging.CRITICAL):
        run(main)


def test_a_payload_that_no_handler_takes_becomes_a_dead_letter(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        class Picky(Agent):
            def on_start(self) -> None:  # type: ignore[override]
                self.context.timers.after(1.0, "nobody takes a str")

            @handler
            def take(self, payload: int) -> None: ...

        async with mesh() as bus:
            ref = await bus.spawn(Picky)
            await asyncio.sleep(2.0)
            assert accounted(ref) == {"sent": 1, "accepted": 1, "dead": 1}
            assert [(letter.kind, letter.payload) for letter in bus.dead_letters] == [
                (DeadLetterKind.UNHANDLED, "nobody takes a str")
            ]

    run(main)


# Their end.


@pytest.mark.parametrize("how", ["stop", "kill", "drain", "close"])
def test_timers_end_with_their_agent(run: Run, mesh: Mesh, how: str) -> None:
    async def main() -> None:
        bus = mesh()
        async with bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            timers = agent.timers
            timers.every(1.0, "tick", key="tick")
            timers.after(1.0, "once", key="once")
            await asyncio.sleep(1.5)
            if how == "close":
                await bus.close()
            else:
                await getattr(bus, how)(ref)
            account = accounted(ref)
            assert len(timers) == 0
            with pytest.raises(AgentStopped, match=r"clockwork-1.*after\(\)"):
                timers.after(1.0, "no")
            with pytest.raises(AgentStopped, match=r"every\(\)"):
                agent.context.timers.every(1.0, "no")
            assert timers.cancel("tick") is False
            await asyncio.sleep(5.0)
            assert accounted(ref) == account == {"sent": 2, "accepted": 2, "handled": 2}
            assert bus._dispatcher.timeouts == 0
            assert not list(bus.dead_letters)

    run(main)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_messages_of_timers_that_wait_at_the_end_are_withdrawn(run: Run, mesh: Mesh, how: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            hold(ref)
            agent.timers.every(1.0, "tick")
            agent.timers.after(1.0, "once")
            ref.tell("mail")
            await asyncio.sleep(1.5)
            assert ref.depth == 3
            await getattr(bus, how)(ref)
            assert accounted(ref) == {"sent": 1, "accepted": 1, "dead": 1}
            assert [letter.payload for letter in bus.dead_letters] == ["mail"]

    run(main)


def test_a_draining_agent_gets_what_its_timers_sent_before_and_no_more(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            handled: list[object] = []

            class Slow(Agent):
                def on_start(self) -> None:  # type: ignore[override]
                    self.context.timers.after(1.0, "before", key="before")
                    self.context.timers.every(2.5, "tick", key="tick")

                async def receive(self, payload: object) -> None:
                    handled.append(payload)
                    await asyncio.sleep(4.0)
                    # One set now comes to nothing, like any mail that is sent to an agent that drains.
                    self.context.timers.after(1.0, "never", key="never")

            ref = await bus.spawn(Slow)
            hold(ref)
            await asyncio.sleep(1.5)
            draining = asyncio.ensure_future(bus.drain(ref, timeout=20.0))
            let_go(ref)
            assert await draining is True
            assert handled == ["before"]
            # The first tick was refused, and that was the end of its timer.
            assert accounted(ref) == {"sent": 2, "accepted": 1, "rejected": 1, "handled": 1}

    run(main)


def test_leaving_the_mesh_does_not_wait_for_timers(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            instance(ref).timers.after(5.0, "later")
            instance(ref).timers.every(0.001, "often")
            begin = loop.time()
        assert loop.time() - begin < 0.1

    run(main)


def test_a_stopper_that_is_cancelled_ends_the_timers_too(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        class Waits(Clockwork):
            async def receive(self, payload: Any) -> None:  # type: ignore[override]
                await asyncio.sleep(1000.0)

        async with mesh() as bus:
            ref = await bus.spawn(Waits)
            timers = instance(ref).timers
            timers.every(1.0, "tick")
            ref.tell("held")
            await asyncio.sleep(0.5)
            draining = asyncio.ensure_future(bus.drain(ref, timeout=100.0))
            await asyncio.sleep(0.1)
            [stopper] = [task for task in asyncio.all_tasks() if task.get_name().startswith("pmesh-drain")]
            stopper.cancel()
            await draining
            assert len(timers) == 0
            assert bus._dispatcher.timeouts == 0

    run(main)


def test_a_new_instance_knows_nothing_of_the_timers_of_the_one_before(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            cell, old = cell_of(ref), instance(ref)
            hold(ref)
            old.timers.every(1.0, "stale", key="k")
            await asyncio.sleep(1.5)
            old_timers = old.timers
            # As a restart does.
            cell.end_instance()
            assert ref.depth == 0
            new = Clockwork()
            new.context = type(old.context)(ref, bus)
            cell.agent = new
            new.on_start()
            new.timers.after(1.0, "fresh", key="k")
            with pytest.raises(AgentStopped):
                old_timers.after(1.0, "stale")
            with pytest.raises(AgentStopped):
                old.context.timers.after(1.0, "stale")
            assert old.context.timers.cancel("k") is False
            let_go(ref)
            await asyncio.sleep(5.0)
            assert (old.got, new.got) == ([], [(1.0, "fresh")])

    run(main)


# Bad input.


@pytest.mark.parametrize("seconds", [-1, -0.5, float("nan"), float("inf"), -float("inf"), 1e12, 10**400, -(10**400)])
def test_a_delay_that_cannot_be_names_the_value_and_what_is_allowed(run: Run, mesh: Mesh, seconds: float) -> None:
    async def main() -> None:
        async with mesh() as bus:
            timers = instance(await bus.spawn(Clockwork)).timers
            timers.after(1.0, "stays", key="k")
            with pytest.raises(InvalidArgument) as error:
                timers.after(seconds, "tick", key="k")
            assert f"seconds is {seconds!r}" in str(error.value)
            assert "0 or more" in str(error.value)
            with pytest.raises(InvalidArgument, match=r"initial is .*0 or more"):
                timers.every(1.0, "tick", key="k", initial=seconds)
            with pytest.raises(InvalidArgument, match=r"seconds is .*positive"):
                timers.every(seconds, "tick", key="k")
            assert timers.keys() == ("k",)
            await asyncio.sleep(2.0)

    run(main)


def test_an_interval_of_zero_is_refused(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            timers = instance(await bus.spawn(Clockwork)).timers
            with pytest.raises(InvalidArgument, match=r"seconds is 0; it must be positive"):
                timers.every(0, "tick")

    run(main)


@pytest.mark.parametrize("seconds", ["1", None, True, 1j, b"1"])
def test_a_delay_that_is_no_number_is_refused(run: Run, mesh: Mesh, seconds: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            timers = instance(await bus.spawn(Clockwork)).timers
            for call in (timers.after, timers.every):
                with pytest.raises(InvalidType, match=r"seconds is .*; it must be a number of seconds"):
                    call(seconds, "tick")
            assert len(timers) == 0

    run(main)


def test_a_key_that_cannot_be_hashed_and_a_rate_that_is_no_bool_are_refused(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            timers = instance(await bus.spawn(Clockwork)).timers
            for call in (
                lambda: timers.after(1.0, "tick", key=[]),
                lambda: timers.every(1.0, "tick", key=[]),
                lambda: timers.cancel([]),
                lambda: timers.is_active([]),
            ):
                with pytest.raises(InvalidType, match=r"key is a list.*hashable"):
                    call()
            with pytest.raises(InvalidType, match=r"fixed_rate is 'rate'; it must be True or False"):
                timers.every(1.0, "tick", fixed_rate="rate")
            assert len(timers) == 0
            assert bus._dispatcher.timeouts == 0

    run(main)


def test_timers_and_their_kind_cannot_be_made_by_hand() -> None:
    from pmesh._core import Kit, Timer

    for kind in (Timers, Timer, Kit):
        with pytest.raises(InvalidType, match="cannot be constructed"):
            kind()


def test_other_threads_are_told_that_timers_belong_to_the_loop(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            timers = instance(await bus.spawn(Clockwork)).timers
            errors: list[str] = []

            def elsewhere() -> None:
                for call in (
                    lambda: timers.after(1.0, "tick"),
                    lambda: timers.every(1.0, "tick"),
                    lambda: timers.cancel("k"),
                    timers.cancel_all,
                    timers.keys,
                    lambda: timers.is_active("k"),
                ):
                    try:
                        call()
                    except WrongLoop as error:
                        errors.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert len(errors) == 6
            assert all("belongs to the coordinator's event loop" in error for error in errors)
            assert errors[0].startswith("after()")

    run(main)


# Cost.


def test_many_timers_due_at_once_let_the_loop_have_its_turn_between_them(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        # A slice too short for anything to fit in, on the real clock.
        async with mesh(slice_seconds=1e-9, clock=None) as bus:
            ref = await bus.spawn(Clockwork, mailbox=TINY)
            agent = instance(ref)
            hold(ref)
            for number in range(1000):
                agent.timers.after(0, number)
            turns = 0
            while ref.depth < 1000:
                await asyncio.sleep(0)
                turns += 1
            assert turns >= 1000 // 64
            agent.timers.cancel_all()

    from conftest import Run as LoopRun

    LoopRun("asyncio")(main)


def test_an_idle_agent_has_no_timers_and_one_that_asks_for_them_has_one_object(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        from pmesh._core import live_objects

        async with mesh() as bus:
            ref = await bus.spawn(Clockwork)
            await ref.ask(lambda agent: None)
            assert live_objects()["Timers"] == live_objects()["Kit"] == 0
            assert instance(ref).timers is instance(ref).timers

    gc.collect()
    run(main)


class Payload:
    """Something that can be watched."""


def collected(*refs: weakref.ref[Any]) -> bool:
    for _ in range(3):
        gc.collect()
    return all(ref() is None for ref in refs)


def payloads() -> Iterator[tuple[Payload, weakref.ref[Any]]]:
    while True:
        payload = Payload()
        yield payload, weakref.ref(payload)


@pytest.mark.parametrize("how", ["arrives", "cancelled", "withdrawn", "replaced", "stopped"])
def test_a_timer_that_is_over_keeps_nothing(run: Run, mesh: Mesh, how: str) -> None:
    async def main() -> None:
        async with mesh(dead_letters=0) as bus:
            ref = await bus.spawn(Clockwork)
            agent = instance(ref)
            payload, gone = next(payloads())
            agent.timers.after(1.0, payload, key="k")
            del payload
            if how == "arrives":
                await asyncio.sleep(2.0)
                agent.got.clear()
            elif how == "cancelled":
                agent.timers.cancel("k")
            elif how == "withdrawn":
                hold(ref)
                await asyncio.sleep(2.0)
                agent.timers.cancel("k")
            elif how == "replaced":
                agent.timers.after(1.0, None, key="k")
            else:
                await bus.stop(ref)
            assert collected(gone)
            assert bus._dispatcher.timeouts == (how == "replaced")

    run(main)


def test_a_mesh_that_was_never_left_is_collected_with_its_timers() -> None:
    def abandoned() -> list[weakref.ref[Any]]:
        loop = asyncio.new_event_loop()

        async def main() -> list[weakref.ref[Any]]:
            from pmesh import Coordinator

            bus = Coordinator()
            await bus.__aenter__()
            ref = await bus.spawn(Clockwork)
            payload, gone = next(payloads())
            instance(ref).timers.every(1000.0, payload)
            instance(ref).timers.after(0, payload)
            return [gone, weakref.ref(ref)]

        gone = loop.run_until_complete(main())
        loop.close()
        return gone

    logging.getLogger("asyncio").disabled = True
    try:
        assert collected(*abandoned())
    finally:
        logging.getLogger("asyncio").disabled = False


@pytest.mark.parametrize("delay", ["1000.0", "1000.0 - number % 7"], ids=["in order", "out of order"])
def test_very_many_timers_of_a_mesh_that_was_never_left_are_freed_without_a_crash(
    python: Callable[[str], str], delay: str
) -> None:
    assert python(
        f"""
        import asyncio, gc, threading
        from pmesh import Agent, Coordinator
        from pmesh._core import cell_of, live_objects

        class Idle(Agent):
            def receive(self, payload): ...

        async def main():
            mesh = Coordinator()
            await mesh.__aenter__()
            timers = cell_of(await mesh.spawn(Idle)).agent.context.timers
            for number in range(200_000):
                timers.after({delay}, number)

        def run():
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda loop, context: None)
            loop.run_until_complete(main())
            loop.close()
            del loop
            for _ in range(3):
                gc.collect()
            print(live_objects()["Timer"], live_objects()["Waiter"])

        threading.stack_size(256 * 1024)  # so that freeing one inside the other would be seen
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        """
    ).split() == ["0", "0"]
