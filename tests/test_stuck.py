"""Asks that would wait on themselves are refused at once, and nothing else is."""

from __future__ import annotations

import asyncio
import pickle
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pmesh import Agent, AgentRef, AgentStopped, AskCycle, AskTimeout, Coordinator, PmeshError, handler

Run = Callable[..., Any]
Mesh = Callable[..., Any]

# Long enough that whoever waits for it has waited in vain.
LONG = 50.0


class Doer(Agent):
    """Runs the function it is sent, with itself as the argument."""

    async def receive(self, payload: Callable[[Doer], Awaitable[Any]]) -> Any:
        return await payload(self)

    def ask(self, name: str, work: Any, timeout: float = LONG) -> Awaitable[Any]:
        return self.context.coordinator.ask(name, work, timeout=timeout)


async def nothing(doer: Doer) -> str:
    return doer.context.name


async def spawn_all(bus: Coordinator, *names: str, **options: Any) -> list[AgentRef]:
    return [await bus.spawn(Doer, name=name, **options) for name in names]


def route(*names: str, then: Callable[[Doer], Awaitable[Any]] = nothing) -> Callable[[Doer], Awaitable[Any]]:
    """Work that asks the first of `names` to ask the next, and so on; the last one does `then`."""

    async def step(doer: Doer) -> Any:
        if not names:
            return await then(doer)
        return await doer.ask(names[0], route(*names[1:], then=then))

    return step


async def elapsed(waiting: Awaitable[Any]) -> float:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await waiting
    return loop.time() - before


# What is refused.


def test_an_agent_that_asks_itself_with_no_slot_free_is_told_at_once(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            [a] = await spawn_all(bus, "a")

            async def asks_itself(doer: Doer) -> None:
                with pytest.raises(AskCycle, match=r"ask of 'a' by 'a' would wait on itself") as caught:
                    await doer.ask("a", nothing)
                assert caught.value.chain == ("a", "a")

            assert await elapsed(a.ask(asks_itself)) < 1.0
            counters = a.counters()
            assert (counters.sent, counters.accepted, counters.rejected, counters.handled) == (2, 1, 1, 1)
            assert await a.ask(nothing) == "a"

    run(main)


@pytest.mark.parametrize("suspended", [False, True], ids=["first step", "later step"])
def test_a_ring_of_asks_is_refused_with_its_agents_handlers_and_payloads(
    run: Run, mesh: Mesh, loop_kind: str, suspended: bool
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "a", "b", "c")
            errors: list[AskCycle] = []

            async def closes(doer: Doer) -> None:
                if suspended:
                    await asyncio.sleep(0.001)
                try:
                    await doer.ask("a", nothing)
                except AskCycle as error:
                    errors.append(error)

            await bus.ask("a", route("b", "c", then=closes))
            [error] = errors
            assert error.chain == ("c", "a", "b", "c")
            assert str(error) == (
                "ask of 'a' by 'c' would wait on itself: c (Doer.receive of function) -> a (Doer.receive of function)"
                " -> b (Doer.receive of function) -> c; give 'a' a slot more (concurrency=2), or use tell"
            )
            assert isinstance(error, PmeshError)
            assert isinstance(error, RuntimeError)
            assert not isinstance(error, TimeoutError)

    run(main)


def test_the_text_of_a_long_ring_is_cut_and_its_chain_is_not(run: Run, mesh: Mesh) -> None:
    names = [f"n{number}" for number in range(60)]

    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, *names)
            with pytest.raises(AskCycle) as caught:
                await bus.ask(names[0], route(*names[1:], names[0]), timeout=LONG)
            assert caught.value.chain == (names[-1], *names)
            assert str(caught.value).count("->") == 20
            assert "(41 more)" in str(caught.value)

    run(main)


def test_a_question_in_hand_needs_its_own_slot_however_many_others_are_free(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "a")
            await spawn_all(bus, "b", concurrency=5)
            with pytest.raises(AskCycle) as caught:
                await bus.ask("a", route("b", "a"))
            assert caught.value.chain == ("b", "a", "b")

    run(main)


def test_all_slots_of_an_agent_waiting_for_the_asker_is_a_cycle_and_one_of_them_is_none(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "hub", concurrency=3)
            await spawn_all(bus, "x", "y")

            async def later(doer: Doer) -> Any:
                await asyncio.sleep(1.0)
                return await doer.ask("hub", nothing)

            async def sleeps(doer: Doer) -> None:
                await asyncio.sleep(2.0)

            # One slot waits for x, which asks; another for y; the third one sleeps, and will serve.
            ends = [bus.ask("hub", route("x", then=later)), bus.ask("hub", sleeps), bus.ask("hub", route("y"))]
            assert (await asyncio.gather(*ends))[0] == "hub"
            # All three wait for x: two of them in its mailbox.
            ends = [bus.ask("hub", route("x", then=later)) for _ in range(3)]
            ends = await asyncio.gather(*ends, return_exceptions=True)
            assert isinstance(ends[0], AskCycle)
            assert ends[0].chain == ("x", "hub", "x")

    run(main)


@pytest.mark.parametrize("way", ["name", "ref", "plain", "function", "helper", "timeout", "headers"])
def test_it_is_the_handlers_own_wait_by_whatever_way_it_asks(run: Run, mesh: Mesh, way: str) -> None:
    async def main() -> None:
        async with mesh() as bus:

            def asks(payload: object) -> Any:
                if way == "name":
                    return bus.ask("it", 1)
                if way == "headers":
                    return it.ask(1, headers={"a": 1})
                if way == "helper":
                    return helper()
                if way == "timeout":
                    return limited()
                return it.ask(1)

            async def helper() -> object:
                return await it.ask(1)

            async def limited() -> object:
                async with asyncio.timeout(LONG):
                    return await helper()

            async def asks_in_a_coroutine(payload: object) -> object:
                return await asks(payload)

            class Plain(Agent):
                def receive(self, payload: object) -> Any:  # type: ignore[override]
                    return asks(payload)

            factory: Any = {"plain": Plain, "ref": asks_in_a_coroutine}.get(way, asks)
            it = await bus.spawn(factory, name="it")
            with pytest.raises(AskCycle):
                await it.ask(0)

    run(main)


def test_agents_of_two_coordinators_in_one_loop_are_seen_together(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh("outer") as outer, mesh("inner") as inner:
            [a] = await spawn_all(outer, "a")
            [b] = await spawn_all(inner, "b")

            async def there(doer: Doer) -> Any:
                return await b.ask(and_back)

            async def and_back(doer: Doer) -> Any:
                return await a.ask(nothing)

            with pytest.raises(AskCycle) as caught:
                await a.ask(there)
            assert caught.value.chain == ("b", "a", "b")

    run(main)


# Agents that start.


@pytest.mark.parametrize("suspends", [False, True])
def test_a_child_that_asks_its_parent_while_that_waits_for_its_start_is_told(
    run: Run, mesh: Mesh, suspends: bool
) -> None:
    class Child(Agent):
        async def on_start(self) -> None:
            if suspends:
                await asyncio.sleep(1.0)
            await self.context.coordinator.ask("parent", nothing, timeout=LONG)

    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "parent")

            async def begets(doer: Doer) -> None:
                await doer.context.spawn(Child, name="child")

            with pytest.raises(
                AskCycle, match=r"child \(.*Child.on_start\) -> parent \(Doer.receive of function\)"
            ) as caught:
                await bus.ask("parent", begets)
            assert caught.value.chain == ("child", "parent", "child")
            # Started by somebody else, it is answered.
            await bus.spawn(Child, name="child")

    run(main)


@pytest.mark.parametrize("through", [(), ("other",)], ids=["directly", "through another"])
def test_an_agent_that_asks_itself_while_it_starts_is_told(run: Run, mesh: Mesh, through: tuple[str, ...]) -> None:
    class Starter(Doer):
        async def on_start(self) -> None:
            await route(*through, "starter")(self)

    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "other")
            with pytest.raises(AskCycle, match="ask once 'starter' has started") as caught:
                await bus.spawn(Starter, name="starter", concurrency=4)
            assert set(caught.value.chain) == {"starter", *through}

    run(main)


# What is not refused.


def test_an_agent_with_a_free_slot_may_ask_itself(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "a", concurrency=2)
            assert await bus.ask("a", route("a")) == "a"
            await spawn_all(bus, "b")
            assert await bus.ask("a", route("b", "a")) == "a"
            with pytest.raises(AskCycle):
                await bus.ask("a", route("a", "a"))

    run(main)


def test_whoever_asks_from_outside_handlers_waits(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "a")

            async def sleeps(doer: Doer) -> None:
                await asyncio.sleep(1.0)

            bus.tell("a", sleeps)
            assert await elapsed(bus.ask("a", nothing)) == 1.0

    run(main)


async def _gather(asking: Awaitable[Any]) -> None:
    await asyncio.gather(asking)


async def _group(asking: Awaitable[Any]) -> None:
    async def ask() -> None:
        await asking

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())


async def _task(asking: Awaitable[Any]) -> None:
    await asyncio.ensure_future(asking)


async def _shield(asking: Awaitable[Any]) -> None:
    await asyncio.shield(asyncio.ensure_future(asking))


async def _eager(asking: Awaitable[Any]) -> None:
    async def ask() -> None:
        await asking

    await asyncio.Task(ask(), loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg,unused-ignore]


@pytest.mark.parametrize("how", [_gather, _group, _task, _shield, _eager])
def test_an_ask_in_a_task_of_its_own_is_no_false_alarm(run: Run, mesh: Mesh, how: Any) -> None:
    """The handler need not wait for it; where it does, the timeout ends it."""
    if how is _eager and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")

    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "a")
            caught: list[BaseException] = []

            async def asks(doer: Doer) -> None:
                try:
                    await how(doer.ask("a", nothing, 1.0))
                except* AskTimeout as group:
                    caught.extend(group.exceptions)

            await bus.ask("a", asks)
            assert len(caught) == 1

            # One that nobody waits for is answered once the handler is over.
            tasks: list[asyncio.Future[Any]] = []

            async def goes_on(doer: Doer) -> None:
                tasks.append(asyncio.ensure_future(doer.ask("a", nothing)))
                await asyncio.sleep(1.0)

            await bus.ask("a", goes_on)
            assert await tasks[0] == "a"

    run(main)


def test_an_ask_of_a_busy_agent_that_goes_on_by_itself_is_answered(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "a", "b")

            async def asks_in_between(doer: Doer) -> Any:
                task = asyncio.ensure_future(doer.ask("a", nothing))
                await asyncio.sleep(1.0)
                return task

            # b waits for a only in a task of its own, and is free after a second.
            bus.tell("b", asks_in_between)
            await asyncio.sleep(0.5)
            assert await bus.ask("a", route("b")) == "b"

    run(main)


@pytest.mark.parametrize("end", ["answered", "timed out", "cancelled", "failed"])
def test_an_ask_that_is_over_is_waited_for_no_more(run: Run, mesh: Mesh, end: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await spawn_all(bus, "a", "b")

            async def ends(doer: Doer) -> None:
                if end == "failed":
                    raise LookupError
                await asyncio.sleep({"answered": 0.1, "timed out": 3.0, "cancelled": 3.0}[end])

            async def asks_and_goes_on(doer: Doer) -> None:
                try:
                    async with asyncio.timeout(1.0 if end == "cancelled" else LONG):
                        await doer.ask("b", ends, 1.0 if end == "timed out" else LONG)
                except (TimeoutError, LookupError):
                    pass
                await asyncio.sleep(5.0)

            async def then_b_asks(doer: Doer) -> Any:
                return await doer.ask("a", nothing)

            bus.tell("a", asks_and_goes_on)
            await asyncio.sleep(0.01)
            assert await bus.ask("b", then_b_asks, timeout=LONG) == "a"

    run(main)


def test_a_stopped_agent_says_so_first(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            [a] = await spawn_all(bus, "a")

            async def stops(doer: Doer) -> None:
                doer.context.stop()
                with pytest.raises(AgentStopped):
                    await a.ask(nothing)

            await a.ask(stops)

    run(main)


def test_the_error_can_be_pickled_with_its_chain() -> None:
    error = pickle.loads(pickle.dumps(AskCycle("text", ("a", "b", "a"))))
    assert (str(error), error.chain) == ("text", ("a", "b", "a"))


# Whatever agents ask of each other.


class Script:
    """What a handler does, in turn: sleep for a time that no other sleep lasts, then ask, directly or in a task."""

    def __init__(self, source: random.Random, agents: int, depth: int, hidden: float) -> None:
        self.steps = [
            (
                source.random(),
                f"agent-{source.randrange(agents)}" if depth else None,
                source.random() >= hidden,
                Script(source, agents, depth - 1, hidden) if depth else None,
            )
            for _ in range(source.randint(0, 3 if depth > 2 else 2))
        ]


def play(run: Run, mesh: Mesh, seed: int, *, hidden: float, all_hidden: bool) -> tuple[int, int]:
    """How many asks were refused, and how many timed out, in the scenario of that seed."""
    refused = timed_out = 0

    class Player(Agent):
        @handler
        async def play(self, script: Script) -> None:
            nonlocal refused, timed_out
            for seconds, name, direct, following in script.steps:
                await asyncio.sleep(seconds)
                if name is None:
                    continue
                asking = self.context.coordinator.ask(name, following, timeout=1_000.0)
                try:
                    await (asking if direct and not all_hidden else asyncio.ensure_future(asking))
                except AskCycle:
                    refused += 1
                except AskTimeout:
                    timed_out += 1

    async def main() -> None:
        source = random.Random(seed)
        agents = source.randint(1, 5)
        async with mesh(stall_after=None, drain_timeout=100_000.0) as bus:
            for number in range(agents):
                await bus.spawn(Player, name=f"agent-{number}", concurrency=source.randint(1, 3))
            for _ in range(source.randint(1, 5)):
                bus.tell(f"agent-{source.randrange(agents)}", Script(source, agents, 3, hidden))

    run(main)
    return refused, timed_out


@pytest.mark.parametrize("part", range(2))
def test_asks_are_refused_exactly_where_they_would_time_out(run: Run, mesh: Mesh, part: int) -> None:
    cycles = 0
    for seed in range(part * 100, part * 100 + 100):
        refused, timed_out = play(run, mesh, seed, hidden=0.0, all_hidden=False)
        assert timed_out == 0, f"seed {seed}: {timed_out} asks waited on themselves and were not refused"
        _, without = play(run, mesh, seed, hidden=0.0, all_hidden=True)
        assert bool(refused) == bool(without), f"seed {seed}: {refused} refused, {without} would have timed out"
        cycles += bool(refused)
    assert 10 < cycles < 90


@pytest.mark.parametrize("part", range(2))
def test_beside_asks_in_tasks_none_is_refused_that_would_be_answered(run: Run, mesh: Mesh, part: int) -> None:
    cycles = 0
    for seed in range(part * 100, part * 100 + 100):
        refused, _ = play(run, mesh, seed, hidden=0.4, all_hidden=False)
        _, without = play(run, mesh, seed, hidden=0.4, all_hidden=True)
        assert without or not refused, f"seed {seed}: {refused} refused, and none would have timed out"
        cycles += bool(refused)
    assert cycles > 5
