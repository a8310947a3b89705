"""Restarts that meet something else: other failures, starts below them, hooks that raise what is no Exception."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from pmesh import (
    Agent,
    AgentStopped,
    Backoff,
    CoordinatorClosed,
    MailboxPolicy,
    Overflow,
    StartFailed,
    State,
    StopReason,
    SupervisionPolicy,
    TooManyRestarts,
    handler,
)
from pmesh.testing.loop import VirtualTimeLoop

Run = Callable[..., Any]
Mesh = Callable[..., Any]


class Boom(Exception):
    pass


class Minor(Exception):
    pass


class Worker(Agent):
    @handler
    def fail(self, error: BaseException) -> None:
        raise error

    @handler
    async def echo(self, word: str) -> str:
        return word


# What a supervisor starts again.


def test_a_supervisor_that_resumed_starts_those_again_that_it_has_now(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            top = await bus.supervisor(strategy="one_for_all")
            resumes = SupervisionPolicy(directives={Minor: "resume"})
            below = await top.supervisor(directives={Minor: "escalate"}, supervision=resumes)
            for name in ("gone", "there"):
                await below.spawn(Worker, name=name)
            sibling = await top.spawn(Worker)
            bus.tell("gone", Minor())
            await asyncio.sleep(0.1)
            assert below.children == ("there",)
            await below.spawn(Worker, name="newer")
            sibling.tell(Boom())
            await asyncio.sleep(0.1)
            assert bus.restarts(below.ref) == 1
            assert below.children == ("there", "newer")

    run(main)


def test_a_supervisor_that_is_lost_while_it_backs_off_has_its_children_when_it_comes_back(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            top = await bus.supervisor("top", directives={Minor: "escalate"})
            slowly = SupervisionPolicy(backoff=Backoff(100.0, 100.0))
            below = await top.supervisor("below", directives={Boom: "escalate"}, supervision=slowly)
            await (await below.supervisor("lowest")).spawn(Worker, name="child")
            await below.spawn(Worker, name="fails")
            sibling = await top.spawn(Worker)
            bus.tell("fails", Boom())
            await asyncio.sleep(1.0)
            assert below.children == ()  # it waits for its restart
            sibling.tell(Minor())
            await asyncio.sleep(1.0)
            assert bus.restarts(top.ref) == 1
            assert await bus.ask("child", "up") == "up"
            assert await bus.ask("fails", "up") == "up"

    run(main)


# Hooks that raise what is no Exception.


class Escape(BaseException):
    """As test frameworks and event loops raise, past all `except Exception`."""


@pytest.mark.parametrize("where", ["__init__", "pre_restart", "on_start", "suspended on_start"])
def test_whatever_a_hook_of_a_restart_raises_the_restart_goes_on(run: Run, mesh: Mesh, where: str) -> None:
    raised: list[str] = []

    def stumble(hook: str) -> None:
        if hook == where and not raised:
            raised.append(hook)
            raise Escape

    class Stumbling(Worker):
        made = 0

        def __init__(self) -> None:
            Stumbling.made += 1
            if Stumbling.made > 1:
                stumble("__init__")

        async def on_start(self) -> None:
            if Stumbling.made > 1:
                stumble("on_start")
                await asyncio.sleep(0.1)
                stumble("suspended on_start")

        async def pre_restart(self, error: BaseException | None) -> None:
            stumble("pre_restart")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Stumbling)
            ref.tell(Boom())
            assert await ref.ask("up", timeout=1.0) == "up"
            assert raised == [where]
            assert bus.restarts(ref) == (1 if where == "pre_restart" else 2)

    run(main)


def test_whatever_on_stop_raises_is_logged(run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    class Stumbling(Worker):
        async def on_stop(self, reason: StopReason) -> None:
            raise Escape

    async def main() -> None:
        async with mesh() as bus:
            await bus.stop(await bus.spawn(Stumbling, name="stumbling"))

    run(main)
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == ["agent 'stumbling': on_stop failed"]


@pytest.mark.parametrize("hook", ["pre_restart", "post_restart"])
def test_an_exit_in_a_hook_of_a_restart_ends_the_program_and_leaves_nothing(mesh: Mesh, hook: str) -> None:
    def leave(self: Worker, error: BaseException | None) -> None:
        raise SystemExit(3)

    made: list[Any] = []

    async def main() -> None:
        async with mesh(drain_timeout=1.0) as bus:
            made.append(bus)
            ref = await bus.spawn(type("Leaving", (Worker,), {hook: leave}))
            ref.tell(Boom())
            await asyncio.sleep(60.0)

    with pytest.raises(SystemExit) as error, asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
    assert error.value.code == 3
    assert made[0].agents == ()


@pytest.mark.parametrize("hook", ["pre_restart", "post_restart"])
def test_an_agent_whose_restart_ended_its_loop_has_stopped_when_the_loop_goes_on(mesh: Mesh, hook: str) -> None:
    async def leave(self: Worker, error: BaseException | None) -> None:
        raise KeyboardInterrupt

    async def enter() -> tuple[Any, Any]:
        bus = await mesh().__aenter__()
        return bus, await bus.spawn(type("Leaving", (Worker,), {hook: leave}))

    async def go_on(bus: Any, ref: Any) -> None:
        assert (await bus.watch(ref)).reason is StopReason.FAILED
        await bus.close()

    loop = VirtualTimeLoop()
    try:
        bus, ref = loop.run_until_complete(enter())
        ref.tell(Boom())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(60.0))
        loop.run_until_complete(go_on(bus, ref))
    finally:
        loop.close()


# Hooks that take too long.


class Tidy(Worker):
    """Never ends in `on_stop`, and needs half a second to tidy up when that is cancelled."""

    def __init__(self, diary: list[str], seconds: float = 0.5) -> None:
        self.diary = diary
        self.seconds = seconds

    async def on_start(self) -> None:
        self.diary.append("start")

    async def on_stop(self, reason: StopReason) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(self.seconds)
            self.diary.append(f"tidied up, {reason.value}")


def test_a_hook_that_takes_too_long_is_cancelled_and_waited_for(run: Run, mesh: Mesh) -> None:
    diary: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(drain_timeout=2.0) as bus:
            ref = await bus.spawn(Tidy, diary)
            ref.tell(Boom())
            assert await ref.ask("up", timeout=10.0) == "up"
            assert diary == ["start", "tidied up, restarted", "start"]
            begun = loop.time()
        assert loop.time() - begun < 2.6
        assert diary[3:] == ["tidied up, shutdown"]
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_a_hook_that_does_not_heed_its_cancellation_is_written_off_after_five_seconds(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(drain_timeout=2.0) as bus:
            top = ref = await bus.spawn(Tidy, [], 3000.0)
            for _ in range(5):
                ref = await bus._spawn(Tidy, ([], 3000.0), {}, None, None, None, False, None, ref)
            begun = loop.time()
            await bus.stop(top)
            assert loop.time() - begun == pytest.approx(6 * 7.0, abs=0.1)
            ref = await bus.spawn(Tidy, [], 3000.0)
            for _ in range(5):
                ref = await bus._spawn(Tidy, ([], 3000.0), {}, None, None, None, False, None, ref)
            begun = loop.time()
        # However many are one below the other: what is left of the time, and one grace for all.
        assert loop.time() - begun < 2.0 + 5.0 + 0.1

    run(main)
    assert any("on_stop did not end within 2 s" in record.getMessage() for record in caplog.records)


def test_an_error_of_a_hook_that_is_a_timeout_is_not_taken_for_its_own(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    class Hasty(Worker):
        async def on_stop(self, reason: StopReason) -> None:
            raise TimeoutError("of the database")

    async def main() -> None:
        async with mesh() as bus:
            await bus.spawn(Hasty, name="hasty")

    run(main)
    assert [record.getMessage() for record in caplog.records] == ["agent 'hasty': on_stop failed"]


# Starts below an agent that is being restarted.


class Slow(Worker):
    """Takes a second to stop."""

    async def on_stop(self, reason: StopReason) -> None:
        await asyncio.sleep(1.0)


def test_nothing_that_an_old_instance_starts_outlives_it(run: Run, mesh: Mesh) -> None:
    refused: list[Exception] = []

    class Parent(Worker):
        concurrency = 2

        async def on_start(self) -> None:
            await self.context.spawn(Slow, name="child")

        @handler
        async def start_later(self, seconds: float) -> None:
            await asyncio.sleep(seconds)
            try:
                await self.context.spawn(Slow, name="late")
            except StartFailed as error:
                refused.append(error)
                await asyncio.sleep(1000)

        async def pre_restart(self, error: BaseException | None) -> None:
            await self.context.spawn(Slow, name="later still")

    async def main() -> None:
        async with mesh() as bus:
            parent = await bus.spawn(Parent, name="parent")
            parent.tell(0.5)  # while the child stops
            await asyncio.sleep(0)
            parent.tell(Boom())
            assert await parent.ask("up") == "up"
            assert bus.agents == ("parent", "child")
            assert [str(error) for error in refused] == [
                "agent 'parent' is being restarted, and starts no children until its next instance does"
            ]

    run(main)


def test_a_supervisor_that_is_being_restarted_starts_nothing_else(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            slowly = SupervisionPolicy(backoff=Backoff(5.0, 5.0))
            shop = await bus.supervisor("shop", directives={Minor: "escalate"}, supervision=slowly)
            for name in ("one", "two"):
                await shop.spawn(Slow, name=name)
            bus.tell("one", Minor())
            for state in (State.FAILED, State.BACKOFF):
                await asyncio.sleep(1.5)
                assert bus.state(shop.ref) is state, state
                with pytest.raises(StartFailed, match="'shop' is being restarted"):
                    await shop.spawn(Worker, name="three")
                await asyncio.sleep(1.5)
            await asyncio.sleep(5.0)
            assert shop.children == ("one", "two")
            await shop.spawn(Worker, name="three")
            assert shop.children == ("one", "two", "three")

    run(main)


def test_an_agent_that_has_failed_for_good_starts_no_children(run: Run, mesh: Mesh) -> None:
    class Failing(Worker):
        concurrency = 2
        supervision = SupervisionPolicy(directives="stop")

        @handler
        async def start_when(self, gate: asyncio.Event) -> None:
            await gate.wait()
            await self.context.spawn(Worker)

    async def main() -> None:
        async with mesh() as bus:
            gate = asyncio.Event()
            ref = await bus.spawn(Failing)
            started = asyncio.ensure_future(ref.ask(gate))
            await asyncio.sleep(0.1)
            ref.tell(Boom())
            asyncio.get_running_loop().call_soon(gate.set)
            with pytest.raises((StartFailed, CoordinatorClosed)):
                await started
            assert bus.agents == ()

    run(main)


# Escalations to an agent that starts.


@pytest.mark.parametrize("why", ["escalate", "too often"])
def test_an_agent_hears_of_a_child_that_failed_for_good_while_it_started(run: Run, mesh: Mesh, why: str) -> None:
    errors: list[BaseException | None] = []

    class Parent(Worker):
        async def on_start(self) -> None:
            child = await self.context.spawn(
                Worker, name="child", supervision=SupervisionPolicy(directives={Minor: "escalate"})
            )
            if not errors:
                child.tell_many([Minor()] if why == "escalate" else [Boom()] * 6)
                await asyncio.sleep(1.0)

        async def pre_restart(self, error: BaseException | None) -> None:
            errors.append(error)

    async def main() -> None:
        async with mesh() as bus:
            parent = await bus.spawn(Parent, name="parent")
            assert await parent.ask("up") == "up"
            assert [type(error) for error in errors] == [Minor if why == "escalate" else TooManyRestarts]
            assert bus.restarts(parent) == 1
            assert bus.agents == ("parent", "child")
            assert await bus.ask("child", "up") == "up"

    run(main)


def test_an_ask_of_a_child_that_failed_for_good_while_its_parent_started_ends_at_once(run: Run, mesh: Mesh) -> None:
    class Parent(Worker):
        async def on_start(self) -> None:
            supervision = SupervisionPolicy(directives="escalate")
            child = await self.context.spawn(Worker, name="child", supervision=supervision)
            child.tell(Boom())
            await child.ask("up")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with mesh() as bus:
            with pytest.raises(AgentStopped):
                await bus.spawn(Parent)
            assert bus.agents == ()
        assert loop.time() - begun < 0.1

    run(main)


def test_a_supervisor_hears_of_children_that_failed_for_good_while_it_started_others(run: Run, mesh: Mesh) -> None:
    starts: list[str] = []

    class Child(Worker):
        def __init__(self, name: str, seconds: float) -> None:
            self.name = name
            self.seconds = seconds

        async def on_start(self) -> None:
            starts.append(self.name)
            if self.name == "second" and starts.count("second") == 2:
                self.context.coordinator.tell("first", Minor())
            await asyncio.sleep(self.seconds)

    async def main() -> None:
        async with mesh() as bus:
            shop = await bus.supervisor("shop", directives={Minor: "escalate"})
            await shop.spawn(Child, "first", 0.0, name="first")
            await shop.spawn(Child, "second", 1.0, name="second")
            bus.tell("first", Minor())
            await asyncio.sleep(10.0)
            assert bus.restarts(shop.ref) == 2
            assert starts == ["first", "second"] * 3
            assert shop.children == ("first", "second")
            assert await bus.ask("first", "up") == "up"

    run(main)


def test_a_supervisor_that_resumes_goes_on_without_those_that_failed_while_it_started(run: Run, mesh: Mesh) -> None:
    first_time = True

    class Child(Worker):
        async def on_start(self) -> None:
            if not first_time:
                self.context.ref.tell(Minor())
                await asyncio.sleep(1.0)

    async def main() -> None:
        nonlocal first_time
        async with mesh() as bus:
            resumes = SupervisionPolicy(directives={Minor: "resume"})
            shop = await bus.supervisor("shop", directives={Minor: "escalate"}, supervision=resumes, intensity=1)
            for name in ("one", "two", "three"):
                await shop.spawn(Child, name=name)
            await shop.spawn(Worker, name="four")
            first_time = False
            for _ in range(2):
                bus.tell("four", Boom())
            await asyncio.sleep(10.0)
            assert bus.restarts(shop.ref) == 1
            assert shop.children == ("four",)
            assert bus.agents == ("shop", "four")

    run(main)


# What an agent that handles nothing is sent.


@pytest.mark.parametrize("state", [State.SUSPENDED, State.BACKOFF, State.STARTING])
def test_a_mailbox_that_overflows_under_stop_ends_its_agent_in_whatever_state(
    run: Run, mesh: Mesh, state: State
) -> None:
    class Hanging(Worker):
        mailbox = MailboxPolicy(2, overflow=Overflow.STOP)

        async def post_restart(self, error: BaseException | None) -> None:
            if state is State.STARTING:
                await asyncio.sleep(1000)

    async def main() -> None:
        async with mesh() as bus:
            backoff = Backoff(100.0, 100.0) if state is State.BACKOFF else None
            ref = await bus.spawn(Hanging, supervision=SupervisionPolicy(backoff=backoff))
            if state is State.SUSPENDED:
                bus.suspend(ref)
            else:
                ref.tell(Boom())
                await asyncio.sleep(1.0)
            assert bus.state(ref) is state
            assert [ref.tell("waits") for _ in range(3)] == [True, True, False]
            assert (await bus.watch(ref)).reason is StopReason.FAILED
            assert (bus.stats().dead, bus.stats().rejected) == (2, 1)

    run(main)


# Backoff of agents that did not fail in the course of their mail.


def test_a_permanent_agent_that_stops_itself_backs_off_too(run: Run, mesh: Mesh) -> None:
    states: list[State] = []

    class Leaving(Worker):
        starts: ClassVar[list[float]] = []

        async def on_start(self) -> None:
            self.starts.append(asyncio.get_running_loop().time())

        @handler
        async def leave(self, seconds: float) -> None:
            self.context.stop()
            await asyncio.sleep(seconds)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = SupervisionPolicy("permanent", intensity=100, backoff=Backoff(1.0, 4.0, jitter=0.0))
        async with mesh() as bus:
            ref = await bus.spawn(Leaving, supervision=policy)
            ref.tell_many([0.0, 0.0, 0.0, 0.5])
            loop.call_later(2.5, lambda: states.append(bus.state(ref)))
            await asyncio.sleep(60.0)
            ref.tell(0.0)
            await asyncio.sleep(60.0)
        first, *others = Leaving.starts
        assert [round(start - first, 1) for start in others] == [1.0, 3.0, 7.0, 11.5, 61.0]
        assert states == [State.BACKOFF]

    run(main)


def test_an_agent_that_failed_while_it_was_suspended_backs_off_too(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = SupervisionPolicy(backoff=Backoff(10.0, 10.0, jitter=0.0))
        async with mesh() as bus:
            ref = await bus.spawn(Later, supervision=policy)
            ref.tell(1.0)
            await asyncio.sleep(0.5)
            bus.suspend(ref)
            ref.tell("waits")
            await asyncio.sleep(1.0)
            assert bus.state(ref) is State.BACKOFF
            await asyncio.sleep(10.0)
            assert bus.state(ref) is State.SUSPENDED
            bus.resume(ref)
            assert await ref.ask("up") == "up"
            assert loop.time() < 1012.0
            assert (bus.stats().failed, bus.stats().handled) == (1, 2)

    run(main)


class Later(Worker):
    @handler
    async def fail_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise Boom
