"""Watching: who is told of an agent's end, when, and that unwatching takes it back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    InvalidArgument,
    MailboxPolicy,
    StopReason,
    SupervisionPolicy,
    Terminated,
    UnknownAgent,
    handler,
)

Run = Callable[..., Any]
Mesh = Callable[..., Any]


class Watcher(Agent):
    mailbox = MailboxPolicy(1)

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    @handler
    def ended(self, notice: Terminated) -> None:
        self.log.append(notice)

    @handler
    async def do(self, order: tuple) -> None:
        getattr(self.context, order[0])(order[1])

    @handler
    def note(self, text: str) -> None:
        self.log.append(text)

    @handler
    def fail(self, error: Exception) -> None:
        raise error


def echo(payload: object) -> object:
    return payload


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("end", "reason"),
    [("stop", StopReason.STOPPED), ("drain", StopReason.DRAINED), ("kill", StopReason.KILLED)],
)
def test_a_watcher_is_told_once_with_reason_and_incarnation(
    run: Run, mesh: Mesh, loop_kind: str, end: str, reason: StopReason
) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            watcher = await bus.spawn(Watcher, log)
            first = await bus.spawn(echo, name="e")
            await watcher.ask(("watch", first))
            await watcher.ask(("watch", "e"))
            await getattr(bus, end)(first)
            second = await bus.spawn(echo, name="e")
            await watcher.ask(("watch", second))
            await bus.stop(second)
            await turns()
            assert [(notice.ref, notice.reason) for notice in log] == [(first, reason), (second, StopReason.STOPPED)]
            assert log[0].incarnation < log[1].incarnation
            assert bus.stats().imbalance is None

    run(main)


def test_watching_an_agent_that_has_stopped_tells_at_once(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            watcher = await bus.spawn(Watcher, log)
            ref = await bus.spawn(echo)
            await bus.stop(ref)
            await watcher.ask(("watch", ref))
            await turns()
            assert [notice.ref for notice in log] == [ref]
            assert await bus.watch(ref) == log[0]

    run(main)


def test_the_notice_goes_before_normal_mail_and_into_a_full_mailbox(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            watcher = await bus.spawn(Watcher, log)
            refs = [await bus.spawn(echo) for _ in range(3)]
            for ref in refs:
                await watcher.ask(("watch", ref))
            bus.suspend(watcher)
            assert watcher.tell("normal")
            assert not watcher.tell("too much")
            for ref in refs:
                await bus.stop(ref)
            assert watcher.depth == 4
            bus.resume(watcher)
            await turns()
            assert [getattr(entry, "ref", entry) for entry in log] == [*refs, "normal"]
            assert bus.stats().imbalance is None

    run(main)


@pytest.mark.parametrize("when", ["before", "queued"])
def test_unwatch_cancels_also_a_notice_that_waits(run: Run, mesh: Mesh, when: str) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            watcher = await bus.spawn(Watcher, log, name="w")
            ref, other = await bus.spawn(echo), await bus.spawn(echo)
            await watcher.ask(("watch", ref))
            await watcher.ask(("watch", other))
            context = bus._life_of(watcher).cell.agent.context
            bus.suspend(watcher)
            if when == "before":
                context.unwatch(ref)
            await bus.stop(ref)
            await bus.stop(other)
            before = bus.stats().agents["w"]
            context.unwatch(ref)
            after = bus.stats().agents["w"]
            assert after.imbalance is None
            assert before.sent - after.sent == before.pending - after.pending == (when == "queued")
            bus.resume(watcher)
            await turns()
            assert [notice.ref for notice in log] == [other]

    run(main)


def test_a_restart_is_no_end_and_the_watch_outlives_those_of_the_watcher(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        log: list[Any] = []
        async with mesh() as bus:
            watcher, watched = await bus.spawn(Watcher, log), await bus.spawn(Watcher, [])
            await watcher.ask(("watch", watched))
            for ref in (watched, watcher):
                with pytest.raises(ValueError, match="x"):
                    await ref.ask(ValueError("x"))
                await ref.ask("go on")
            assert log == ["go on"]
            await bus.stop(watched)
            await turns()
            assert [getattr(entry, "ref", entry) for entry in log] == ["go on", watched]

    run(main)


def test_two_that_watch_each_other_and_stop_together_leave_nothing(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            one, two = await bus.spawn(Watcher, []), await bus.spawn(Watcher, [])
            await one.ask(("watch", two))
            await two.ask(("watch", one))
            lives = [bus._life_of(one), bus._life_of(two)]
            await asyncio.gather(bus.stop(one), bus.stop(two))
        assert [(life.watchers, life.watching) for life in lives] == [(None, None)] * 2
        assert bus.stats().imbalance is None

    run(main)


def test_waiting_for_an_end_can_be_cancelled_at_any_moment(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(echo)
            for moment in ("before", "during", "same tick"):
                waiting = asyncio.create_task(bus.watch(ref))
                if moment != "before":
                    await turns()
                if moment == "same tick":
                    await bus.stop(ref)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert (await bus.watch(ref)).reason is StopReason.STOPPED

    run(main)


def test_watching_oneself_or_nobody_is_an_error(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            watcher = await bus.spawn(Watcher, [], name="w")
            with pytest.raises(InvalidArgument, match="agent 'w' watches itself"):
                await watcher.ask(("watch", watcher))
            with pytest.raises(UnknownAgent):
                await watcher.ask(("watch", "nobody"))
            with pytest.raises(UnknownAgent):
                await bus.watch("nobody")

    run(main)


def test_nobody_waits_for_its_own_end_or_its_parents_in_a_handler(run: Run, mesh: Mesh) -> None:
    class Narcissus(Agent):
        @handler
        async def look(self, ref: AgentRef) -> None:
            await self.context.coordinator.watch(ref)

        @handler
        async def have_a_child(self, name: str) -> AgentRef:
            return await self.context.spawn(Narcissus, name=name)

    async def main() -> None:
        async with mesh() as bus:
            one = await bus.spawn(Narcissus, name="one", supervision=SupervisionPolicy(directives="resume"))
            child = await one.ask("child")
            for asked in (one, child):
                with pytest.raises(InvalidArgument, match="agent 'one' is watched by what a handler of it"):
                    await asked.ask(one)
            await bus.stop(one)
            assert (await bus.watch(one)).reason is StopReason.STOPPED

    run(main)
