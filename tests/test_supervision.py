"""Supervision: what becomes of agents whose handlers raise, alone, in groups and up the tree."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmesh import (
    Agent,
    AgentStopped,
    Backoff,
    CoordinatorClosed,
    HandlerCancelled,
    HandlerDefinitionError,
    IllegalTransition,
    InvalidArgument,
    InvalidType,
    MailboxPolicy,
    NameInUse,
    StartFailed,
    State,
    StopReason,
    Strategy,
    SupervisionPolicy,
    UnknownAgent,
    handler,
)
from pmesh.supervision import RestartWindow

Run = Callable[..., Any]
Mesh = Callable[..., Any]


class Boom(Exception):
    pass


class Worse(Boom):
    pass


class Worker(Agent):
    """Keeps a diary of what its instances went through, in a list that they share."""

    def __init__(self, diary: list[Any], label: str = "", start: Callable[[], None] | None = None) -> None:
        self.diary = diary
        self.label = label
        self.start = start
        self.sum = 0
        diary.append((label, "made"))

    async def on_start(self) -> None:
        self.diary.append((self.label, "start"))
        if self.start is not None:
            self.start()

    async def on_stop(self, reason: StopReason) -> None:
        self.diary.append((self.label, f"stop {reason.value}"))

    @handler
    async def add(self, number: int) -> int:
        self.sum += number
        return self.sum

    @handler
    def fail(self, error: Exception) -> None:
        raise error

    @handler
    async def wait(self, gate: asyncio.Event) -> str:
        await gate.wait()
        return "waited"

    @handler
    def leave(self, word: str) -> None:
        self.context.stop()


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def fail(ref: Any, error: BaseException | None = None) -> None:
    with pytest.raises(type(error or Boom())):
        await ref.ask(error or Boom())


def words(diary: list[Any], label: str = "") -> list[str]:
    return [word for who, word in diary if who == label]


# One agent.


def test_a_failing_agent_is_restarted_by_default_with_a_new_instance_behind_the_same_ref(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Worker, diary, label="w", name="w")
            assert await ref.ask(5) == 5
            ref.tell(Boom())
            # Accepted while the restart goes on; none of it is lost, and the failing message does not run again.
            answers = [asyncio.create_task(ref.ask(number)) for number in (1, 2)]
            assert await asyncio.gather(*answers) == [1, 3]
            assert bus.lookup("w") is ref
            assert bus.restarts("w") == 1
            assert bus.state("w") is State.RUNNING
            stats = bus.stats()
            assert (stats.handled, stats.failed, stats.pending) == (3, 1, 0)
            assert stats.imbalance is None
        assert words(diary, "w") == ["made", "start", "stop restarted", "made", "start", "stop shutdown"]

    run(main)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_what_an_instance_set_in_context_variables_ends_with_it(
    run: Run, mesh: Mesh, loop_kind: str, kind: str
) -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")

    def handle(payload: str) -> str:
        if payload == "fail":
            raise Boom
        if payload == "look":
            return tenant.get()
        tenant.set(payload)
        return payload

    class Plain(Agent):
        def receive(self, payload: str) -> str:  # type: ignore[override]
            return handle(payload)

    class Async(Agent):
        async def receive(self, payload: str) -> str:
            return handle(payload)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Plain if kind == "plain" else Async)
            await ref.ask("ann")
            assert await ref.ask("look") == "ann"
            ref.tell("fail")
            assert await ref.ask("look") == "nobody"
            assert bus.restarts(ref) == 1

    run(main)


def test_its_hooks_around_a_restart_see_the_error(run: Run, mesh: Mesh) -> None:
    seen: list[Any] = []

    class Hooked(Worker):
        async def pre_restart(self, error: BaseException | None) -> None:
            await asyncio.sleep(1)
            seen.append(("pre", self.sum, error))

        def post_restart(self, error: BaseException | None) -> None:  # type: ignore[override]
            seen.append(("post", self.sum, error))

    async def main() -> None:
        diary: list[Any] = []
        error = Boom("why")
        async with mesh() as bus:
            ref = await bus.spawn(Hooked, diary)
            await ref.ask(7)
            await fail(ref, error)
            assert await ref.ask(1) == 1
        assert seen == [("pre", 7, error), ("post", 0, error)]
        assert words(diary) == ["made", "start", "made", "stop shutdown"]

    run(main)


def test_a_function_agent_goes_on_after_a_restart(run: Run, mesh: Mesh, loop_kind: str) -> None:
    def divide(number: int) -> float:
        return 1 / number

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(divide)
            with pytest.raises(ZeroDivisionError):
                await ref.ask(0)
            assert await ref.ask(2) == 0.5
            assert bus.restarts(ref) == 1

    run(main)


@pytest.mark.parametrize(("directive", "total", "restarts"), [("resume", 6, 0), ("restart", 1, 1)])
def test_resume_keeps_the_instance_and_restart_does_not(
    run: Run, mesh: Mesh, directive: str, total: int, restarts: int
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], supervision=SupervisionPolicy(directives=directive))
            await ref.ask(5)
            await fail(ref)
            assert await ref.ask(1) == total
            assert bus.restarts(ref) == restarts

    run(main)


def test_the_directive_of_the_nearest_base_class_counts(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        policy = SupervisionPolicy(directives={Exception: "stop", Boom: "resume", Worse: "restart"})
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], supervision=policy)
            await ref.ask(5)
            await fail(ref, Boom())
            assert await ref.ask(0) == 5
            await fail(ref, Worse())
            assert await ref.ask(0) == 0
            await fail(ref, ValueError())
            assert (await bus.watch(ref)).reason is StopReason.FAILED

    run(main)


def test_a_temporary_agent_stops_when_it_fails(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Worker, diary, supervision=SupervisionPolicy("temporary"))
            ref.tell(Boom())
            waiting = asyncio.create_task(ref.ask(1))
            with pytest.raises(AgentStopped):
                await waiting
            assert bus.state(ref) is State.STOPPED
            assert (bus.stats().failed, bus.stats().dead) == (1, 1)
        assert words(diary) == ["made", "start", "stop failed"]

    run(main)


def test_a_permanent_agent_is_restarted_when_it_stops_itself_but_not_when_others_stop_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Worker, diary, supervision=SupervisionPolicy("permanent"))
            await ref.ask(5)
            ref.tell("leave")
            assert await ref.ask(1) == 1
            assert bus.restarts(ref) == 1
            await bus.stop(ref)
            assert bus.state(ref) is State.STOPPED
        assert words(diary)[-1] == "stop stopped"
        assert words(diary).count("made") == 2

    run(main)


def test_more_restarts_than_the_intensity_stop_the_agent(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], name="w")
            for _ in range(5):
                await fail(ref)
            await ref.ask(1)
            assert bus.restarts(ref) == 5
            await fail(ref)
            assert (await bus.watch(ref)).reason is StopReason.FAILED
            with pytest.raises(UnknownAgent):
                bus.lookup("w")

    run(main)
    assert "agent 'w': more than 5 restarts within 10 s" in caplog.text


def test_the_window_of_restarts_slides(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], supervision=SupervisionPolicy(intensity=2, period=10.0))
            for _ in range(20):
                await fail(ref)
                await ref.ask(1)
                await asyncio.sleep(5.01)
            assert bus.restarts(ref) == 20
            await fail(ref)
            await fail(ref)
            assert (await bus.watch(ref)).reason is StopReason.FAILED

    run(main)


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(0, 5))
def test_the_window_counts_the_restarts_of_the_last_period(gaps: list[float], intensity: int) -> None:
    window = RestartWindow(intensity, 10.0)
    now = 0.0
    times: list[float] = []
    for gap in gaps:
        now += gap
        times.append(now)
        assert window.add(now) == (sum(now - 10.0 < time for time in times) <= intensity)


def test_failing_to_start_again_counts_and_does_not_loop(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    starts = []

    def start() -> None:
        starts.append(1)
        if len(starts) > 1:
            raise Worse("not now")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], start=start)
            await fail(ref)
            assert (await bus.watch(ref)).reason is StopReason.FAILED
        assert len(starts) == 1 + 5

    run(main)
    assert "its restart failed" in caplog.text


def test_a_start_that_succeeds_after_some_that_failed_takes_the_mail_that_waited(run: Run, mesh: Mesh) -> None:
    starts = []

    def start() -> None:
        starts.append(1)
        if len(starts) in (2, 3):
            raise Worse("not yet")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], start=start)
            ref.tell(Boom())
            assert await ref.ask(3) == 3
            assert bus.restarts(ref) == 3

    run(main)


def test_the_old_instance_and_its_contexts_are_let_go(run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with mesh() as bus:
            seen: list[Any] = []
            caplog.set_level(logging.CRITICAL, "pmesh")  # a traceback that is kept leads to the instance

            class Seen(Worker):
                def __init__(self) -> None:
                    super().__init__([])
                    seen.append(weakref.ref(self))

            ref = await bus.spawn(Seen)
            await ref.ask(1)
            await fail(ref)
            await ref.ask(1)
            await turns()
            gc.collect()
            assert [instance() is None for instance in seen] == [True, False]

    run(main)


def test_handlers_that_still_run_are_cancelled_by_a_restart(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], concurrency=3)
            waiting = [asyncio.create_task(ref.ask(asyncio.Event())) for _ in range(2)]
            await turns()
            await fail(ref)
            for task in waiting:
                with pytest.raises(HandlerCancelled):
                    await task
            assert await ref.ask(1) == 1
            assert bus.restarts(ref) == 1
            assert (bus.stats().failed, bus.stats().handled, bus.stats().pending) == (3, 1, 0)

    run(main)


def test_a_handler_that_fails_after_it_suspended_is_supervised_too(run: Run, mesh: Mesh, loop_kind: str) -> None:
    class Late(Worker):
        @handler
        async def late(self, number: float) -> None:
            await asyncio.sleep(number)
            raise Boom

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Late, [])
            await ref.ask(5)
            with pytest.raises(Boom):
                await ref.ask(0.01)
            assert await ref.ask(1) == 1
            assert bus.restarts(ref) == 1

    run(main)


# Backoff.


@given(
    st.floats(0.001, 10),
    st.floats(0, 100),
    st.floats(0, 1),
    st.integers(0, 5_000),
    st.floats(0, 1),
)
def test_a_backoff_doubles_up_to_its_cap_and_adds_jitter_after_it(
    least: float, more: float, jitter: float, restarts: int, share: float
) -> None:
    backoff = Backoff(least, least + more, jitter)
    plain = backoff.seconds(restarts, 0.0)
    assert plain == min(least + more, least * 2.0 ** min(restarts, 1000))
    assert plain <= backoff.seconds(restarts, share) <= plain * (1 + jitter) + 1e-9


def test_mail_waits_up_to_capacity_while_an_agent_backs_off(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = SupervisionPolicy(backoff=Backoff(2.0, 8.0, jitter=0.0), intensity=100)
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], mailbox=MailboxPolicy(3), supervision=policy)
            waits = []
            for _ in range(5):
                await fail(ref)
                start = loop.time()
                await turns()
                assert bus.state(ref) is State.BACKOFF
                assert [ref.tell(1) for _ in range(4)] == [True, True, True, False]
                while ref.depth:
                    await asyncio.sleep(0.01)
                waits.append(round(loop.time() - start, 1))
            assert waits == [2.0, 4.0, 8.0, 8.0, 8.0]
            await asyncio.sleep(8.0)
            await fail(ref)
            start = loop.time()
            assert await ref.ask(1) == 1
            assert round(loop.time() - start, 1) == 2.0

    run(main)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_agent_that_backs_off_can_be_stopped_at_once(run: Run, mesh: Mesh, end: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        diary: list[Any] = []
        policy = SupervisionPolicy(backoff=Backoff(20.0, 20.0))
        async with mesh() as bus:
            ref = await bus.spawn(Worker, diary, supervision=policy)
            await fail(ref)
            await turns()
            assert ref.tell(1)
            start = loop.time()
            await getattr(bus, end)(ref)
            assert loop.time() - start < 0.1
            assert bus.state(ref) is State.STOPPED
            assert bus.stats().dead == 1
        assert words(diary) == ["made", "start", "stop restarted"]

    run(main)


def test_drain_and_leaving_cut_a_backoff_short_and_handle_what_waits(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = SupervisionPolicy(backoff=Backoff(20.0, 20.0))
        async with mesh() as bus:
            drained = await bus.spawn(Worker, [], supervision=policy)
            left = await bus.spawn(Worker, [], supervision=policy)
            for ref in (drained, left):
                await fail(ref)
            await turns()
            assert drained.tell(1)
            assert left.tell(1)
            start = loop.time()
            assert await bus.drain(drained) is True
        assert loop.time() - start < 0.1
        assert (bus.stats().handled, bus.stats().failed, bus.stats().dead) == (2, 2, 0)

    run(main)


def test_a_failure_while_draining_does_not_lose_the_drain(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Worker, diary)
            for payload in (1, Boom(), 2, Boom(), 3):
                assert ref.tell(payload)
            assert await bus.drain(ref) is True
            assert (bus.stats().handled, bus.stats().failed, bus.stats().dead) == (3, 2, 0)
        assert words(diary).count("made") == 3
        assert words(diary)[-1] == "stop drained"

    run(main)


@pytest.mark.parametrize("directive", ["stop", "escalate"])
def test_an_agent_that_has_failed_for_good_can_be_drained_in_the_same_turn(
    run: Run, mesh: Mesh, loop_kind: str, directive: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], supervision=SupervisionPolicy(directives=directive))
            try:
                await ref.ask(Boom())
            except Boom:
                assert bus.state(ref) is State.FAILED
                assert ref.tell(1)
                await bus.drain(ref)
            assert bus.state(ref) is State.STOPPED
            assert (bus.stats().failed, bus.stats().dead) == (1, 1)

    run(main)


@pytest.mark.parametrize("moment", ["on_start", "post_restart"])
def test_a_drain_does_not_wait_for_a_start_that_hangs_nor_end_what_has_not_begun(
    run: Run, mesh: Mesh, moment: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[Any] = []

        class Hanging(Agent):
            async def on_start(self) -> None:
                if moment == "on_start":
                    await asyncio.sleep(1000)

            async def receive(self, payload: object) -> None:
                raise Boom

            async def pre_restart(self, error: BaseException | None) -> None:
                calls.append("pre_restart")

            async def post_restart(self, error: BaseException | None) -> None:
                await asyncio.sleep(1000)

            async def on_stop(self, reason: StopReason) -> None:
                calls.append(reason)

        async with mesh() as bus:
            spawning = asyncio.ensure_future(bus.spawn(Hanging, name="hanging"))
            await asyncio.sleep(0.1)
            if moment == "post_restart":
                bus.tell("hanging", 1)
                await asyncio.sleep(0.1)
            start = loop.time()
            bus.tell("hanging", 2)
            assert await bus.drain("hanging", timeout=1) is False
            assert loop.time() - start == 1
            assert calls == (["pre_restart"] if moment == "post_restart" else [])
            assert bus.stats().dead == 1
            await asyncio.wait([spawning])
            assert isinstance(spawning.exception(), StartFailed if moment == "on_start" else type(None))

    run(main)


def test_a_restart_while_the_mesh_is_left_may_start_the_children_that_it_needs(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        handled: list[object] = []

        class Parent(Agent):
            async def on_start(self) -> None:
                self.children = await self.context.supervisor(self.context.name + "-children")
                self.child = await self.children.spawn(handled.append)

            async def receive(self, payload: object) -> None:
                await asyncio.sleep(0.1)
                if isinstance(payload, Exception):
                    raise payload
                self.child.tell(payload)

        async with mesh() as bus:
            (await bus.spawn(Parent)).tell_many([1, Boom(), 2, Boom(), 3])
        assert handled == [1, 2, 3]
        assert (bus.stats().failed, bus.stats().dead) == (2, 0)

    run(main)


def test_an_agent_restarted_while_the_mesh_is_left_handles_its_mail_though_it_was_suspended(
    run: Run, mesh: Mesh
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Slow(Agent):
            async def receive(self, payload: object) -> None:
                await asyncio.sleep(1)
                if isinstance(payload, Exception):
                    raise payload

            async def post_restart(self, error: BaseException | None) -> None:
                await asyncio.sleep(1)

        async with mesh() as bus:
            ref = await bus.spawn(Slow)
            ref.tell_many([Boom(), 1])
            await asyncio.sleep(0.5)
            bus.suspend(ref)
            await asyncio.sleep(1)
            assert bus.state(ref) is State.STARTING
            start = loop.time()
        assert loop.time() - start == 1.5
        assert (bus.stats().handled, bus.stats().dead) == (1, 0)

    run(main)


def test_starts_that_fail_at_once_let_others_be_served_between_them(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        starts = 0

        class Failing(Agent):
            def receive(self, payload: object) -> None:
                raise Boom

            def post_restart(self, error: BaseException | None) -> None:  # type: ignore[override]
                nonlocal starts
                starts += 1
                raise Boom

        async with mesh() as bus:
            ref = await bus.spawn(Failing, supervision=SupervisionPolicy(intensity=1000))
            ref.tell(1)
            await turns(20)
            assert 1 < starts < 30
            start = asyncio.get_running_loop().time()
            await bus.kill(ref)
            assert asyncio.get_running_loop().time() == start

    run(main)


# Suspending.


def test_a_suspended_agent_lets_its_mail_wait(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [], mailbox=MailboxPolicy(2), name="w")
            bus.suspend(ref)
            assert bus.state(ref) is State.SUSPENDED
            asking = asyncio.create_task(ref.ask(1))
            await turns()
            assert ref.tell(1)
            assert not ref.tell(1)
            with pytest.raises(Exception, match="'w' cannot go from SUSPENDED to SUSPENDED"):
                bus.suspend("w")
            assert not asking.done()
            bus.resume(ref)
            assert await asking == 1
            with pytest.raises(Exception, match="'w' is RUNNING and cannot be resumed"):
                bus.resume("w")

    run(main)


def test_a_handler_that_fails_in_a_suspended_agent_restarts_it_suspended(run: Run, mesh: Mesh) -> None:
    class Late(Worker):
        @handler
        async def late(self, gate: asyncio.Event) -> None:
            await gate.wait()
            raise Boom

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Late, [])
            await ref.ask(5)
            gate = asyncio.Event()
            asking = asyncio.create_task(ref.ask(gate))
            await turns()
            bus.suspend(ref)
            gate.set()
            with pytest.raises(Boom):
                await asking
            ref.tell(1)
            await turns()
            assert bus.restarts(ref) == 1
            assert bus.state(ref) is State.SUSPENDED
            assert ref.depth == 1
            bus.resume(ref)
            assert await ref.ask(1) == 2

    run(main)


@pytest.mark.parametrize("end", ["drain", "leave"])
def test_a_suspended_agent_handles_its_mail_when_it_drains(run: Run, mesh: Mesh, end: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Worker, [])
            bus.suspend(ref)
            assert ref.tell(1)
            if end == "drain":
                assert await bus.drain(ref) is True
        assert (bus.stats().handled, bus.stats().dead) == (1, 0)

    run(main)


# Groups.


async def group(bus: Any, diary: list[Any], strategy: str, **options: Any) -> tuple[Any, list[Any]]:
    supervisor = await bus.supervisor("s", strategy=strategy, **options)
    refs = [await supervisor.spawn(Worker, diary, label=label, name=label) for label in "abc"]
    for number, ref in enumerate(refs):
        await ref.ask(number + 1)
    diary.clear()
    return supervisor, refs


@pytest.mark.parametrize(
    ("strategy", "restarted"), [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")]
)
def test_a_strategy_says_who_is_restarted_and_in_which_order(
    run: Run, mesh: Mesh, loop_kind: str, strategy: str, restarted: str
) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            supervisor, refs = await group(bus, diary, strategy)
            await fail(refs[1])
            sums = [await ref.ask(0) for ref in refs]
            assert sums == [0 if label in restarted else number + 1 for number, label in enumerate("abc")]
            stops = [(label, "stop restarted") for label in reversed(restarted)]
            starts = [(label, word) for label in restarted for word in ("made", "start")]
            assert diary == [*stops, *starts]
            assert supervisor.children == ("a", "b", "c")
            assert [bus.restarts(ref) for ref in refs] == [int(label in restarted) for label in "abc"]

    run(main)


def test_a_group_waits_for_the_handlers_of_those_that_did_not_fail(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            _, (a, b, c) = await group(bus, diary, "one_for_all")
            gate = asyncio.Event()
            waiting = asyncio.create_task(a.ask(gate, timeout=20))
            stuck = asyncio.create_task(c.ask(asyncio.Event(), timeout=20))
            await turns()
            await fail(b)
            await asyncio.sleep(1)
            assert bus.state(a) is bus.state(b.name) is State.STARTING or bus.state(b) is State.FAILED
            assert b.tell(1)
            gate.set()
            assert await waiting == "waited"
            with pytest.raises(HandlerCancelled):
                await stuck
            assert await b.ask(1, timeout=20) == 2
            assert (bus.stats().handled, bus.stats().failed, bus.stats().pending) == (3 + 1 + 2, 2, 0)

    run(main)


def test_a_member_that_is_stopped_while_its_group_restarts_does_not_come_back(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            _, (a, b, c) = await group(bus, [], "one_for_all", backoff=Backoff(5.0, 5.0, 0.0))
            await fail(b)
            await turns()
            await bus.stop(c)
            assert bus.state(c) is State.STOPPED
            assert await a.ask(1, timeout=20) == 1
            assert await b.ask(1, timeout=20) == 1
            assert bus.agents == ("s", "a", "b")

    run(main)


# Trees.


def test_too_many_restarts_of_children_restart_their_supervisor_which_starts_them_again(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            _, (a, b, c) = await group(bus, diary, "one_for_one", intensity=2)
            extra = await bus.spawn(Worker, diary, label="d", name="d")
            for ref in (a, b):
                await fail(ref)
                await ref.ask(0)
            diary.clear()
            await fail(c)
            assert (await bus.watch(c)).reason is StopReason.RESTARTED
            await asyncio.sleep(0.1)
            assert [word for word in diary if word[1].startswith("stop")] == [
                (label, "stop restarted") for label in "cba"
            ]
            assert [word for word in diary if word[1] == "start"] == [(label, "start") for label in "abc"]
            # New incarnations, with new refs under the old names.
            assert not a.is_alive
            assert await bus.ask("a", 1) == 1
            assert (await bus.ask("c", 1), await extra.ask(1)) == (1, 1)
            assert bus.restarts("s") == 1
            for label in "abc":
                await fail(bus.lookup(label))
                await bus.ask(bus.lookup(label), 0) if label != "c" else await asyncio.sleep(0.1)
            assert bus.restarts("s") == 2

    run(main)
    assert "agent 'c' escalates" in caplog.text


def test_a_supervisor_restores_the_tree_below_it_but_not_what_was_temporary(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            top = await bus.supervisor("top", strategy=Strategy.ONE_FOR_ONE)
            middle = await top.supervisor("middle", intensity=1, directives={Worse: "escalate"})
            await middle.spawn(Worker, diary, label="a", name="a", mailbox=MailboxPolicy(7))
            await middle.spawn(Worker, diary, name="t", supervision=SupervisionPolicy("temporary"))
            below = await middle.supervisor("below", strategy="one_for_all")
            await below.spawn(Worker, diary, label="b", name="b")
            await fail(bus.lookup("a"), Worse())
            await asyncio.sleep(0.1)
            assert bus.agents == ("top", "middle", "a", "below", "b")
            assert bus.restarts("middle") == 1
            assert middle.children == ("a", "below")
            bus.suspend("a")
            assert [bus.tell("a", 1) for _ in range(8)] == [True] * 7 + [False]
            bus.resume("a")
            # It supervises as before.
            await bus.ask("b", 5)
            await fail(bus.lookup("b"))
            assert await bus.ask("b", 1) == 1

    run(main)


def test_a_supervisor_that_cannot_restore_one_child_at_once_restores_all_in_the_end(run: Run, mesh: Mesh) -> None:
    starts: list[int] = []

    def start() -> None:
        starts.append(1)
        if len(starts) in (2, 3):
            raise Worse("not yet")

    async def main() -> None:
        async with mesh() as bus:
            supervisor = await bus.supervisor("s", directives={Boom: "escalate"})
            await supervisor.spawn(Worker, [], name="a")
            await supervisor.spawn(Worker, [], name="b", start=start)
            await supervisor.spawn(Worker, [], name="c")
            await fail(bus.lookup("a"))
            await asyncio.sleep(0.1)
            assert supervisor.children == ("a", "b", "c")
            assert bus.restarts("s") == 3

    run(main)


def test_escalation_at_the_top_stops_that_subtree_and_nothing_else(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            policy = SupervisionPolicy(directives="escalate")
            top = await bus.supervisor("top", supervision=policy, directives={Boom: "escalate"})
            ref = await top.spawn(Worker, diary, label="a", name="a")
            await top.spawn(Worker, diary, label="b", name="b")
            other = await bus.spawn(Worker, diary, label="o", name="o")
            await fail(ref)
            assert (await bus.watch(top.ref)).reason is StopReason.ESCALATED
            assert bus.agents == ("o",)
            assert await other.ask(1) == 1
            with pytest.raises(Exception, match="'top' is stopped and starts no children"):
                await top.spawn(Worker, diary)
        assert [word for word in diary if word[1].startswith("stop")][:2] == [
            ("b", "stop escalated"),
            ("a", "stop escalated"),
        ]

    run(main)
    assert "nobody is above it" in caplog.text


def test_an_agent_supervises_the_children_that_it_spawns_and_stops_them_when_it_restarts(run: Run, mesh: Mesh) -> None:
    class Parent(Worker):
        async def on_start(self) -> None:
            await super().on_start()
            await self.context.spawn(Worker, self.diary, label="child", name="child")

    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            parent = await bus.spawn(Parent, diary, label="parent", name="parent")
            child = bus.lookup("child")
            await child.ask(5)
            await fail(child)
            assert await child.ask(1) == 1
            assert bus.restarts("parent") == 0
            diary.clear()
            await fail(parent)
            assert await parent.ask(1) == 1
            assert bus.lookup("child") is not child
            assert diary == [
                ("child", "stop restarted"),
                ("parent", "stop restarted"),
                ("parent", "made"),
                ("parent", "start"),
                ("child", "made"),
                ("child", "start"),
            ]
            for _ in range(6):
                await fail(bus.lookup("child"))
                await asyncio.sleep(0.01)
            assert bus.restarts("parent") == 2
            assert bus.agents == ("parent", "child")

    run(main)


def test_a_parent_that_resumes_goes_on_without_the_child_that_escalated(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            top = await bus.supervisor("top", directives="escalate", supervision=SupervisionPolicy(directives="resume"))
            a = await top.spawn(Worker, [], name="a")
            await top.spawn(Worker, [], name="b")
            await fail(a)
            assert (await bus.watch(a)).reason is StopReason.ESCALATED
            assert bus.agents == ("top", "b")

    run(main)


def test_ten_thousand_restarts_leave_nothing_behind(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        logging.getLogger("pmesh").setLevel(logging.CRITICAL)
        try:
            async with mesh() as bus:
                policy = SupervisionPolicy(intensity=20_000, period=1.0)
                refs = [await bus.spawn(Worker, [], supervision=policy) for _ in range(10)]
                sizes = []
                for round_ in range(3):
                    for _ in range(50 if round_ == 0 else 475):
                        for ref in refs:
                            ref.tell(Boom())
                        await asyncio.gather(*(ref.ask(0) for ref in refs))
                        for ref in refs:
                            bus._life_of(ref).cell.agent.diary.clear()
                    await turns()
                    gc.collect()
                    sizes.append((len(gc.get_objects()), len(asyncio.all_tasks())))
                assert sum(bus.restarts(ref) for ref in refs) == 10_000
                # The windows hold the times of the last second.
                assert sizes[2][0] - sizes[1][0] < 100
                assert sizes[1][1] == sizes[2][1]
        finally:
            logging.getLogger("pmesh").setLevel(logging.NOTSET)

    run(main)


# Cancellation.


@pytest.mark.parametrize("moment", ["pre_restart", "post_restart"])
def test_killing_an_agent_in_the_middle_of_a_hook_of_its_restart_ends_it(run: Run, mesh: Mesh, moment: str) -> None:
    cancelled: list[str] = []

    async def hang(self: Worker, error: BaseException | None) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(moment)
            raise

    async def main() -> None:
        hanging = type("Hanging", (Worker,), {moment: hang})
        async with mesh() as bus:
            ref = await bus.spawn(hanging, [])
            ref.tell(Boom())
            ref.tell(1)
            await asyncio.sleep(1)
            await bus.kill(ref)
            assert bus.state(ref) is State.STOPPED
            assert cancelled == [moment]
            assert (bus.stats().failed, bus.stats().dead, bus.stats().pending) == (1, 1, 0)

    run(main)


@pytest.mark.parametrize("moment", ["pre_restart", "post_restart", "backoff"])
def test_cancelling_the_mesh_in_the_middle_of_a_restart_ends_everything(run: Run, mesh: Mesh, moment: str) -> None:
    async def hang(self: Worker, error: BaseException | None) -> None:
        await asyncio.sleep(1000)

    async def body(bus: Any) -> None:
        async with bus:
            hooks = {} if moment == "backoff" else {moment: hang}
            policy = SupervisionPolicy(backoff=Backoff(100.0, 100.0) if moment == "backoff" else None)
            ref = await bus.spawn(type("Hanging", (Worker,), hooks), [], supervision=policy)
            ref.tell(Boom())
            ref.tell(1)
            await asyncio.sleep(2000)

    async def main() -> None:
        bus = mesh()
        task = asyncio.create_task(body(bus))
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bus.stats().pending == 0
        assert bus.agents == ()
        assert len(asyncio.all_tasks()) == 1

    run(main)


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"strategy": "all_for_one"}, InvalidArgument, "strategy is 'all_for_one'; it must be one of 'one_for_one'"),
        ({"strategy": 3}, InvalidType, "strategy is 3"),
        ({"intensity": 0}, InvalidArgument, "intensity is 0"),
        ({"intensity": -1}, InvalidArgument, "intensity is -1"),
        ({"intensity": True}, InvalidType, "intensity is True"),
        ({"intensity": 2.5}, InvalidType, "intensity is 2.5"),
        ({"period": 0}, InvalidArgument, "period is 0"),
        ({"period": float("nan")}, InvalidArgument, "period is nan"),
        ({"period": "10"}, InvalidType, "period is '10'"),
        ({"directives": "retry"}, InvalidArgument, "directive is 'retry'; it must be one of 'restart'"),
        ({"directives": {Boom: "retry"}}, InvalidArgument, "the directive for Boom is 'retry'"),
        ({"directives": {"Boom": "stop"}}, InvalidType, "directives has 'Boom'; its keys must be exception classes"),
        ({"directives": {int: "stop"}}, InvalidType, "directives has <class 'int'>"),
        ({"directives": 3}, InvalidType, "directives is 3"),
        ({"backoff": 3}, InvalidType, "backoff is 3; it must be a pmesh.Backoff"),
        ({"supervision": "transient"}, InvalidType, "supervision is 'transient'"),
        ({"name": ""}, InvalidArgument, "name is ''"),
    ],
)
def test_a_supervisor_refuses_what_makes_no_sense(
    run: Run, mesh: Mesh, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            with pytest.raises(error, match=text.replace("(", r"\(")):
                await bus.supervisor(**options)
            assert bus.agents == ()

    run(main)


@pytest.mark.parametrize("directives", ["stop", "resume", "escalate"])
def test_an_intensity_of_0_is_allowed_where_nothing_is_restarted(run: Run, mesh: Mesh, directives: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await bus.supervisor(intensity=0, directives=directives)
        SupervisionPolicy("temporary", intensity=0)

    run(main)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_seconds": 2.0, "max_seconds": 1.0}, "min_seconds is 2.0; it must be at most max_seconds, 1.0"),
        ({"min_seconds": 0}, "min_seconds is 0"),
        ({"max_seconds": float("inf")}, "max_seconds is inf"),
        ({"jitter": 1.5}, "jitter is 1.5; it must be a share from 0 to 1"),
        ({"jitter": float("nan")}, "jitter is nan"),
        ({"reset_seconds": -1}, "reset_seconds is -1"),
    ],
)
def test_a_backoff_refuses_what_makes_no_sense(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Backoff(**options)


def test_a_class_with_a_wrong_supervision_is_refused_when_it_is_defined() -> None:
    with pytest.raises(HandlerDefinitionError, match="supervision is 'never'; it must be a SupervisionPolicy"):
        type("Wrong", (Agent,), {"supervision": "never"})


def test_a_supervisor_is_an_agent_with_a_name_of_its_own(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            supervisor = await bus.supervisor("s")
            assert repr(supervisor) == "<Supervisor 's'>"
            with pytest.raises(NameInUse):
                await bus.supervisor("s")
            supervisor.ref.tell("mail")
            await turns()
            assert bus.stats().dead == 1
            await bus.stop("s")
            assert repr(supervisor) == "<Supervisor 's' (stopped)>"

    run(main)


# What an instance set up.


def test_timers_stash_and_behaviour_end_with_the_instance_and_stashed_mail_is_handled_by_the_next(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    class Keeper(Worker):
        @handler
        async def keep(self, payload: float) -> str:
            if self.sum == 0:
                self.sum = 1
                self.context.timers.after(0.05, "leave", key="old")
                self.context.stash()
                self.context.become(self.deaf)
                return "nobody gets this"
            return "handled by the next"

        def deaf(self, payload: object) -> None:
            raise Boom

        async def on_start(self) -> None:
            await super().on_start()
            self.sum = len(self.diary) // 4  # 0 in the first instance

    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Keeper, diary)
            kept = asyncio.create_task(ref.ask(1.0))
            await turns()
            ref.tell("fails")
            assert await kept == "handled by the next"
            await asyncio.sleep(0.1)
            assert ref.is_alive
            assert bus.stats().pending == 0
            assert bus.stats().imbalance is None
            assert bus.restarts(ref) == 1

    run(main)


def test_what_a_start_that_failed_set_up_is_gone(run: Run, mesh: Mesh) -> None:
    class Fickle(Worker):
        async def on_start(self) -> None:
            number = len(self.diary)
            self.context.timers.every(1.0, f"tick {number}")
            await self.context.spawn(Worker, [], name="child")
            self.diary.append(number)
            if number == 4:
                raise Worse

        @handler
        def leave(self, word: str) -> None:
            self.diary.append(word)

    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Fickle, diary)
            await fail(ref)
            await asyncio.sleep(2.5)
            assert bus.agents == (ref.name, "child")
            assert {word for word in diary if isinstance(word, str)} == {"tick 6"}, diary

    run(main)


# Where what several parts do meets.


@pytest.mark.parametrize("moment", ["at once", "in its backoff", "while it starts"])
def test_an_agent_that_failed_while_it_was_suspended_can_be_resumed_before_it_is_up(
    run: Run, mesh: Mesh, moment: str
) -> None:
    async def main() -> None:
        policy = SupervisionPolicy(backoff=Backoff(1.0, 1.0, jitter=0.0))
        async with mesh() as bus:
            ref = await bus.spawn(Slow, [], name="slow", supervision=policy)
            asking = asyncio.create_task(ref.ask("fail later"))
            await asyncio.sleep(0.5)
            bus.suspend(ref)
            waiting = asyncio.create_task(ref.ask("waits"))
            with pytest.raises(Boom):
                await asking
            if moment != "at once":
                await asyncio.sleep(0.5 if moment == "in its backoff" else 1.5)
                assert bus.state(ref) is (State.BACKOFF if moment == "in its backoff" else State.STARTING)
            bus.resume(ref)
            with pytest.raises(IllegalTransition, match=r"'slow' is .* and cannot be resumed"):
                bus.resume(ref)
            assert await waiting == "waits"
            assert bus.state(ref) is State.RUNNING

    run(main)


@pytest.mark.parametrize("resumed", [True, False])
def test_an_agent_that_is_stopped_for_a_failure_while_suspended_handles_nothing_more(
    run: Run, mesh: Mesh, resumed: bool
) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def work(payload: object) -> None:
            await gate.wait()
            raise Boom

        async with mesh() as bus:
            ref = await bus.spawn(work, supervision=SupervisionPolicy(directives={Boom: "stop"}))
            asking = asyncio.create_task(ref.ask(0))
            await turns()
            bus.suspend(ref)
            waiting = asyncio.create_task(ref.ask(1))
            await turns()
            gate.set()
            await asyncio.sleep(0)
            assert bus.state(ref) is State.FAILED, "the stop begins in the next turn"
            if resumed:
                bus.resume(ref)
            for ended, error in ((asking, Boom), (waiting, AgentStopped)):
                with pytest.raises(error):
                    await ended
            assert (bus.stats().failed, bus.stats().dead, bus.stats().handled) == (1, 1, 0)
            assert (await bus.watch(ref)).reason is StopReason.FAILED

    run(main)


def test_only_a_suspended_agent_can_be_resumed(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            starting = asyncio.create_task(bus.spawn(Slow, diary, name="slow"))
            await asyncio.sleep(0.1)
            with pytest.raises(IllegalTransition, match="'slow' is STARTING and cannot be resumed"):
                bus.resume("slow")
            ref = await starting
            with pytest.raises(IllegalTransition, match="RUNNING"):
                bus.resume(ref)
            bus.suspend(ref)
            bus.resume(ref)
            ref.tell("fail")
            await asyncio.sleep(0.1)
            assert bus.state(ref) is State.STARTING
            with pytest.raises(IllegalTransition, match="STARTING"):
                bus.resume(ref)  # while it is restarted
            assert await ref.ask("done") == "done"
            assert diary == ["start", "started", "start", "started"]

    run(main)


class Slow(Agent):
    """Takes a second to start."""

    def __init__(self, diary: list[Any]) -> None:
        self.diary = diary

    async def on_start(self) -> None:
        self.diary.append("start")
        await asyncio.sleep(1.0)
        self.diary.append("started")

    async def receive(self, payload: object) -> object:
        if payload == "fail later":
            await asyncio.sleep(1.0)
            raise Boom
        if payload == "fail":
            raise Boom
        return payload


def test_nobody_is_suspended_while_the_coordinator_is_left(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        refused = []

        async def hold(payload: object) -> None:
            await asyncio.sleep(0.1)
            try:
                bus.suspend("other")
            except CoordinatorClosed as error:
                refused.append(str(error))
            bus.tell("other", payload)

        async with mesh(drain_timeout=5.0) as bus:
            other = await bus.spawn(lambda payload: payload, name="other")
            holder = await bus.spawn(hold)
            holder.tell(1)
        assert refused == ["agent 'other' cannot be suspended: the coordinator is being left, which waits for its mail"]
        assert bus.stats().handled == 2
        assert bus.state(other) is State.STOPPED

    run(main)


def test_children_that_a_supervisor_had_started_again_are_not_lost_when_the_next_one_fails_to_start(
    run: Run, mesh: Mesh
) -> None:
    failures = 0

    class Flaky(Agent):
        async def on_start(self) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise Boom("not yet")

        async def receive(self, payload: object) -> None:
            raise Worse

    async def main() -> None:
        nonlocal failures
        async with mesh() as bus:
            shop = await bus.supervisor("shop", directives={Worse: "escalate"})
            await shop.spawn(lambda payload: payload, name="first")
            inner = await shop.supervisor("inner", directives={Worse: "escalate"}, supervision=ESCALATES)
            await inner.spawn(lambda payload: payload, name="below")
            await inner.spawn(Flaky, name="flaky")
            failures = 2
            bus.tell("flaky", 0)
            await asyncio.sleep(1.0)
            assert shop.children == ("first", "inner")
            assert bus.agents == ("shop", "first", "inner", "below", "flaky")
            assert bus.restarts("shop") == 3

    run(main)


ESCALATES = SupervisionPolicy(directives="escalate")


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_temporary_agent_ends_with_its_group_and_is_not_started_again(run: Run, mesh: Mesh, strategy: str) -> None:
    """As in OTP: 'a temporary child process is never restarted', also when a sibling's end ended it."""

    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            shop = await bus.supervisor("shop", strategy=strategy)
            await shop.spawn(Faulty, name="faulty")
            brief = SupervisionPolicy(restart="temporary")
            brittle = await shop.spawn(Stopping, diary, name="temporary", supervision=brief)
            brittle.tell("work")
            await shop.spawn(Stopping, diary, name="lasting")
            await asyncio.sleep(0)
            bus.tell("faulty", 0)
            await asyncio.sleep(3.0)
            assert shop.children == ("faulty", "lasting")
            assert diary == [
                "temporary made",
                "lasting made",
                ("lasting", StopReason.RESTARTED),
                "temporary worked",
                ("temporary", StopReason.RESTARTED),
                "lasting made",
            ]
            assert (await bus.watch(brittle)).reason is StopReason.RESTARTED

    run(main)


class Faulty(Agent):
    async def receive(self, payload: object) -> None:
        raise Boom


class Stopping(Agent):
    def __init__(self, diary: list[Any]) -> None:
        self.diary = diary

    def on_start(self) -> None:
        self.diary.append(f"{self.context.name} made")

    async def receive(self, payload: object) -> None:
        await asyncio.sleep(1.0)
        self.diary.append(f"{self.context.name} worked")

    async def on_stop(self, reason: StopReason) -> None:
        self.diary.append((self.context.name, reason))


def test_a_permanent_agent_that_stops_itself_finishes_the_message_in_hand_first(run: Run, mesh: Mesh) -> None:
    class Renewed(Agent):
        supervision = SupervisionPolicy(restart="permanent")

        def __init__(self) -> None:
            self.count = 0

        async def receive(self, payload: object) -> int:
            self.count += 1
            self.context.stop()
            await asyncio.sleep(1.0)
            return self.count

    async def main() -> None:
        async with mesh() as bus:
            renewed = await bus.spawn(Renewed)
            assert await asyncio.gather(renewed.ask(1), renewed.ask(2)) == [1, 1]
            assert bus.restarts(renewed) == 2
            assert bus.stats().failed == 0

    run(main)


def test_a_child_whose_handler_never_ends_does_not_hold_up_the_restart_of_its_parent(run: Run, mesh: Mesh) -> None:
    async def forever(payload: object) -> None:
        await asyncio.Event().wait()

    class Parent(Agent):
        async def on_start(self) -> None:
            self.child = await self.context.spawn(forever)
            self.child.tell(1)

        async def receive(self, payload: object) -> object:
            if payload == "fail":
                raise Boom
            return payload

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            parent = await bus.spawn(Parent)
            await asyncio.sleep(0.1)
            began = loop.time()
            parent.tell("fail")
            assert await parent.ask("back", timeout=60.0) == "back"
            assert 5.0 <= loop.time() - began < 6.0
            await bus.kill(parent)

    run(main)


def test_a_member_that_fails_again_while_its_group_is_still_restarted_is_known_to_be_restarted(
    run: Run, mesh: Mesh
) -> None:
    async def main() -> None:
        diary: list[Any] = []
        async with mesh() as bus:
            shop = await bus.supervisor("shop", strategy="one_for_all", backoff=Backoff(5.0, 5.0, 0.0))
            await shop.spawn(Faulty, name="faulty", supervision=SupervisionPolicy(backoff=Backoff(0.001, 10.0, 0.0)))
            await shop.spawn(Slow, diary, name="slow")
            bus.tell("faulty", 0)
            await asyncio.sleep(0.5)
            assert bus.state("slow") is State.STARTING
            bus.tell("faulty", 0)
            await asyncio.sleep(0.0)
            # The first restart ends while the second one waits in its backoff; a drain then waits for the second.
            bus.tell("faulty", 0)
            await asyncio.sleep(1.0)
            for life in bus._lives.by_name.values():
                restarting = life.state in (State.STARTING, State.BACKOFF)
                assert (bus._lives.restarter_of(life) is not None) == restarting
            assert await bus.drain("faulty", timeout=1.0)

    run(main)
