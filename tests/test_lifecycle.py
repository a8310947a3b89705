"""The life of agents and coordinators: transitions, hooks, names, ends, leaving, bad input."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    AgentStopped,
    AskTimeout,
    Coordinator,
    CoordinatorClosed,
    DeadLetterKind,
    HandlerCancelled,
    HandlerDefinitionError,
    InvalidArgument,
    InvalidType,
    MailboxPolicy,
    NameInUse,
    PmeshError,
    StartFailed,
    State,
    StopReason,
    UnhandledMessage,
    UnknownAgent,
    WrongLoop,
    handler,
)
from pmesh.errors import IllegalTransition
from pmesh.lifecycle import TRANSITIONS, Lifecycle

Run = Callable[..., Any]
Mesh = Callable[..., Any]

# Design section 6, written out again.
ALLOWED = {
    "NEW": "STARTING",
    "STARTING": "RUNNING DRAINING FAILED STOPPING",
    "RUNNING": "SUSPENDED DRAINING STOPPING FAILED STARTING",
    "SUSPENDED": "RUNNING DRAINING STOPPING FAILED STARTING",
    "DRAINING": "STOPPING FAILED",
    "FAILED": "RUNNING BACKOFF STARTING STOPPING",
    "BACKOFF": "STARTING DRAINING STOPPING",
    "STOPPING": "STOPPED",
    "STOPPED": "",
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)), ids=lambda state: state.name)
def test_only_the_transitions_of_the_table_are_allowed(before: State, after: State) -> None:
    life = Lifecycle("a")
    life.state = before
    if after.name in ALLOWED[before.name].split():
        life.move(after)
        assert life.state is after
        return
    with pytest.raises(IllegalTransition, match=f"'a' cannot go from {before.name} to {after.name}; allowed: "):
        life.move(after)
    assert life.state is before


def test_every_state_is_in_the_table_and_can_be_reached_from_new() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {State.NEW}
    while more := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == set(State)
    assert Lifecycle("a").state is State.NEW


# Helpers.


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Noting(Agent):
    """Writes down what happens to it in `log`, and does in its handler what the payload says."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.gate = asyncio.Event()

    async def on_start(self) -> None:
        self.log.append(("start", self.context.name))

    async def receive(self, payload: Any) -> Any:
        self.log.append(("handle", payload))
        if payload == "wait":
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.log.append("cancelled")
                raise
            self.log.append("waited")
        elif payload == "stubborn":
            while not self.gate.is_set():
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.log.append("refused to be cancelled")
            self.log.append("gave in")
        elif callable(payload):
            return await payload(self)
        return payload

    async def on_stop(self, reason: StopReason) -> None:
        self.log.append(("stop", self.context.name, reason))


def keep(base: type[Agent] = Noting) -> tuple[type[Any], list[Any]]:
    """A subclass whose instances are kept in the list."""
    made: list[Any] = []

    class Kept(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    return Kept, made


def terms(counters: Any) -> dict[str, int]:
    assert counters.imbalance is None
    return {name: value for name, value in counters.as_dict().items() if value}


# Spawning, and the hooks.


def test_spawn_returns_once_on_start_is_over(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        started: list[str] = []

        class Slow(Agent):
            async def on_start(self) -> None:
                await asyncio.sleep(0.01)
                started.append(self.context.name)

        async with mesh() as bus:
            ref = await bus.spawn(Slow, name="slow")
            assert started == ["slow"]
            assert bus.state(ref) is State.RUNNING
            assert bus.lookup("slow") is ref
            assert bus.agents == ("slow",)

    run(main)


@pytest.mark.parametrize("kind", ["plain", "async", "awaitable"])
def test_hooks_may_be_plain_or_coroutines_and_are_called_once_each(run: Run, mesh: Mesh, kind: str) -> None:
    log: list[Any] = []

    async def wait(what: Any) -> None:
        log.append(what)
        await asyncio.sleep(1)

    class Plain(Agent):
        def on_start(self) -> Any:
            log.append("start") if kind == "plain" else None
            return None if kind == "plain" else wait("start")

        def on_stop(self, reason: StopReason) -> Any:
            log.append(reason) if kind == "plain" else None
            return None if kind == "plain" else wait(reason)

    class Async(Agent):
        async def on_start(self) -> None:
            await wait("start")

        async def on_stop(self, reason: StopReason) -> None:
            await wait(reason)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Async if kind == "async" else Plain)
            assert log == ["start"]
            await bus.stop(ref)
        assert log == ["start", StopReason.STOPPED]

    run(main)


def test_context_is_set_before_on_start(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        seen: list[Any] = []

        class Looks(Agent):
            def __init__(self, argument: int, *, keyword: int) -> None:
                seen.append((argument, keyword, hasattr(self, "context")))

            async def on_start(self) -> None:
                seen.append(
                    (
                        self.context.name,
                        self.context.ref,
                        self.context.coordinator,
                        self.context.message,
                    )
                )

        async with mesh() as bus:
            ref = await bus.spawn(Looks, 1, keyword=2, name="looks")
            assert seen == [(1, 2, False), ("looks", ref, bus, None)]

    run(main)


def test_mail_that_comes_while_an_agent_starts_is_handled_after_on_start(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        log: list[Any] = []

        class Slow(Agent):
            async def on_start(self) -> None:
                self.context.ref.tell("own")
                await asyncio.sleep(0.01)
                log.append("started")

            def receive(self, payload: Any) -> None:
                log.append(payload)

        async with mesh() as bus:
            spawning = asyncio.ensure_future(bus.spawn(Slow, name="slow"))
            await turns()
            assert bus.state("slow") is State.STARTING
            assert bus.tell("slow", "early") is True
            assert log == []
            await spawning
        assert log == ["started", "own", "early"]

    run(main)


@pytest.mark.parametrize("kind", ["factory", "plain", "async", "suspended"])
def test_a_failing_start_raises_out_of_spawn_and_the_name_is_free_again(
    run: Run, mesh: Mesh, loop_kind: str, kind: str
) -> None:
    log: list[str] = []

    class Fails(Agent):
        def __init__(self) -> None:
            if kind == "factory":
                raise ZeroDivisionError("on purpose")

        def on_start(self) -> Any:
            if kind == "plain":
                raise ZeroDivisionError("on purpose")
            return self.later()

        async def later(self) -> None:
            if kind == "suspended":
                await asyncio.sleep(0.001)
            raise ZeroDivisionError("on purpose")

        def on_stop(self, reason: StopReason) -> None:
            log.append("on_stop of an agent that never started")

    async def main() -> None:
        async with mesh() as bus:
            for _ in range(2):
                spawning = asyncio.ensure_future(bus.spawn(Fails, name="fails"))
                if kind == "suspended":
                    await turns(2)
                    bus.tell("fails", "early")
                with pytest.raises(ZeroDivisionError, match="on purpose"):
                    await spawning
                assert bus.agents == ()
            assert await (await bus.spawn(lambda payload: payload, name="fails")).ask(1) == 1
        if kind == "suspended":
            assert terms_of(bus.stats()) == {"sent": 3, "accepted": 3, "handled": 1, "dead": 2}
            assert bus.dead_letters.counts[DeadLetterKind.STOPPED] == 2
        assert log == []

    run(main)


def terms_of(stats: Any) -> dict[str, int]:
    assert stats.imbalance is None
    names = (
        "sent",
        "accepted",
        "rejected",
        "handled",
        "failed",
        "expired",
        "dropped",
        "dead",
        "pending",
    )
    return {name: getattr(stats, name) for name in names if getattr(stats, name)}


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_cancelled_spawn_has_started_nothing_and_cancels_on_start(
    run: Run, mesh: Mesh, loop_kind: str, moment: str
) -> None:
    async def main() -> None:
        log: list[str] = []

        class Slow(Agent):
            async def on_start(self) -> None:
                log.append("starting")
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    log.append("cancelled")
                    raise

        async with mesh() as bus:
            spawning = asyncio.ensure_future(bus.spawn(Slow, name="slow"))
            if moment == "during":
                await turns()
            spawning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await spawning
            assert bus.agents == ()
            await turns()
            assert log == ([] if moment == "before" else ["starting", "cancelled"])
            await bus.spawn(lambda payload: payload, name="slow")

    run(main)


@pytest.mark.parametrize("how", ["stop", "kill", "drain"])
def test_an_agent_that_is_ended_while_it_starts_makes_spawn_raise_start_failed(
    run: Run, mesh: Mesh, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        log: list[str] = []

        class Slow(Agent):
            async def on_start(self) -> None:
                log.append("starting")
                try:
                    await asyncio.sleep(10)
                finally:
                    log.append("start is over")

            async def on_stop(self, reason: StopReason) -> None:
                log.append("on_stop")

        async with mesh() as bus:
            spawning = asyncio.ensure_future(bus.spawn(Slow, name="slow"))
            await turns()
            await getattr(bus, how)("slow")
            with pytest.raises(StartFailed, match="'slow'"):
                await spawning
            assert log[:2] == ["starting", "start is over"]
            assert bus.agents == ()
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    run(main)


def test_an_agent_that_stops_itself_in_on_start_makes_spawn_raise_start_failed(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        class Quits(Agent):
            async def on_start(self) -> None:
                self.context.stop()

        async with mesh() as bus:
            with pytest.raises(StartFailed, match="'quits'"):
                await bus.spawn(Quits, name="quits")
            assert bus.agents == ()

    run(main)


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["plain", "async", "suspended"])
def test_an_agent_whose_on_stop_fails_is_stopped_all_the_same_and_the_error_logged(
    run: Run, mesh: Mesh, kind: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Agent):
        def on_stop(self, reason: StopReason) -> Any:
            if kind == "plain":
                raise error("on purpose")
            return self.later()

        async def later(self) -> None:
            if kind == "suspended":
                await asyncio.sleep(1)
            raise error("on purpose")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Fails, name="fails")
            await bus.stop(ref)
            assert bus.state(ref) is State.STOPPED
            assert bus.agents == ()
        assert "'fails': on_stop failed" in caplog.text

    run(main)


def test_an_on_stop_that_never_ends_is_bounded_by_the_drain_timeout(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Stuck(Agent):
            async def on_stop(self, reason: StopReason) -> None:
                await asyncio.Event().wait()

        async with mesh(drain_timeout=7) as bus:
            ref = await bus.spawn(Stuck, name="stuck")
            started = loop.time()
            await bus.stop(ref)
            assert loop.time() - started == pytest.approx(7, abs=1e-3)
            assert bus.agents == ()
        assert "'stuck': on_stop did not end within 7 s" in caplog.text

    run(main)


def test_a_kill_while_on_stop_waits_ends_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[str] = []

        class Stuck(Agent):
            async def on_stop(self, reason: StopReason) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    log.append("ended")

        async with mesh() as bus:
            ref = await bus.spawn(Stuck, name="stuck")
            stopping = asyncio.ensure_future(bus.stop(ref))
            await turns()
            started = loop.time()
            await bus.kill(ref)
            await stopping
            assert loop.time() - started <= 5.001
            assert log == ["ended"]
            assert bus.state(ref) is State.STOPPED

    run(main)


# Names.


def test_a_name_is_free_again_when_its_agent_has_stopped(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            old = await bus.spawn(lambda payload: "old", name="x")
            with pytest.raises(NameInUse, match=r"'x' is alive \(running\) in coordinator 'test'; await its stop"):
                await bus.spawn(lambda payload: "second", name="x")
            await bus.stop("x")
            new = await bus.spawn(lambda payload: "new", name="x")
            assert await bus.ask("x", 1) == "new"
            # A new spawn of a name is a new incarnation: the old ref stays with the old one.
            assert old is not new
            assert old.tell(1) is False
            assert not old.is_alive
            assert new.is_alive

    run(main)


@pytest.mark.parametrize("state", [State.STARTING, State.STOPPING])
def test_a_name_is_taken_from_the_start_of_its_agent_to_its_very_end(run: Run, mesh: Mesh, state: State) -> None:
    class Slow(Agent):
        async def on_start(self) -> None:
            await asyncio.sleep(1)

        async def on_stop(self, reason: StopReason) -> None:
            await asyncio.sleep(1)

    async def main() -> None:
        async with mesh() as bus:
            spawning = asyncio.ensure_future(bus.spawn(Slow, name="x"))
            await turns()
            if state is State.STOPPING:
                ref = await spawning
                spawning = asyncio.ensure_future(bus.stop(ref))
                await turns()
            assert bus.state("x") is state
            with pytest.raises(NameInUse, match="'x'"):
                await bus.spawn(lambda payload: payload, name="x")
            await spawning

    run(main)


def test_agents_without_a_name_get_one_of_their_own(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            names = [(await bus.spawn(Noting, [])).name for _ in range(5)]
            assert len(set(names)) == 5
            assert all(name.startswith("noting-") for name in names)
            # A name that the user chose is stepped over.
            taken = int(names[-1].split("-")[1]) + 1
            await bus.spawn(Noting, [], name=f"noting-{taken}")
            assert (await bus.spawn(Noting, [])).name == f"noting-{taken + 1}"

    run(main)


def test_an_unknown_name_is_an_error_that_names_close_matches_and_counts(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await bus.spawn(lambda payload: payload, name="billing")
            with pytest.raises(UnknownAgent, match=r"'biling' is alive.*did you mean 'billing'"):
                bus.tell("biling", 1)
            with pytest.raises(UnknownAgent, match=r"'zzz'.*1 agents are alive"):
                await bus.ask("zzz", 2)
            with pytest.raises(UnknownAgent):
                await bus.send("zzz", 3)
            with pytest.raises(UnknownAgent):
                bus.lookup("zzz")
            for method in (bus.stop, bus.drain, bus.kill):
                with pytest.raises(UnknownAgent):
                    await method("zzz")
            assert terms_of(bus.stats()) == {"sent": 3, "rejected": 3}
            assert [(letter.kind, letter.payload, letter.receiver) for letter in bus.dead_letters] == [
                (DeadLetterKind.UNKNOWN, 1, "biling"),
                (DeadLetterKind.UNKNOWN, 2, "zzz"),
                (DeadLetterKind.UNKNOWN, 3, "zzz"),
            ]

    run(main)


def test_tell_many_to_an_unknown_name_counts_each_message(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            with pytest.raises(UnknownAgent):
                bus.tell_many("zzz", [1, 2, 3])
            assert terms_of(bus.stats()) == {"sent": 3, "rejected": 3}
            assert [letter.payload for letter in bus.dead_letters] == [1, 2, 3]

    run(main)


# Stop.


def test_stop_finishes_the_handler_and_dead_letters_the_rest(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, name="a")
            ref.tell("wait")
            ref.tell("never")
            asking = asyncio.ensure_future(ref.ask("never asked"))
            await turns()
            stopping = asyncio.ensure_future(bus.stop(ref))
            with pytest.raises(AgentStopped, match="'a' stopped before it handled str"):
                await asking
            assert bus.state(ref) is State.STOPPING
            assert ref.tell("late") is False
            assert not stopping.done()
            made[0].gate.set()
            await stopping
            assert log == [
                ("start", "a"),
                ("handle", "wait"),
                "waited",
                ("stop", "a", StopReason.STOPPED),
            ]
            assert terms(ref.counters()) == {
                "sent": 4,
                "accepted": 3,
                "rejected": 1,
                "handled": 1,
                "dead": 2,
            }
            assert [letter.payload for letter in bus.dead_letters] == ["never", "never asked"]
            assert bus.state(ref) is State.STOPPED

    run(main)


def test_stopping_twice_and_a_stopped_agent_does_nothing_more(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Noting, log, name="a")
            await asyncio.gather(bus.stop(ref), bus.stop("a"), bus.drain(ref), bus.kill(ref))
            await bus.stop(ref)
            await bus.kill(ref)
            await bus.drain(ref)
            assert [entry[0] for entry in log] == ["start", "stop"]

    run(main)


def test_a_cancelled_stop_still_stops_the_agent(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log)
            ref.tell("wait")
            await turns()
            stopping, other = (asyncio.ensure_future(bus.stop(ref)) for _ in range(2))
            await turns()
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            made[0].gate.set()
            await other
            assert bus.state(ref) is State.STOPPED

    run(main)


@pytest.mark.parametrize("how", ["context.stop", "stop", "kill", "drain"])
@pytest.mark.parametrize("moment", ["before it suspends", "after"])
def test_an_agent_may_end_itself_from_its_own_handler(
    run: Run, mesh: Mesh, loop_kind: str, how: str, moment: str
) -> None:
    async def main() -> None:
        log: list[Any] = []

        async def end(agent: Noting) -> str:
            if moment == "after":
                await asyncio.sleep(0)
            context = agent.context
            if how == "context.stop":
                context.stop()
            else:
                await getattr(context.coordinator, how)(context.ref)
            log.append("goes on")
            return "answer"

        async with mesh() as bus:
            ref = await bus.spawn(Noting, log, name="a")
            asking = asyncio.ensure_future(ref.ask(end))
            await asyncio.sleep(0)
            for payload in ("after", "later"):
                ref.tell(payload)
            assert await asking == "answer"
            await bus.stop(ref)
            assert "goes on" in log
            assert log[-1][0] == "stop"
            handled = [entry[1] for entry in log if entry[0] == "handle"][1:]
            assert handled in ([], ["after", "later"])
            assert terms_of(bus.stats()).get("failed") is None

    run(main)


def test_a_child_may_stop_its_parent_from_its_handler(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []

        async def stop_parent(agent: Noting) -> str:
            await agent.context.coordinator.stop("parent")
            return "done"

        async with mesh() as bus:
            await bus.spawn(Parent, log, 1, name="parent")
            child = bus.lookup("parent.0")
            assert await child.ask(stop_parent, timeout=60) == "done"
            await turns(20)
            assert bus.agents == ()

    run(main)


# Kill.


def test_kill_cancels_the_handler_and_dead_letters_what_waits(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Noting, log, name="a")
            asking = asyncio.ensure_future(ref.ask("wait"))
            waiting = asyncio.ensure_future(ref.ask("never"))
            await turns()
            await bus.kill(ref)
            with pytest.raises((HandlerCancelled, AgentStopped)):
                await asking
            with pytest.raises(AgentStopped):
                await waiting
            assert log == [
                ("start", "a"),
                ("handle", "wait"),
                "cancelled",
                ("stop", "a", StopReason.KILLED),
            ]
            assert terms(ref.counters()) == {"sent": 2, "accepted": 2, "failed": 1, "dead": 1}

    run(main)


def test_kill_of_a_handler_that_refuses_to_be_cancelled_is_bounded(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, name="a")
            asking = asyncio.ensure_future(ref.ask("stubborn", timeout=60))
            await turns()
            started = loop.time()
            await bus.kill(ref)
            assert loop.time() - started == pytest.approx(5, abs=0.01)
            with pytest.raises(HandlerCancelled, match="did not end when it was cancelled"):
                await asking
            assert terms(ref.counters()) == {"sent": 1, "accepted": 1, "failed": 1}
            assert "refused to be cancelled" in log
            # What it still does is ignored.
            made[0].gate.set()
            await turns()
            assert log[-1] == "gave in"
            assert terms(ref.counters()) == {"sent": 1, "accepted": 1, "failed": 1}
            assert bus.agents == ()
        assert "went on 5 s after they were cancelled" in caplog.text

    run(main)


def test_on_stop_is_called_also_when_the_handler_was_written_off(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, name="a")
            ref.tell("stubborn")
            await turns()
            await bus.kill(ref)
            assert log[-1] == ("stop", "a", StopReason.KILLED)
            made[0].gate.set()
            await turns()

    run(main)


@pytest.mark.parametrize("first", ["stop", "drain"])
@pytest.mark.parametrize("handled", ["wait", "stubborn"])
def test_a_kill_hastens_an_end_that_has_begun(run: Run, mesh: Mesh, first: str, handled: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, name="a")
            ref.tell(handled)
            await turns()
            ending = asyncio.ensure_future(getattr(bus, first)(ref))
            await turns()
            started = loop.time()
            await bus.kill(ref)
            await ending
            assert loop.time() - started <= 5.01
            assert terms(ref.counters()) == {"sent": 1, "accepted": 1, "failed": 1}
            made[0].gate.set()
            await turns()

    run(main)


def test_a_killed_agent_with_several_slots_has_all_its_handlers_cancelled(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            ref = await bus.spawn(Noting, log, name="a", concurrency=3)
            ref.tell_many(["wait"] * 5)
            await turns()
            await bus.kill(ref)
            assert log.count("cancelled") == 3
            assert terms(ref.counters()) == {"sent": 5, "accepted": 5, "failed": 3, "dead": 2}

    run(main)


# Drain.


def test_drain_refuses_new_mail_and_handles_what_was_accepted(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, name="a")
            ref.tell("wait")
            ref.tell_many([1, 2, 3])
            await turns()
            draining = asyncio.ensure_future(bus.drain(ref))
            await turns()
            assert bus.state(ref) is State.DRAINING
            assert ref.tell("late") is False
            made[0].gate.set()
            assert await draining is True
            assert [entry[1] for entry in log if entry[0] == "handle"] == ["wait", 1, 2, 3]
            assert log[-1] == ("stop", "a", StopReason.DRAINED)
            assert terms(ref.counters()) == {"sent": 5, "accepted": 4, "rejected": 1, "handled": 4}

    run(main)


@pytest.mark.parametrize("handled", ["wait", "stubborn"])
def test_drain_ends_at_its_timeout_and_says_so(run: Run, mesh: Mesh, handled: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, name="a")
            ref.tell_many([handled, "never"])
            await turns()
            started = loop.time()
            assert await bus.drain(ref, timeout=3) is False
            assert loop.time() - started == pytest.approx(3 if handled == "wait" else 8, abs=0.01)
            assert terms(ref.counters()) == {"sent": 2, "accepted": 2, "failed": 1, "dead": 1}
            made[0].gate.set()
            await turns()

    run(main)


def test_a_failure_while_draining_does_not_lose_the_drain(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []

        async def fail(agent: Noting) -> None:
            raise ZeroDivisionError

        async with mesh() as bus:
            ref = await bus.spawn(Noting, log, name="a")
            ref.tell_many([1, fail, 2])
            assert await bus.drain(ref) is True
            assert terms(ref.counters()) == {"sent": 3, "accepted": 3, "failed": 1, "handled": 2}

    run(main)


def test_an_idle_agent_drains_at_once(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            started = loop.time()
            assert await bus.drain(ref) is True
            assert loop.time() == started

    run(main)


# Children.


class Parent(Noting):
    def __init__(self, log: list[Any], children: int, depth: int = 1) -> None:
        super().__init__(log)
        self.children = children
        self.depth = depth

    async def on_start(self) -> None:
        await super().on_start()
        for number in range(self.children):
            name = f"{self.context.name}.{number}"
            if self.depth > 1:
                await self.context.spawn(Parent, self.log, self.children, self.depth - 1, name=name)
            else:
                await self.context.spawn(Noting, self.log, name=name)


@pytest.mark.parametrize("how", ["stop", "kill", "drain", "leave"])
def test_children_stop_before_their_parent_in_reverse_order_of_start(run: Run, mesh: Mesh, how: str) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            await bus.spawn(Parent, log, 2, 2, name="p")
            assert bus.agents == ("p", "p.0", "p.0.0", "p.0.1", "p.1", "p.1.0", "p.1.1")
            log.clear()
            if how != "leave":
                await getattr(bus, how)("p")
                assert bus.agents == ()
        assert [name for _, name, _ in log] == [
            "p.1.1",
            "p.1.0",
            "p.1",
            "p.0.1",
            "p.0.0",
            "p.0",
            "p",
        ]

    run(main)


def test_a_child_that_stopped_by_itself_is_forgotten_by_its_parent(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            await bus.spawn(Parent, log, 3, name="p")
            await bus.stop("p.1")
            log.clear()
            await bus.stop("p")
            assert [name for _, name, _ in log] == ["p.2", "p.0", "p"]

    run(main)


def test_a_stopping_agent_starts_no_children(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        errors: list[Exception] = []

        class Late(Agent):
            async def on_stop(self, reason: StopReason) -> None:
                try:
                    await self.context.spawn(lambda payload: payload)
                except CoordinatorClosed as error:
                    errors.append(error)

        async with mesh() as bus:
            ref = await bus.spawn(Late, name="late")
            await bus.stop(ref)
            assert "'late' is stopping" in str(errors[0])

    run(main)


# Leaving the coordinator.


def test_leaving_handles_what_was_accepted_then_stops_in_reverse_order_of_start(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            for name in ("a", "b", "c"):
                ref = await bus.spawn(Noting, log, name=name)
                ref.tell(name)
            log.clear()
        assert log == [
            *[("handle", name) for name in ("a", "b", "c")],
            *[("stop", name, StopReason.SHUTDOWN) for name in ("c", "b", "a")],
        ]
        assert terms_of(bus.stats()) == {"sent": 3, "accepted": 3, "handled": 3}

    run(main)


def test_leaving_refuses_mail_from_outside_while_pipelines_of_handlers_finish(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        class Stage(Agent):
            def __init__(self, following: AgentRef | None) -> None:
                self.following = following

            async def receive(self, payload: int) -> None:
                await asyncio.sleep(0.002)
                if self.following is not None:
                    assert self.following.tell(payload) is True
                    await self.following.send(payload)
                elif payload % 2:
                    self.context.ref.tell(payload - 1)

        outside: list[Any] = []

        async def tell_from_outside(bus: Any, ref: AgentRef) -> None:
            while not bus._dispatcher.closing:
                await asyncio.sleep(0)
            outside.append(ref.tell(1))
            for call in (ref.ask, ref.send):
                try:
                    await call(1)
                except AgentStopped as error:
                    outside.append(str(error))
            try:
                await bus.spawn(lambda payload: payload)
            except CoordinatorClosed as error:
                outside.append(str(error))

        async with mesh() as bus:
            last = await bus.spawn(Stage, None, name="last")
            middle = await bus.spawn(Stage, last)
            first = await bus.spawn(Stage, middle, name="first")
            assert first.tell_many([1, 1, 1]) == 3
            outsider = asyncio.ensure_future(tell_from_outside(bus, first))
            await turns(1)
        await outsider
        assert terms_of(bus.stats()) == {"sent": 36, "accepted": 33, "handled": 33, "rejected": 3}
        assert outside == [
            False,
            "agent 'first' takes no more mail",
            "agent 'first' takes no more mail",
            "coordinator 'test' is closing and starts no agents",
        ]

    run(main)


def test_senders_from_outside_that_wait_for_room_are_refused_when_the_coordinator_is_left(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, mailbox=MailboxPolicy(1))
            ref.tell("wait")
            await turns()
            ref.tell("waits")
            sending = asyncio.ensure_future(ref.send("outside", timeout=60))
            await turns()
            asyncio.get_running_loop().call_later(1, made[0].gate.set)
        with pytest.raises(AgentStopped):
            await sending
        assert terms_of(bus.stats()) == {"sent": 3, "accepted": 2, "rejected": 1, "handled": 2}

    run(main)


@pytest.mark.parametrize("handled", ["wait", "stubborn"])
def test_leaving_is_bounded_by_the_drain_timeout(
    run: Run, mesh: Mesh, handled: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[Any] = []
        kept, made = keep()
        async with mesh(drain_timeout=4) as bus:
            ref = await bus.spawn(kept, log, name="slow")
            ref.tell_many([handled, "never"])
            await turns()
            started = loop.time()
        assert loop.time() - started == pytest.approx(4 if handled == "wait" else 9, abs=0.01)
        assert terms_of(bus.stats()) == {"sent": 2, "accepted": 2, "failed": 1, "dead": 1}
        assert "2 messages pending in 1 agents (slow has 2) after draining for 4 s" in caplog.text
        made[0].gate.set()
        await turns()

    run(main)


@pytest.mark.parametrize("handled", ["wait", "stubborn"])
def test_leaving_is_bounded_also_when_an_agent_is_being_stopped_and_its_handler_never_ends(
    run: Run, mesh: Mesh, handled: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[Any] = []
        kept, made = keep()
        async with mesh(drain_timeout=4) as bus:
            ref = await bus.spawn(kept, log, name="slow")
            ref.tell(handled)
            await turns()
            stopping = asyncio.ensure_future(bus.stop(ref))
            await turns()
            started = loop.time()
        assert loop.time() - started <= 9.01
        await stopping
        assert terms_of(bus.stats()) == {"sent": 1, "accepted": 1, "failed": 1}
        made[0].gate.set()
        await turns()

    run(main)


def test_leaving_is_bounded_also_when_on_stop_sends_to_an_agent_whose_handler_never_ends(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[Any] = []

        class Leaver(Agent):
            def __init__(self, last: AgentRef) -> None:
                self.last = last

            async def on_stop(self, reason: StopReason) -> None:
                self.last.tell("wait")
                await asyncio.sleep(0.1)

        async with mesh(drain_timeout=4) as bus:
            last = await bus.spawn(Noting, log)
            await bus.spawn(Leaver, last)
            started = loop.time()
        assert loop.time() - started < 20
        assert terms_of(bus.stats()) == {"sent": 1, "accepted": 1, "failed": 1}

    run(main)


def test_leaving_while_an_agent_starts_makes_its_spawn_raise(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        class Slow(Agent):
            async def on_start(self) -> None:
                await asyncio.sleep(3600)

        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            spawning = asyncio.ensure_future(bus.spawn(Slow, name="slow"))
            await turns()
            started = loop.time()
        assert loop.time() - started < 60
        with pytest.raises((StartFailed, CoordinatorClosed)):
            await asyncio.wait_for(spawning, 60)

    run(main)


def test_a_cancelled_leaving_kills_what_still_runs(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        bus = mesh()
        await bus.__aenter__()
        ref = await bus.spawn(Noting, log, name="a")
        ref.tell("wait")
        await turns()
        leaving = asyncio.ensure_future(bus.__aexit__(None, None, None))
        await turns()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert log[-2:] == ["cancelled", ("stop", "a", StopReason.KILLED)]
        assert terms_of(bus.stats()) == {"sent": 1, "accepted": 1, "failed": 1}

    run(main)


def test_an_error_in_the_body_leaves_all_the_same_and_comes_through(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        with pytest.raises(ZeroDivisionError):
            async with mesh() as bus:
                ref = await bus.spawn(Noting, log, name="a")
                ref.tell(1)
                raise ZeroDivisionError
        assert [entry[0] for entry in log] == ["start", "handle", "stop"]

    run(main)


def test_pending_asks_from_outside_are_answered_when_the_coordinator_is_left(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(Noting, log, name="a")
            asks = [asyncio.ensure_future(ref.ask(payload, timeout=60)) for payload in ("wait", "never")]
            await turns()
        outcomes = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 5)
        assert isinstance(outcomes[0], HandlerCancelled | AgentStopped)
        assert isinstance(outcomes[1], AgentStopped)

    run(main)


def test_what_is_sent_to_a_stopped_agent_counts_rejected_in_the_totals(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, name="gone")
            await ref.ask(1)
            await bus.stop(ref)
            assert terms_of(bus.stats()) == {"sent": 1, "accepted": 1, "handled": 1}
            assert ref.tell(2) is False
            assert terms_of(bus.stats()) == {"sent": 2, "accepted": 1, "handled": 1, "rejected": 1}
            with pytest.raises(AgentStopped):
                await ref.send(3)
            with pytest.raises(AgentStopped):
                await ref.ask(4)
            assert terms_of(bus.stats()) == {"sent": 4, "accepted": 1, "handled": 1, "rejected": 3}
        assert ref.tell(5) is False
        assert terms_of(bus.stats()) == {"sent": 5, "accepted": 1, "handled": 1, "rejected": 4}

    run(main)


def test_a_message_is_counted_finished_before_its_ask_is_answered(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async def suspended(payload: int) -> int:
            await asyncio.sleep(0)
            return payload

        async with mesh() as bus:
            for function in (lambda payload: payload, suspended):
                ref = await bus.spawn(function)
                for number in range(10):
                    await ref.ask(number)
                    assert terms(ref.counters()) == {
                        "sent": number + 1,
                        "accepted": number + 1,
                        "handled": number + 1,
                    }

    run(main)


# What bad input gets: an error that names the thing, its value and the fix.


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, 1e30, 10**400, -0.0])
@pytest.mark.parametrize("where", ["ask", "send", "tell", "drain", "drain_timeout", "slice_seconds"])
def test_a_timeout_must_be_positive_and_finite(run: Run, mesh: Mesh, where: str, value: float) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, name="a")
            with pytest.raises(InvalidArgument, match=r"is .*; it must be positive, finite") as caught:
                await give(bus, ref, where, value)
            assert repr(value) in str(caught.value)
            assert isinstance(caught.value, ValueError)
            assert bus.stats().sent == 0
            assert bus.state(ref) is State.RUNNING

    run(main)


@pytest.mark.parametrize("value", ["1", None, True, [1]])
@pytest.mark.parametrize("where", ["ask", "send", "drain_timeout", "slice_seconds"])
def test_a_timeout_must_be_a_number(run: Run, mesh: Mesh, where: str, value: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, name="a")
            with pytest.raises(InvalidType, match=r"is .*; it must be a number of seconds") as caught:
                await give(bus, ref, where, value)
            assert repr(value) in str(caught.value)
            assert isinstance(caught.value, TypeError)
            assert bus.stats().sent == 0

    run(main)


async def give(bus: Any, ref: AgentRef, where: str, value: Any) -> None:
    if where == "tell":
        ref.tell(1, ttl=value)
    elif where == "drain":
        await bus.drain(ref, timeout=value)
    elif where in ("drain_timeout", "slice_seconds"):
        Coordinator(**{where: value})
    else:
        await getattr(ref, where)(1, timeout=value)


@pytest.mark.parametrize("value", [0, -1, 2**62, 2**200])
@pytest.mark.parametrize("name", ["capacity", "max_bytes", "concurrency", "window"])
def test_a_count_must_be_at_least_one_and_fit(run: Run, mesh: Mesh, name: str, value: int) -> None:
    async def main() -> None:
        with pytest.raises(InvalidArgument, match=rf"{name} is {value}; it must be .*1"):
            if name == "concurrency":
                async with mesh() as bus:
                    await bus.spawn(lambda payload: payload, concurrency=value)
            elif name == "window":
                Coordinator(window=value)
            else:
                MailboxPolicy(**{name: value})

    run(main)


@pytest.mark.parametrize("value", [1.5, "1", True])
@pytest.mark.parametrize("name", ["capacity", "max_bytes", "concurrency", "window", "dead_letters"])
def test_a_count_must_be_a_whole_number(run: Run, mesh: Mesh, name: str, value: Any) -> None:
    async def main() -> None:
        with pytest.raises(InvalidType, match=rf"{name} is {value!r}; it must be a whole number"):
            if name == "concurrency":
                async with mesh() as bus:
                    await bus.spawn(lambda payload: payload, concurrency=value)
            elif name in ("window", "dead_letters"):
                Coordinator(**{name: value})
            else:
                MailboxPolicy(**{name: value})

    run(main)


@pytest.mark.parametrize("value", [-1, 2**63])
def test_the_number_of_dead_letters_kept_is_checked(value: int) -> None:
    with pytest.raises(InvalidArgument, match=f"dead_letters is {value}"):
        Coordinator(dead_letters=value)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"overflow": "reject"},
            InvalidType,
            "overflow is 'reject'; it must be one of Overflow.REJECT",
        ),
        ({"size": 5}, InvalidType, "size is 5; it must be a function"),
    ],
)
def test_a_mailbox_policy_is_checked_when_it_is_made(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        MailboxPolicy(**options)


@pytest.mark.parametrize(
    ("factory", "options", "error", "text"),
    [
        (Agent, {}, HandlerDefinitionError, "spawn a subclass"),
        (5, {}, InvalidType, "factory is 5; it must be a subclass of Agent or a function"),
        (int, {}, InvalidType, "factory is <class 'int'>"),
        (lambda: 1, {}, InvalidType, "callable with one argument"),
        (lambda a, b: 1, {}, InvalidType, "callable with one argument"),
        (lambda payload: 1, {"name": 5}, InvalidType, "name is 5; it must be a str"),
        (lambda payload: 1, {"name": ""}, InvalidArgument, "name is ''"),
        (
            lambda payload: 1,
            {"mailbox": 5},
            InvalidType,
            "mailbox is 5; it must be a MailboxPolicy",
        ),
        (lambda payload: 1, {"shoe": 5}, InvalidType, "shoe"),
    ],
)
def test_spawn_checks_what_it_is_given(
    run: Run, mesh: Mesh, factory: Any, options: Any, error: type[Exception], text: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            with pytest.raises(error, match=text):
                await bus.spawn(factory, **options)
            assert bus.agents == ()

    run(main)


def test_an_agent_instance_is_no_factory(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            with pytest.raises(InvalidType, match="give the class and its arguments"):
                await bus.spawn(Noting([]))

    run(main)


def test_a_handler_with_a_wrong_signature_is_an_error_at_class_definition() -> None:
    with pytest.raises(HandlerDefinitionError, match=r"\.nothing must take self and one payload.*it takes \(self\)"):

        class Nothing(Agent):
            @handler
            def nothing(self) -> None: ...

    with pytest.raises(HandlerDefinitionError, match=r"\.two must take self and one payload"):

        class Two(Agent):
            @handler
            def two(self, a: int, b: int) -> None: ...

    with pytest.raises(HandlerDefinitionError, match=r"\.keyword must take"):

        class Keyword(Agent):
            @handler
            def keyword(self, a: int, *, b: int) -> None: ...

    with pytest.raises(HandlerDefinitionError, match=r"\.bare\(a\) has no annotation; annotate 'a'"):

        class Bare(Agent):
            @handler
            def bare(self, a) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(HandlerDefinitionError, match=r"\.inner\(a: list\[int\]\).*annotate it with list"):

        class Inner(Agent):
            @handler
            def inner(self, a: list[int]) -> None: ...

    with pytest.raises(HandlerDefinitionError, match=r"\.receive must take"):

        class Receive(Agent):
            async def receive(self) -> None: ...  # type: ignore[override]


def test_two_handlers_for_one_type_are_an_error_at_class_definition() -> None:
    with pytest.raises(HandlerDefinitionError, match=r"Twice\.second and .*Twice\.first both handle int"):

        class Twice(Agent):
            @handler
            def first(self, a: int) -> None: ...

            @handler
            def second(self, a: int | str) -> None: ...


def test_an_unknown_lane_is_an_error_where_the_handler_is_marked() -> None:
    with pytest.raises(InvalidArgument, match="lane is 'express'; it must be 'normal' or 'control'"):
        handler(lane="express")


def test_a_payload_without_a_handler_is_a_dead_letter_and_an_error_for_the_asker(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    class Ints(Agent):
        @handler
        def number(self, payload: int) -> int:
            return payload

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Ints, name="ints")
            assert ref.tell("text") is True
            with pytest.raises(UnhandledMessage, match=r"'ints' has no handler for bytes and no receive"):
                await ref.ask(b"bytes")
            assert terms(ref.counters()) == {"sent": 2, "accepted": 2, "dead": 2}
            assert [letter.kind for letter in bus.dead_letters] == [DeadLetterKind.UNHANDLED] * 2

    run(main)


def test_a_coordinator_that_was_not_entered_says_so(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        bus = mesh("shop")
        text = r"'shop' has not been entered; use `async with` first"
        for method in (bus.tell, bus.send, bus.ask, bus.tell_many):
            with pytest.raises(CoordinatorClosed, match=text):
                method("a", [1])
        for call in (bus.spawn(len), bus.stop("a"), bus.drain("a"), bus.kill("a")):
            with pytest.raises(CoordinatorClosed, match=text):
                await call
        with pytest.raises(UnknownAgent):
            bus.lookup("a")
        assert terms_of(bus.stats()) == {}

    run(main)


def test_a_coordinator_that_was_left_says_so(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh("shop") as bus:
            ref = await bus.spawn(lambda payload: payload, name="a")
        text = r"'shop' has been left; make a new one"
        for call in (
            bus.spawn(len),
            bus.stop("a"),
            bus.drain("a"),
            bus.kill("a"),
            bus.__aenter__(),
        ):
            with pytest.raises(CoordinatorClosed, match=text):
                await call
        assert ref.tell(1) is False
        assert bus.tell(ref, 1) is False
        with pytest.raises(AgentStopped, match="'a'"):
            await ref.ask(1)
        with pytest.raises(AgentStopped, match="'a'"):
            await ref.send(1)
        await bus.close()  # does nothing
        for method in (bus.tell, bus.ask, bus.send):
            with pytest.raises(PmeshError, match="has been left"):
                method("a", 1)

    run(main)


def test_a_coordinator_is_entered_once(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh("shop") as bus:
            with pytest.raises(CoordinatorClosed, match="'shop' has been entered already"):
                await bus.__aenter__()
            assert await (await bus.spawn(lambda payload: payload)).ask(1) == 1

    run(main)


def test_a_ref_of_another_coordinator_is_refused(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh("one") as one, mesh("two") as two:
            ref = await one.spawn(lambda payload: payload)
            for method in (two.stop, two.drain, two.kill):
                with pytest.raises(InvalidArgument, match="belongs to another coordinator than 'two'"):
                    await method(ref)
            assert await ref.ask(1) == 1

    run(main)


@pytest.mark.parametrize("thing", [None, 5, b"a", Noting])
def test_something_that_is_no_agent_is_refused(run: Run, mesh: Mesh, thing: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            for method in (bus.tell, bus.ask, bus.send):
                with pytest.raises(InvalidType, match="it must be an AgentRef or the name of one"):
                    method(thing, 1)
            with pytest.raises(InvalidType, match="it must be an AgentRef or the name of one"):
                await bus.stop(thing)
            assert terms_of(bus.stats()) == {}

    run(main)


def test_use_from_another_event_loop_is_refused_and_tell_is_not(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh("shop") as bus:
            ref = await bus.spawn(lambda payload: payload, name="a")

            async def elsewhere() -> None:
                for call in (ref.ask, ref.send):
                    with pytest.raises(
                        WrongLoop,
                        match=r"belongs to the coordinator's event loop.*tell\(\) from other",
                    ):
                        await call(1)
                for call in (
                    bus.spawn(len),
                    bus.stop("a"),
                    bus.drain("a"),
                    bus.kill("a"),
                    bus.close(),
                ):
                    with pytest.raises(
                        WrongLoop,
                        match=r"event loop of coordinator 'shop'; use asyncio.run_coroutine",
                    ):
                        await call
                assert ref.tell(2) is True

            await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(elsewhere()))
            assert await ref.ask(3) == 3
            assert terms(ref.counters()) == {"sent": 2, "accepted": 2, "handled": 2}

    run(main)


def test_a_ref_cannot_be_made_or_pickled(run: Run, mesh: Mesh) -> None:
    import pickle

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, name="a")
            with pytest.raises(InvalidType, match="'a' belongs to one process"):
                pickle.dumps(ref)
            with pytest.raises(InvalidType, match="cannot be constructed"):
                AgentRef()

    run(main)


def test_an_ask_is_bounded_by_its_timeout(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[Any] = []
        kept, made = keep()
        async with mesh() as bus:
            ref = await bus.spawn(kept, log, name="a")
            started = loop.time()
            for timeout in (None, 2.5):
                with pytest.raises(AskTimeout, match="'a' gave no answer within"):
                    await (ref.ask("wait") if timeout is None else ref.ask("wait", timeout=timeout))
            assert loop.time() - started == pytest.approx(7.5, abs=1e-6)
            made[0].gate.set()

    run(main)


FORK = """
    import asyncio, os, sys
    import pmesh

    def refused(what, call):
        try:
            call()
        except pmesh.UsedAfterFork as error:
            assert "fork" in str(error) and "in the child" in str(error), error
            print("child:", what, "refused", flush=True)
        except BaseException as error:
            print("child:", what, "raised", repr(error), flush=True)
        else:
            print("child:", what, "was not refused", flush=True)

    def drive(awaitable):
        awaitable.__await__().send(None)

    async def main():
        not_entered = pmesh.Coordinator("never entered")
        async with pmesh.Coordinator("left") as left:
            pass
        async with pmesh.Coordinator("shop") as bus:
            ref = await bus.spawn(lambda payload: payload, name="a")
            child = os.fork()
            if child == 0:
                try:
                    refused("tell", lambda: ref.tell(1))
                    refused("tell_many", lambda: ref.tell_many([1]))
                    refused("mesh.tell", lambda: bus.tell("a", 1))
                    refused("ask", lambda: drive(ref.ask(1)))
                    refused("send", lambda: drive(ref.send(1)))
                    refused("spawn", lambda: drive(bus.spawn(len)))
                    refused("stop", lambda: drive(bus.stop("a")))
                finally:
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            print("parent:", await ref.ask("goes on"), bus.stats().sent, flush=True)

            # A child may have a coordinator of its own.
            child = os.fork()
            if child == 0:
                try:
                    asyncio._set_running_loop(None)
                    async def own():
                        async with pmesh.Coordinator("own") as mine:
                            echo = await mine.spawn(lambda payload: payload)
                            print("child:", await echo.ask("works"), flush=True)
                    asyncio.new_event_loop().run_until_complete(own())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)

    asyncio.run(main())
"""


def test_use_after_fork_is_refused_in_the_child_and_the_parent_goes_on(
    python: Callable[[str], str],
) -> None:
    lines = python(FORK).splitlines()
    what = ["tell", "tell_many", "mesh.tell", "ask", "send", "spawn", "stop"]
    assert lines == [
        *(f"child: {name} refused" for name in what),
        "parent: goes on 1",
        "child: works",
    ]


def test_every_public_name_is_there_and_every_error_derives_from_pmesh_error() -> None:
    import pmesh.errors

    for name in pmesh.__all__:
        assert hasattr(pmesh, name), name
    for name in pmesh.errors.__all__:
        assert issubclass(getattr(pmesh.errors, name), PmeshError)
