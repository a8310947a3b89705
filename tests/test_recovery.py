"""Restarts that meet something else: other failures, escalations, starts below, hooks that raise what is no Exception."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pmesh import Agent, Backoff, SupervisionPolicy, handler

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
