"""Kills of agents with others below them: what is cancelled when, in which order they end, and how long it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import Agent, StopReason, handler

Run = Callable[..., Any]
Mesh = Callable[..., Any]


class Link(Agent):
    """One of a chain: each has the next one below it."""

    def __init__(self, diary: list[str], below: int, seconds: float = 0.0) -> None:
        self.diary = diary
        self.below = below
        self.seconds = seconds  # that its handler tidies up, times how many are below

    async def on_stop(self, reason: StopReason) -> None:
        await asyncio.sleep(0.001)
        self.diary.append(f"{self.below} stopped")

    @handler
    async def grow(self, word: str) -> None:
        if self.below:
            ref = await self.context.spawn(Link, self.diary, self.below - 1, self.seconds)
            ref.tell(word)
        if word == "wait":
            self.context.ref.tell(self.below)

    @handler
    async def wait(self, below: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            self.diary.append(f"{below} cancelled")
            await asyncio.sleep(self.seconds * (below + 1))
            self.diary.append(f"{below} tidied up")


class Stubborn(Link):
    @handler
    async def wait(self, below: int) -> None:
        end = asyncio.get_running_loop().time() + 1000
        while asyncio.get_running_loop().time() < end:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(500)

    @handler
    async def grow(self, word: str) -> None:
        if self.below:
            (await self.context.spawn(Stubborn, self.diary, self.below - 1)).tell(word)
        self.context.ref.tell(self.below)


@pytest.mark.parametrize("end", ["kill", "hasten", "drain", "stop and kill"])
def test_all_handlers_below_are_cancelled_at_once_and_once_and_the_agents_end_from_below(
    run: Run, mesh: Mesh, end: str
) -> None:
    diary: list[str] = []

    async def main() -> None:
        async with mesh() as bus:
            top = await bus.spawn(Link, diary, 3, 0.5)
            top.tell("wait")
            await asyncio.sleep(1.0)
            match end:
                case "kill":
                    await bus.kill(top)
                case "hasten":
                    bus.shutdown.hasten()
                    await bus.shutdown.run()
                case "drain":
                    assert not await bus.drain(top, timeout=1.0)
                case _:
                    stopping = asyncio.ensure_future(bus.stop(top))
                    await asyncio.sleep(0.1)
                    await bus.kill(top)
                    await stopping
            assert bus.agents == ()

    run(main)
    assert sorted(diary[:4]) == [f"{below} cancelled" for below in range(4)]
    tidied = [word for word in diary if word.endswith("tidied up")]
    assert tidied == [f"{below} tidied up" for below in range(4)]
    stopped = [word for word in diary if word.endswith("stopped")]
    assert stopped == [f"{below} stopped" for below in range(4)]


@pytest.mark.parametrize("end", ["kill", "hasten", "leave"])
def test_handlers_that_do_not_heed_a_kill_hold_it_up_for_five_seconds_however_many_are_below_each_other(
    run: Run, mesh: Mesh, end: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(drain_timeout=3.0) as bus:
            top = await bus.spawn(Stubborn, [], 5)
            top.tell("wait")
            await asyncio.sleep(1.0)
            begun = loop.time()
            if end == "kill":
                await bus.kill(top)
                assert loop.time() - begun == pytest.approx(5.0, abs=0.2)
            elif end == "hasten":
                bus.shutdown.hasten()
        limit = 3.0 + 5.0 if end == "leave" else 5.0
        assert loop.time() - begun == pytest.approx(limit, abs=0.2)

    run(main)


@pytest.mark.parametrize("end", ["kill", "stop and kill", "hasten", "stop and hasten", "drain", "leave"])
def test_agents_may_stand_a_thousand_deep(run: Run, mesh: Mesh, end: str) -> None:
    diary: list[str] = []

    async def main() -> None:
        async with mesh() as bus:
            top = await bus.spawn(Link, diary, 1_200)
            top.tell("grow")
            await asyncio.sleep(1.0)
            assert len(bus.agents) == 1_201
            stopping = None
            if end.startswith("stop"):
                stopping = asyncio.ensure_future(bus.stop(top))
                await asyncio.sleep(0.1)
            match end.rpartition(" ")[2]:
                case "kill":
                    await bus.kill(top)
                case "drain":
                    assert await bus.drain(top)
                case "hasten":
                    bus.shutdown.hasten()
            if stopping is not None:
                await stopping
        assert bus.agents == ()

    run(main)
    if not end.startswith("stop"):
        # One that stopped already, and is killed, loses what it still wanted to do.
        assert diary == [f"{below} stopped" for below in range(1_201)]
