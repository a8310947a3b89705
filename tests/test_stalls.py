"""Handlers that take too long are reported, with where they stand: those that wait, and those that block the loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pmesh import Agent, AgentRef, Coordinator, MailboxPolicy, PmeshError, Stall, handler
from pmesh.stacks import HIDDEN, may_look
from pmesh.stalls import LoopWatch

Run = Callable[..., Any]
Mesh = Callable[..., Any]

# Real seconds for which a handler that should be reported as blocking waits for that.
PATIENCE_SECONDS = 20.0


class Worker(Agent):
    @handler
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @handler
    async def work(self, name: str) -> object:
        return await self.context.coordinator.ask(name, 30.0, timeout=100.0)

    async def receive(self, payload: Callable[[], Awaitable[None]]) -> None:
        await payload()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pmesh-stalls"]


# Handlers that wait.


def test_a_handler_that_waits_is_reported_with_what_it_waits_for_and_where(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh(stall_after=2.0) as bus:
            await bus.spawn(Worker, name="a")
            await bus.spawn(Worker, name="b")
            asking = asyncio.ensure_future(bus.ask("a", "b", timeout=100.0))
            await asyncio.sleep(1.99)
            assert bus.stalls.count == 0
            await asyncio.sleep(0.02)
            first, second = bus.stalls
            assert first == Stall(
                agent="a",
                handler="Worker.work",
                payload_type="str",
                sender=None,
                seconds=2.0,
                blocks_loop=False,
                waits_for="the answer of agent 'b' (for 2 s)",
                stack=first.stack,
            )
            assert first.stack.splitlines()[0].endswith("in work")
            assert "coordinator.ask(name" in first.stack
            assert (second.agent, second.handler, second.sender) == ("b", "Worker.sleep", "a")
            assert second.waits_for == "a Future"
            assert [line.split()[-1] for line in second.stack.splitlines()[::2]] == ["sleep", "sleep"]
            assert "await asyncio.sleep(seconds)" in second.stack
            await asking

    run(main)
    [record, *_] = caplog.records
    assert (record.name, record.levelno) == ("pmesh.stalls", logging.WARNING)
    assert record.getMessage().startswith(
        "agent 'a': Worker.work of str has not ended after 2 s: it waits for the answer of agent 'b' (for 2 s)\n  File"
    )
    assert "agent 'b': Worker.sleep of float from 'a' has not ended" in caplog.text


def test_it_is_reported_again_whenever_the_time_has_doubled(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(stall_after=1.0) as bus:
            await (await bus.spawn(Worker)).ask(20.0, timeout=100.0)
            assert [round(stall.seconds, 2) for stall in bus.stalls] == [1.0, 2.0, 4.0, 8.0, 16.0]

    run(main)


def test_what_ends_in_time_is_not_reported_and_leaves_no_timer(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh(stall_after=0.2) as bus:
            worker = await bus.spawn(Worker, concurrency=10)
            assert worker.tell_many([0.01] * 30) == 30
            await asyncio.sleep(0.5)
            assert bus.stalls.count == 0
            if loop_kind == "virtual":
                assert not asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]

    run(main)


def test_each_of_many_messages_is_looked_at_by_itself(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(stall_after=1.0) as bus:
            worker = await bus.spawn(Worker, concurrency=4)
            asks = []
            for seconds in (0.9, 3.0, 0.5, 1.5):
                asks.append(asyncio.ensure_future(worker.ask(seconds)))
                await asyncio.sleep(0.2)
            await asyncio.gather(*asks)
            for _ in range(3):
                await worker.ask(0.7)
            # A look may be late by a quarter of the time, so that many do not make many looks.
            assert [int(stall.seconds) for stall in bus.stalls] == [1, 1, 2]
            assert all(stall.seconds % 1 <= 0.25 for stall in bus.stalls)

    run(main)


def test_many_stalled_at_once_are_counted_and_ten_of_them_shown(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh(stall_after=1.0) as bus:
            worker = await bus.spawn(Worker, concurrency=25)
            await asyncio.gather(*[worker.ask(1.5) for _ in range(25)])
            assert bus.stalls.count == 25
            assert len(bus.stalls) == 10

    run(main)
    assert "15 more handlers have not ended either" in caplog.text


@pytest.mark.parametrize("hook", ["on_start", "on_stop"])
def test_lifecycle_hooks_are_looked_at_too(run: Run, mesh: Mesh, hook: str) -> None:
    async def slow(self: Agent, *args: object) -> None:
        await asyncio.sleep(3.0)

    slow.__qualname__ = f"Slow.{hook}"
    agent = type("Slow", (Agent,), {hook: slow})

    async def main() -> None:
        async with mesh(stall_after=2.0) as bus:
            await bus.stop(await bus.spawn(agent, name="a"))
            [stall] = bus.stalls
            assert (stall.agent, stall.handler, stall.payload_type) == ("a", f"Slow.{hook}", None)

    run(main)


def test_handlers_that_are_cancelled_or_written_off_are_reported_no_more(run: Run, mesh: Mesh) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(1_000.0)
            except asyncio.CancelledError:
                if over:
                    raise

    over: list[bool] = []

    async def main() -> None:
        async with mesh(stall_after=10.0) as bus:
            worker = await bus.spawn(Worker)
            worker.tell(stubborn)
            await asyncio.sleep(1.0)
            await bus.kill(worker)
            await asyncio.sleep(100.0)
            assert bus.stalls.count == 0
            over.append(True)

    run(main)


async def _stream() -> AsyncIterator[int]:
    await asyncio.sleep(3.0)
    yield 1


async def _streams() -> None:
    async for _ in _stream():
        pass


async def _gathers() -> None:
    await asyncio.gather(asyncio.sleep(3.0), asyncio.sleep(3.0))


async def _in_a_task() -> None:
    await asyncio.create_task(_streams(), name="the task")


class _Wrapped:
    def __await__(self) -> Any:
        return asyncio.sleep(3.0).__await__()


async def _awaits_an_object() -> None:
    await _Wrapped()


@pytest.mark.parametrize(
    ("waits", "expected", "innermost"),
    [
        (_streams, "a Future", "in sleep"),
        (_awaits_an_object, "a Future", "in sleep"),
        (_gathers, "task 'Task-", "in _gathers"),
        (_in_a_task, "task 'the task' at ", "in _in_a_task"),
    ],
)
def test_the_stack_goes_down_through_whatever_is_awaited(
    run: Run, mesh: Mesh, waits: Any, expected: str, innermost: str
) -> None:
    async def main() -> None:
        async with mesh(stall_after=2.0) as bus:
            await (await bus.spawn(Worker)).ask(waits)
            [stall] = bus.stalls
            assert stall.waits_for is not None
            assert stall.waits_for.startswith(expected)
            assert stall.stack.splitlines()[-2].endswith(innermost)
            assert ("and 1 more" in stall.waits_for) == (waits is _gathers)

    run(main)


def test_senders_that_wait_say_for_what(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(stall_after=2.0, window=1) as bus:
            full = await bus.spawn(Worker, name="full", mailbox=MailboxPolicy(capacity=1))

            async def sends() -> None:
                await full.send(1.0, timeout=4.0)

            full.tell(3.0)
            await asyncio.sleep(0)
            full.tell(0.0)
            await (await bus.spawn(Worker, name="sender")).ask(sends)
            assert [stall.waits_for for stall in bus.stalls] == [
                "a Future",
                "room in the mailbox of agent 'full' (for 2 s)",
            ]

    run(main)


def test_a_reporter_that_fails_is_told_to_the_loop_and_does_not_end_the_looking(
    mesh: Mesh, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise LookupError("no")

    async def main() -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
        async with mesh(stall_after=1.0) as bus:
            monkeypatch.setattr(bus.stalls, "add_waiting", fail)
            await (await bus.spawn(Worker)).ask(2.5)
        assert told == ["pmesh: reporting stalled handlers failed"] * 2

    run(main)


# Handlers that block the loop.


class Blocker(Agent):
    """Keeps the loop until it has been reported, or for good."""

    stalls: Any

    @handler
    def plain(self, payload: int) -> bool:
        return self.block()

    @handler
    async def later(self, payload: float) -> bool:
        await asyncio.sleep(payload)
        return self.block()

    def block(self) -> bool:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not self.context.coordinator.stalls.count and time.monotonic() < give_up:
            time.sleep(0.001)
        return bool(self.context.coordinator.stalls.count)


@pytest.mark.parametrize("payload", [1, 0.001], ids=["first step", "later step"])
def test_a_handler_that_blocks_the_loop_is_reported_while_it_does(
    run: Run, mesh: Mesh, loop_kind: str, payload: float, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh(stall_after=0.05) as bus:
            blocker = await bus.spawn(Blocker, name="blocker")
            assert await blocker.ask(payload, timeout=100.0)
            stall = next(iter(bus.stalls))
            assert stall.blocks_loop
            assert stall.waits_for is None
            assert stall.agent == "blocker"
            assert stall.handler == f"Blocker.{'plain' if payload == 1 else 'later'}"
            assert 0.05 <= stall.seconds < PATIENCE_SECONDS
            functions = [line.split()[-1] for line in stall.stack.splitlines() if line.startswith("  File")]
            # The one that looks is a thread of its own.
            assert functions[:2] == ([stall.handler.partition(".")[2], "block"] if may_look(0) else [])
            assert (HIDDEN in stall.stack) is not may_look(0)

    run(main)
    assert "has blocked the event loop for at least" in caplog.text


def test_a_hook_that_blocks_the_loop_is_reported(run: Run, mesh: Mesh) -> None:
    class Slow(Blocker):
        def on_start(self) -> None:  # type: ignore[override]
            assert self.block()

    async def main() -> None:
        async with mesh(stall_after=0.05) as bus:
            await bus.spawn(Slow)
            [stall, *_] = bus.stalls
            assert stall.handler.endswith("Slow.on_start")
            assert ("self.block()" if may_look(0) else HIDDEN) in stall.stack

    run(main)


def test_a_handler_that_gives_the_loop_back_in_between_does_not_block_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with Coordinator(stall_after=0.05) as bus:

            async def yields() -> None:
                until = time.monotonic() + 0.3
                while time.monotonic() < until:
                    await asyncio.sleep(0)

            await (await bus.spawn(Worker)).ask(yields)
            assert not any(stall.blocks_loop for stall in bus.stalls)

    asyncio.run(main())


# The thread that looks.


def test_the_thread_is_there_while_the_coordinator_is_entered(run: Run, mesh: Mesh, loop_kind: str) -> None:
    before = watchers()

    async def main() -> None:
        async with mesh():
            [thread] = [thread for thread in watchers() if thread not in before]
            assert thread.daemon
        assert not thread.is_alive()

    run(main)


def test_none_looks_for_nothing(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        before = watchers()
        async with mesh(stall_after=None) as bus:
            assert watchers() == before
            await (await bus.spawn(Worker)).ask(1_000.0, timeout=2_000.0)
            assert bus.stalls.count == 0

    run(main)


def test_a_coordinator_that_was_never_left_is_not_kept_alive() -> None:
    async def main() -> weakref.ref[Coordinator]:
        bus = await Coordinator(stall_after=0.01).__aenter__()
        return weakref.ref(bus)

    before = watchers()
    gone = asyncio.run(main())
    give_up = time.monotonic() + PATIENCE_SECONDS
    while (gone() is not None or watchers() != before) and time.monotonic() < give_up:
        gc.collect()
        time.sleep(0.005)
    assert gone() is None
    assert watchers() == before


def test_a_process_ends_with_its_loop_and_not_with_the_thread(python: Callable[..., str]) -> None:
    code = """
        import asyncio, pmesh

        async def main():
            global mesh
            mesh = await pmesh.Coordinator(stall_after=1000).__aenter__()

        asyncio.run(main())
        print("over")
    """
    assert python(code).strip() == "over"


FORKS = """
import asyncio, os, threading, time, warnings
import pmesh

warnings.simplefilter("error")

def watchers():
    return len([thread for thread in threading.enumerate() if thread.name == "pmesh-stalls"])

async def main():
    async with pmesh.Coordinator(stall_after=0.05) as bus:

        def block(payload):
            give_up = time.monotonic() + 20
            while not bus.stalls.count and time.monotonic() < give_up:
                time.sleep(0.001)
            return bus.stalls.count

        before = watchers()
        child = os.fork()
        if not child:
            os._exit(watchers())
        print(before, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), watchers())
        print(await (await bus.spawn(block)).ask(1, timeout=30.0) > 0)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_leaves_the_thread_to_the_parent_and_warns_of_nothing(python: Callable[..., str]) -> None:
    # In a process of its own: Python warns of a fork beside any thread, and other tests leave some.
    assert python(FORKS).splitlines() == ["1 0 1", "True"]


def test_a_watch_that_has_ended_does_not_start_again() -> None:
    bus = Coordinator()
    watch = LoopWatch(bus, None, 1.0)  # type: ignore[arg-type]
    watch.end()
    watch.start()
    assert not [thread for thread in watchers() if thread.is_alive()]


# Bad input.


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "10", True, [1]])
def test_a_stall_after_that_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(PmeshError, match="stall_after is") as caught:
        Coordinator(stall_after=value)
    assert isinstance(caught.value, ValueError | TypeError)


@pytest.mark.parametrize("value", [1e-9, 3_155_760_000.0])
def test_the_shortest_and_the_longest_time_work(run: Run, mesh: Mesh, value: float) -> None:
    async def main() -> None:
        async with mesh(stall_after=value) as bus:
            ref: AgentRef = await bus.spawn(Worker)
            await ref.ask(0.01)
            assert bool(bus.stalls.count) == (value < 1.0)

    run(main)


def test_the_thread_keeps_no_agent_that_it_has_reported(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        class Blocking(Blocker):
            def on_start(self) -> None:  # type: ignore[override]
                assert self.block()

        # The thread that reported sleeps for half of this while the agent is looked for.
        async with mesh(stall_after=0.5) as bus:
            ref = await bus.spawn(Blocking)
            instance = weakref.ref(bus._life_of(ref).cell.agent)
            await bus.stop(ref)
            gc.collect()
            assert instance() is None

    run(main)
