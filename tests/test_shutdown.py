"""Shutdown: phases in their order, tasks bounded in time, and that nothing handled or accounted for is lost in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmesh import (
    Agent,
    AgentStopped,
    Backoff,
    Coordinator,
    CoordinatorClosed,
    DeadLetterKind,
    InvalidArgument,
    InvalidType,
    PmeshError,
    StopReason,
    SupervisionPolicy,
    handler,
)

Run = Callable[..., Any]
Mesh = Callable[..., Any]

FOREVER = 100_000.0
PHASES = ["before-drain", "drain", "before-stop", "stop", "after-stop"]


def now() -> float:
    return asyncio.get_running_loop().time()


class Diary(list[Any]):
    """What happened, with functions that note it."""

    def note(self, entry: Any) -> Callable[[], None]:
        return lambda: self.append(entry)

    def wait(self, entry: Any, seconds: float) -> Callable[[], Awaitable[None]]:
        async def wait() -> None:
            self.append(f"{entry} begins")
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.append(f"{entry} is cancelled")
                raise
            self.append(f"{entry} ends")

        return wait


# The order of phases.


def test_phases_run_in_their_order_around_the_drain_and_the_end_of_the_agents(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        seen: list[Any] = []
        bus: Coordinator = mesh()

        def look(phase: str) -> Callable[[], None]:
            def note() -> None:
                assert bus.shutdown.phase == phase
                seen.append((phase, len(bus.agents), bus.stats().pending, ref.tell("late")))

            return note

        async def slow(payload: object) -> None:
            await asyncio.sleep(0.01)

        for phase in reversed(PHASES):
            if phase not in ("drain", "stop"):
                bus.shutdown.add_task(phase, "look", look(phase))
        async with bus:
            ref = await bus.spawn(slow)
            ref.tell(1)
            assert (bus.shutdown.requested, bus.shutdown.phase, bus.shutdown.reason) == (False, None, None)
        assert seen == [("before-drain", 1, 1, True), ("before-stop", 1, 0, False), ("after-stop", 0, 0, False)]
        assert (bus.shutdown.requested, bus.shutdown.phase) == (True, None)
        assert bus.stats().handled == 2

    run(main)


@given(data=st.data())
def test_a_phase_begins_when_all_that_it_comes_after_are_over_and_not_before(data: st.DataObject) -> None:
    from conftest import Run

    before: dict[str, set[str]] = {name: {PHASES[place - 1]} if place else set() for place, name in enumerate(PHASES)}
    spans: dict[str, tuple[float, float]] = {}

    async def main() -> None:
        bus = Coordinator(clock=asyncio.get_running_loop().clock)  # type: ignore[attr-defined]
        for number in range(data.draw(st.integers(0, 6))):
            name = f"own-{number}"
            after = data.draw(st.sets(st.sampled_from(sorted(before)), max_size=3))
            earlier = data.draw(st.sets(st.sampled_from(sorted(before)), max_size=3))
            try:
                bus.shutdown.add_phase(name, after=after, before=earlier, timeout=100)
            except InvalidArgument as error:
                assert "->" in str(error)
                continue
            before[name] = set(after)
            for phase in earlier:
                before[phase].add(name)

        def task(name: str, seconds: int) -> Callable[[], Awaitable[None]]:
            async def work() -> None:
                begun = now()
                await asyncio.sleep(seconds)
                spans[name] = (begun, now())

            return work

        for name in before:
            bus.shutdown.add_task(name, "work", task(name, data.draw(st.integers(0, 3))))
        began = now()
        async with bus:
            pass
        for name, phases in before.items():
            # As early as the graph allows: phases without an order between them overlap.
            assert spans[name][0] == max((spans[phase][1] for phase in phases), default=began)

    Run("virtual")(main)


def test_tasks_of_a_phase_run_in_parallel_and_the_next_phase_waits_for_the_slowest(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary = Diary()
        bus = mesh()
        bus.shutdown.add_task("before-stop", "slow", diary.wait("slow", 3))
        bus.shutdown.add_task("before-stop", "fast", diary.wait("fast", 1))
        bus.shutdown.add_task("after-stop", "last", diary.note("last"))
        async with bus:
            began = now()
        assert diary == ["slow begins", "fast begins", "fast ends", "slow ends", "last"]
        assert now() - began == 3

    run(main)


@pytest.mark.parametrize("phase", ["before-drain", "before-stop", "after-stop"])
def test_a_task_that_fails_or_takes_too_long_is_named_and_the_shutdown_goes_on(
    run: Run, mesh: Mesh, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        diary = Diary()
        bus = mesh()

        def fail() -> None:
            raise ZeroDivisionError

        async def cancel_itself() -> None:
            raise asyncio.CancelledError

        bus.shutdown.add_task(phase, "wrong", fail)
        bus.shutdown.add_task(phase, "odd", cancel_itself)
        bus.shutdown.add_task(phase, "hanging", diary.wait("hanging", FOREVER))
        bus.shutdown.add_phase("last", after=("after-stop", phase))
        bus.shutdown.add_task("last", "last", diary.note("last"))
        async with bus:
            began = now()
        assert diary == ["hanging begins", "hanging is cancelled", "last"]
        assert now() - began == 5

    run(main)
    for text in ("'wrong' of phase {} failed", "'odd' of phase {} failed: it was", "'hanging' of phase {} did not end"):
        assert text.format(repr(phase)) in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_task_that_does_not_heed_its_cancellation_is_left_behind(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        let_go = asyncio.Event()

        async def stubborn() -> None:
            while not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await let_go.wait()

        bus = mesh()
        bus.shutdown.add_task("before-drain", "stubborn", stubborn)
        async with bus:
            began = now()
        assert now() - began == 10
        let_go.set()
        await asyncio.sleep(1)

    run(main)
    assert "'stubborn' of phase 'before-drain' went on 5 s after it was cancelled" in caplog.text


def test_a_phase_that_must_not_fail_skips_to_stopping_the_agents(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        diary = Diary()
        bus = mesh()

        async def slow(payload: object) -> None:
            await asyncio.sleep(1)
            diary.append(f"handled {payload}")

        shutdown = bus.shutdown
        shutdown.add_phase("hand-over", after=("before-drain",), before=("drain",), timeout=1.5, recover=False)
        shutdown.add_phase("beside", after=("before-drain",), timeout=20)
        shutdown.add_task("hand-over", "hanging", diary.wait("hanging", FOREVER))
        shutdown.add_task("beside", "beside", diary.wait("beside", 10))
        for phase in ("drain", "before-stop", "after-stop"):
            shutdown.add_task(phase, "note", diary.note(phase))
        async with bus:
            ref = await bus.spawn(slow)
            ref.tell_many(range(5))
        assert diary == [
            *("hanging begins", "beside begins", "handled 0", "hanging is cancelled", "handled 1"),
            *("after-stop", "beside ends"),
        ]
        stats = bus.stats()
        assert (stats.handled, stats.dead, bus.dead_letters.counts[DeadLetterKind.STOPPED]) == (2, 3, 3)

    run(main)
    assert "phase 'hand-over' failed; skipped are: before-stop, drain" in caplog.text


def test_a_phase_after_the_agents_that_must_not_fail_skips_what_comes_after_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary = Diary()
        bus = mesh()

        def fail() -> None:
            raise OSError

        bus.shutdown.add_phase("flush", after="after-stop", recover=False)
        bus.shutdown.add_phase("close", after="flush")
        bus.shutdown.add_phase("beside", after="after-stop")
        bus.shutdown.add_task("flush", "flush", fail)
        bus.shutdown.add_task("close", "note", diary.note("close"))
        bus.shutdown.add_task("beside", "note", diary.note("beside"))
        async with bus:
            pass
        assert diary == ["beside"]

    run(main)


# Bad input.


def test_what_makes_no_sense_is_refused_at_the_call() -> None:
    shutdown = Coordinator().shutdown
    shutdown.add_phase("mine", after="stop")
    shutdown.add_task("drain", "flush", lambda: None)
    wrong: list[tuple[Callable[[], object], type[PmeshError], str]] = [
        (lambda: shutdown.add_phase("drain"), InvalidArgument, "phase 'drain' is there already"),
        (lambda: shutdown.add_phase(""), InvalidArgument, "name is ''"),
        (lambda: shutdown.add_phase(3), InvalidType, "name is 3; it must be a str"),  # type: ignore[arg-type]
        (lambda: shutdown.add_phase("x", after="dran"), InvalidArgument, "names phase 'dran', .* 'before-drain', 'dra"),
        (lambda: shutdown.add_phase("x", before=[4]), InvalidType, "before has 4"),  # type: ignore[list-item]
        (lambda: shutdown.add_phase("x", after=4), InvalidType, "after is 4"),  # type: ignore[arg-type]
        (lambda: shutdown.add_phase("x", timeout=0), InvalidArgument, "timeout"),
        (lambda: shutdown.add_phase("x", timeout=float("inf")), InvalidArgument, "timeout"),
        (lambda: shutdown.add_phase("x", recover=None), InvalidType, "recover is None"),  # type: ignore[arg-type]
        (
            lambda: shutdown.add_phase("x", after=("mine", "before-drain"), before="drain"),
            InvalidArgument,
            "drain -> before-stop -> stop -> mine -> x -> drain",
        ),
        (lambda: shutdown.add_phase("x", after="drain", before="drain"), InvalidArgument, "drain -> x -> drain"),
        (lambda: shutdown.add_task("nowhere", "x", print), InvalidArgument, "names phase 'nowhere'"),
        (lambda: shutdown.add_task("drain", "flush", print), InvalidArgument, "phase 'drain' has a task 'flush' alr"),
        (lambda: shutdown.add_task("drain", "", print), InvalidArgument, "name is ''"),
        (lambda: shutdown.add_task("drain", "x", 5), InvalidType, "function is 5"),  # type: ignore[arg-type]
        (lambda: shutdown.add_task("drain", "x", lambda needs: 0), InvalidType, "without arguments"),  # type: ignore
        (lambda: Coordinator(signals=1), InvalidType, "signals is 1"),  # type: ignore[arg-type]
    ]
    for call, kind, text in wrong:
        with pytest.raises(kind, match=text):
            call()
    shutdown.add_phase("x", after="mine")


def test_nothing_is_added_once_it_has_begun(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        bus = mesh()
        refused = []

        def add() -> None:
            for call in (
                lambda: bus.shutdown.add_task("after-stop", "more", print),
                lambda: bus.shutdown.add_phase("more"),
            ):
                with pytest.raises(CoordinatorClosed, match="'more' must be added before"):
                    call()
                refused.append(True)

        bus.shutdown.add_task("before-drain", "add", add)
        async with bus:
            pass
        add()
        assert len(refused) == 4

    run(main)


def test_a_coordinator_that_was_not_entered_has_nothing_to_shut_down() -> None:
    shutdown = Coordinator().shutdown

    async def main() -> None:
        for call in (shutdown.run, shutdown.wait):
            with pytest.raises(CoordinatorClosed, match="not been entered"):
                await call()
        with pytest.raises(CoordinatorClosed, match="not been entered"):
            shutdown.hasten()
        assert repr(shutdown) == "<Shutdown of 'mesh': not begun>"

    asyncio.run(main())


# Who waits for it.


def test_all_callers_wait_for_the_one_run_and_the_first_reason_counts(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        diary = Diary()
        bus = mesh()
        bus.shutdown.add_task("after-stop", "work", diary.wait("work", 0.02))
        async with bus:
            waiting = asyncio.ensure_future(bus.shutdown.wait())
            await asyncio.gather(*(bus.shutdown.run(f"reason {number}") for number in range(3)), bus.close())
            assert diary == ["work begins", "work ends"]
            await waiting
            await bus.shutdown.run("another")
            await bus.shutdown.wait()
            bus.shutdown.hasten()
        assert bus.shutdown.reason == "reason 0"
        assert repr(bus.shutdown) == "<Shutdown of 'test': over>"

    run(main)


def test_a_cancelled_wait_only_stops_waiting_and_a_cancelled_run_hastens(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            cut_short = asyncio.Event()

            async def hang(payload: object) -> None:
                try:
                    await asyncio.sleep(FOREVER)
                finally:
                    cut_short.set()

            (await bus.spawn(hang)).tell_many(range(3))
            waiting = asyncio.ensure_future(bus.shutdown.wait())
            running = asyncio.ensure_future(bus.shutdown.run())
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.wait([waiting])
            await asyncio.sleep(1)
            assert waiting.cancelled()
            assert not cut_short.is_set()
            began = now()
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            assert cut_short.is_set()
            assert now() == began
            stats = bus.stats()
            assert (stats.failed, stats.dead, stats.pending, bus.agents) == (1, 2, 0, ())

    run(main)


@pytest.mark.parametrize("moment", ["before", "during", "same tick"])
def test_a_run_that_is_cancelled_still_ends_the_agents(run: Run, mesh: Mesh, moment: str) -> None:
    async def main() -> None:
        stopped: list[StopReason] = []

        class Quick(Agent):
            async def on_stop(self, reason: StopReason) -> None:
                await asyncio.sleep(0.1)
                stopped.append(reason)

        async with mesh() as bus:
            await bus.spawn(Quick)
            running = asyncio.ensure_future(bus.shutdown.run())
            if moment == "during":
                await asyncio.sleep(0.05)
            elif moment == "same tick":
                bus.shutdown._over.add_done_callback(lambda over: running.cancel())
                await asyncio.wait([running])
            running.cancel()
            if moment == "before":
                with pytest.raises(asyncio.CancelledError):
                    await running
                assert not bus.shutdown.requested  # it never took its first step
                return
            await asyncio.wait([running])
            assert len(stopped) == (1 if moment == "same tick" else 0)
            assert bus.agents == ()

    run(main)


@pytest.mark.parametrize("call", ["run", "close"])
@pytest.mark.parametrize("where", ["handler", "hook", "shutdown task", "child task"])
def test_what_the_shutdown_waits_for_may_begin_it_and_does_not_lock_up(
    run: Run, mesh: Mesh, where: str, call: str
) -> None:
    async def main() -> None:
        bus: Coordinator = mesh()
        diary = Diary()

        async def leave() -> None:
            await (bus.close() if call == "close" else bus.shutdown.run())
            diary.append("returned")

        class Leaver(Agent):
            async def receive(self, payload: object) -> None:
                if where == "child task":
                    async with asyncio.TaskGroup() as group:
                        group.create_task(leave())
                elif where == "handler":
                    await leave()
                await asyncio.sleep(1)
                diary.append("handled")

            async def on_stop(self, reason: StopReason) -> None:
                if where == "hook":
                    await leave()

        if where == "shutdown task":
            bus.shutdown.add_task("before-stop", "leave", leave)
        async with bus:
            (await bus.spawn(Leaver)).tell(1)
            began = now()
            if where in ("hook", "shutdown task"):
                bus.shutdown._begin(None)
            await bus.shutdown.wait()
        assert sorted(diary) == ["handled", "returned"]
        assert now() - began == 1

    run(main)


def test_it_belongs_to_the_coordinators_loop(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            errors = []

            def elsewhere() -> None:
                for call in (bus.shutdown.run, bus.shutdown.wait, bus.close):
                    try:
                        asyncio.run(call())
                    except PmeshError as error:
                        errors.append(type(error).__name__)

            with asyncio.get_running_loop().threads_at_work():  # type: ignore[attr-defined]
                thread = threading.Thread(target=elsewhere)
                thread.start()
                thread.join()
            assert errors == ["WrongLoop"] * 3
            assert not bus.shutdown.requested

    run(main)


def test_a_reason_is_text(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            with pytest.raises(InvalidType, match="reason is 5; it must be a str"):
                await bus.shutdown.run(5)
            assert not bus.shutdown.requested

    run(main)


# Hastening.


def test_hastening_kills_agents_at_once_and_gives_each_task_still_to_come_a_second(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        diary = Diary()
        bus = mesh()

        async def hang(payload: object) -> None:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                diary.append(f"{payload} cut short at {now() - began:g}")

        shutdown = bus.shutdown
        shutdown.add_task("before-drain", "sockets", diary.wait("sockets", FOREVER))
        shutdown.add_task("before-stop", "slow", diary.wait("slow", FOREVER))
        shutdown.add_task("after-stop", "database", diary.wait("database", 0.5))
        async with bus:
            began = now()
            (await bus.spawn(hang)).tell_many("ab")
            running = asyncio.ensure_future(shutdown.run())
            await asyncio.sleep(2)
            shutdown.hasten()
            shutdown.hasten()
            await running
            assert now() - began == 2 + 1 + 0.5
        assert diary == [
            *("sockets begins", "a cut short at 2", "sockets is cancelled"),
            *("slow begins", "slow is cancelled"),
            *("database begins", "database ends"),
        ]
        stats = bus.stats()
        assert (stats.failed, stats.dead) == (1, 1)

    run(main)
    assert "'sockets' of phase 'before-drain' was cut short" in caplog.text
    assert "'slow' of phase 'before-stop' was cut short" in caplog.text


def test_hastening_while_agents_stop_bounds_their_hooks(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        class Slow(Agent):
            async def on_stop(self, reason: StopReason) -> None:
                begun.set()
                await asyncio.sleep(FOREVER)

        async with mesh(drain_timeout=1000) as bus:
            for _ in range(3):
                await bus.spawn(Slow)
            running = asyncio.ensure_future(bus.shutdown.run())
            await begun.wait()
            began = now()
            bus.shutdown.hasten()
            await running
            assert now() - began <= 5

    run(main)


def test_hastening_from_a_handler_cuts_that_handler_short_too(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        began = now()
        async with mesh() as bus:

            async def panic(payload: object) -> None:
                await asyncio.sleep(0)
                bus.shutdown.hasten()
                await asyncio.sleep(FOREVER)

            (await bus.spawn(panic)).tell(1)
            await bus.shutdown.wait()
            assert bus.stats().failed == 1
            assert now() == began

    run(main)


def test_a_cancelled_body_still_has_shutdown_tasks_run(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary = Diary()
        bus = mesh()
        for phase in PHASES:
            bus.shutdown.add_task(phase, "note", diary.note(phase))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), bus:
                await asyncio.sleep(FOREVER)
        assert diary == PHASES

    run(main)


# Draining ends with the last handler.


@pytest.mark.parametrize("how", ["drain", "close", "leave"])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("suspends", [True, False])
def test_a_drain_ends_only_when_the_last_handler_has_returned(
    run: Run, mesh: Mesh, loop_kind: str, how: str, concurrency: int, suspends: bool
) -> None:
    async def main() -> None:
        returned: list[Any] = []
        ends: list[int] = []

        class Child(Agent):
            async def receive(self, payload: object) -> None:
                if suspends:
                    await asyncio.sleep(0.02)
                    await asyncio.sleep(0)
                returned.append(payload)

        class Parent(Agent):
            async def on_start(self) -> None:
                self.child = await self.context.spawn(Child, concurrency=concurrency)

            async def receive(self, payload: int) -> None:
                if suspends:
                    await asyncio.sleep(0.01 * (payload % 2))
                self.child.tell(f"child {payload}")
                returned.append(payload)

            async def on_stop(self, reason: StopReason) -> None:
                ends.append(len(returned))

        async with mesh() as bus:
            ref = await bus.spawn(Parent, concurrency=concurrency)
            ref.tell_many(range(7))
            if suspends:
                await asyncio.sleep(0.005)
            if how == "drain":
                assert await bus.drain(ref) is True
            elif how == "close":
                await bus.close()
            if how != "leave":
                assert len(returned) == 14
        assert len(returned) == 14
        assert ends == [14]
        assert bus.stats().handled == 14

    run(main)


def test_a_drain_whose_time_is_over_ends_children_too(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        reasons: list[Any] = []

        async def hang(payload: object) -> None:
            await asyncio.sleep(FOREVER)

        class Child(Agent):
            async def on_start(self) -> None:
                (await self.context.spawn(hang)).tell_many(range(3))

            async def receive(self, payload: object) -> None:
                await asyncio.sleep(1)

            async def on_stop(self, reason: StopReason) -> None:
                reasons.append(("child", reason))

        class Parent(Agent):
            async def on_start(self) -> None:
                (await self.context.spawn(Child)).tell_many(range(3))

            async def on_stop(self, reason: StopReason) -> None:
                reasons.append(("parent", reason))

        async with mesh() as bus:
            ref = await bus.spawn(Parent)
            began = now()
            assert await bus.drain(ref, timeout=10) is False
            assert now() - began == 10
            assert reasons == [("child", StopReason.DRAIN_TIMEOUT), ("parent", StopReason.DRAIN_TIMEOUT)]
            stats = bus.stats()
            assert (stats.handled, stats.failed, stats.dead, stats.pending) == (3, 1, 2, 0)

    run(main)


@pytest.mark.parametrize("first", ["stop", "drain"])
def test_a_kill_hastens_the_children_of_an_agent_that_ends_already(run: Run, mesh: Mesh, first: str) -> None:
    async def main() -> None:
        async def hang(payload: object) -> None:
            await asyncio.sleep(FOREVER)

        class Parent(Agent):
            async def on_start(self) -> None:
                for _ in range(2):
                    (await self.context.spawn(hang)).tell_many(range(2))

        async with mesh(drain_timeout=1000) as bus:
            ref = await bus.spawn(Parent)
            await asyncio.sleep(1)
            ending = asyncio.ensure_future(getattr(bus, first)(ref))
            await asyncio.sleep(1)
            began = now()
            await bus.kill(ref)
            await ending
            assert now() == began
            stats = bus.stats()
            assert (stats.failed, stats.dead, bus.agents) == (2, 2, ())

    run(main)


@pytest.mark.parametrize("end", ["leave", "hasten", "timeout", "drain"])
def test_the_account_balances_at_every_instant_of_a_shutdown(run: Run, mesh: Mesh, loop_kind: str, end: str) -> None:
    async def main() -> None:
        bus: Coordinator = mesh(drain_timeout=0.05 if end == "timeout" else 20)
        balances: list[str | None] = []
        over = threading.Event()

        def sample() -> None:
            while not over.is_set():
                stats = bus.stats()
                balances.append(stats.imbalance)
                balances.extend(counters.imbalance for counters in stats.agents.values())

        class Node(Agent):
            def __init__(self, depth: int) -> None:
                self.depth = depth

            async def on_start(self) -> None:
                self.children = [await self.context.spawn(Node, self.depth - 1) for _ in range(2)] if self.depth else []

            async def receive(self, payload: int) -> None:
                for child in self.children:
                    child.tell(payload)
                if payload % 5 == 0:
                    await asyncio.sleep(60 if end in ("timeout", "hasten") and payload == 50 else 0.001)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            async with bus:
                ref = await bus.spawn(Node, 2)
                ref.tell_many(range(60))
                await asyncio.sleep(0.002)
                if end == "drain":
                    assert await bus.drain(ref, timeout=20)
                elif end == "hasten":
                    running = asyncio.ensure_future(bus.shutdown.run())
                    await asyncio.sleep(0.002)
                    bus.shutdown.hasten()
                    await running
        finally:
            over.set()
            sampler.join()
        assert len(balances) > 1
        assert set(balances) == {None}
        stats = bus.stats()
        letters = bus.dead_letters.counts[DeadLetterKind.STOPPED]
        assert (stats.dead, stats.pending) == (letters, 0)
        if end in ("leave", "drain"):
            assert stats.handled == 60 * 7
        else:
            assert stats.failed + stats.dead >= 1

    run(main)


def test_senders_that_wait_are_refused_when_the_drain_begins(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:

            async def slow(payload: object) -> None:
                await asyncio.sleep(1)

            ref = await bus.spawn(slow, name="slow")
            ref.tell(0)
            await asyncio.sleep(0)
            ref.tell_many(range(2000))
            sending = asyncio.ensure_future(ref.send("more"))
            await asyncio.sleep(0.1)
            assert not sending.done()
            began = now()
            running = asyncio.ensure_future(bus.shutdown.run())
            with pytest.raises(AgentStopped):
                await sending
            assert now() == began
            bus.shutdown.hasten()
            await running

    run(main)


# An agent that ends itself.


@pytest.mark.parametrize("verb", ["stop", "drain", "kill"])
@pytest.mark.parametrize(
    "where",
    [
        "handler",
        "plain handler",
        "suspended handler",
        "task",
        "task group",
        "thread",
        "child's handler",
        "grandchild's handler",
        "child's on_start",
        "child's on_stop",
        "on_start",
        "on_stop",
        "pre_restart",
        "post_restart",
    ],
)
def test_an_agent_that_ends_itself_does_not_lock_up(run: Run, mesh: Mesh, where: str, verb: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bus: Coordinator = mesh()
        returned: list[float] = []
        plain: list[asyncio.Future[None]] = []

        async def end() -> None:
            # While a thread works, virtual time stands still.
            if where not in ("handler", "plain handler", "thread"):
                await asyncio.sleep(0.1)
            began = now()
            await getattr(bus, verb)("self")
            returned.append(now() - began)
            if verb != "kill" and where != "thread":
                await asyncio.sleep(0.1)

        def end_from_thread() -> None:
            asyncio.run_coroutine_threadsafe(end(), loop).result()

        class Child(Agent):
            async def on_start(self) -> None:
                if where == "child's on_start":
                    await end()
                if where == "grandchild's handler" and self.context.name == "child":
                    self.child = await self.context.spawn(Child, name="grandchild")

            async def receive(self, payload: object) -> None:
                if where == "grandchild's handler" and self.context.name == "child":
                    self.child.tell(payload)
                else:
                    await end()

            async def on_stop(self, reason: StopReason) -> None:
                if where == "child's on_stop":
                    await end()

        class Self(Agent):
            async def on_start(self) -> None:
                if where == "on_start":
                    await end()

            async def receive(self, payload: object) -> None:
                if where in ("handler", "suspended handler"):
                    await end()
                elif where == "task":
                    await asyncio.create_task(end())
                elif where == "task group":
                    async with asyncio.TaskGroup() as group:
                        group.create_task(end())
                        group.create_task(asyncio.sleep(1))
                elif where == "thread":
                    await asyncio.to_thread(end_from_thread)
                elif where.startswith(("child", "grandchild")):
                    child = await self.context.spawn(Child, name="child")
                    child.tell(payload)
                    if where == "child's on_stop":
                        await bus.stop(child)
                    await asyncio.sleep(1)
                elif where in ("pre_restart", "post_restart"):
                    raise ValueError

            @handler
            def plain(self, payload: bytes) -> None:
                plain.append(asyncio.ensure_future(end()))

            async def on_stop(self, reason: StopReason) -> None:
                if where == "on_stop" and reason is not StopReason.RESTARTED:
                    await end()

            async def pre_restart(self, error: BaseException | None) -> None:
                if where == "pre_restart":
                    await end()

            async def post_restart(self, error: BaseException | None) -> None:
                if where == "post_restart":
                    await end()

        async with bus:
            began = now()
            try:
                ref = await bus.spawn(Self, name="self")
            except PmeshError:
                assert where == "on_start"
            else:
                ref.tell(b"" if where == "plain handler" else "")
                ref.tell("waits")
                if where == "on_stop":
                    await bus.stop(ref)
                terminated = await bus.watch(ref)
                assert terminated.reason in (
                    StopReason.STOPPED,
                    StopReason.DRAINED,
                    StopReason.KILLED,
                    StopReason.DRAIN_TIMEOUT,
                )
            # Hooks and handlers that the end cut short have their five seconds.
            assert now() - began < 12
            assert returned[:1] == [0]
            assert bus.agents == ()
            await asyncio.gather(*plain)

    run(main)


@pytest.mark.parametrize("verb", ["stop", "drain", "kill"])
def test_two_agents_that_end_each_other_do_not_hold_up_leaving(run: Run, mesh: Mesh, verb: str) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=3) as bus:

            class Twin(Agent):
                async def receive(self, other: str) -> None:
                    await asyncio.sleep(0.1)
                    await getattr(bus, verb)(other)

            for name in "ab":
                await bus.spawn(Twin, name=name)
            bus.tell("a", "b")
            bus.tell("b", "a")
            await asyncio.sleep(1)
            began = now()
        assert now() - began <= 3

    run(main)


@pytest.mark.parametrize("end", ["leave", "hasten", "close"])
def test_agents_that_fail_all_the_time_do_not_hold_up_the_end(
    run: Run, mesh: Mesh, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Agent):
        supervision = SupervisionPolicy(intensity=1000, period=1.0, backoff=Backoff(50, 100))

        async def receive(self, payload: object) -> None:
            await asyncio.sleep(0.01)
            raise ValueError(payload)

    async def main() -> None:
        async with mesh(drain_timeout=20) as bus:
            for _ in range(5):
                (await bus.spawn(Failing)).tell_many(range(10))
            await asyncio.sleep(1)
            began = now()
            if end == "hasten":
                bus.shutdown.hasten()
            elif end == "close":
                await bus.close(timeout=10)
        assert now() - began < 2
        stats = bus.stats()
        assert stats.pending == 0
        assert stats.failed + stats.dead == 50
        if end != "hasten":
            assert stats.failed == 50

    with caplog.at_level(logging.CRITICAL):
        run(main)


def test_a_block_that_ends_after_its_loop_cancelled_all_tasks_raises_what_ended_it(run: Run, mesh: Mesh) -> None:
    """asyncio.run cancels them when a handler raised KeyboardInterrupt, in whichever order."""

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            async with mesh() as bus:
                waits = await bus.spawn(lambda payload: asyncio.sleep(3600.0))
                waits.tell(1)
                await asyncio.sleep(0)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                raise asyncio.CancelledError
        assert bus.agents == ()
        assert bus.stats().failed == 1

    run(main)
